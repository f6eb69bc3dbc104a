//! The result of a storm.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use thiserror::Error;

use super::{client::Traffic, reconcile::Reconciled, workload::Observed};

/// The result of a storm, as JSON has it.
#[derive(Debug, Serialize)]
pub struct Report {
    /// True if every payment was made exactly once, and everything could be checked.
    pub exactly_once: bool,
    /// Payments that were intended: fewer than planned if the storm gave up.
    pub intended: u64,
    /// Payments of this storm that exist; `null` if they could not be read.
    pub found: Option<usize>,
    /// Payments that were created more than once, by the responses or the lists.
    pub duplicates: usize,
    /// Payments that a response confirmed and that do not exist; `null` if they could not be read.
    pub lost: Option<usize>,
    /// Requests sent.
    pub requests: u64,
    /// Requests repeated after a failure or a response that is not final.
    pub retries: u64,
    /// Requests aborted on purpose.
    pub hang_ups: u64,
    /// Responses that were replays.
    pub replays: u64,
    /// Refusals of another payment with a used key.
    pub reuses_refused: u64,
    /// Responses by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Latency of final responses in milliseconds.
    pub latency_ms: Latency,
    /// Duration of the storm in seconds, without reading back.
    pub seconds: f64,
    /// Requests without a final response within the patience, in words.
    pub unanswered: Vec<String>,
    /// Broken promises, in words.
    pub broken: Vec<String>,
}

/// Percentiles.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// The 95th.
    pub p95: f64,
    /// The 99th.
    pub p99: f64,
    /// The longest.
    pub longest: f64,
}

/// The failure of a storm.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotExactlyOnce {
    /// A promise was broken.
    #[error("PROMISES WERE BROKEN")]
    Broken,
    /// The outcome is not known.
    #[error(
        "some requests got no final response, so it is not known whether every payment was made exactly once"
    )]
    Unanswered,
}

impl Report {
    pub(super) fn new(
        intended: u64,
        reconciled: Result<Reconciled, String>,
        observed: Observed,
        traffic: Traffic,
        took: Duration,
    ) -> Self {
        let Observed {
            hang_ups, replays, reuses_refused, mut unanswered, duplicated, broken, ..
        } = observed;
        let Traffic { requests, retries, statuses, latencies } = traffic;
        let reconciled = reconciled.map_err(|why| unanswered.push(why)).ok();
        Self {
            exactly_once: broken.is_empty() && unanswered.is_empty(),
            intended,
            found: reconciled.as_ref().map(|reconciled| reconciled.found),
            duplicates: duplicated.len(),
            lost: reconciled.as_ref().map(|reconciled| reconciled.lost),
            requests,
            retries,
            hang_ups,
            replays,
            reuses_refused,
            statuses,
            latency_ms: Latency::of(latencies),
            seconds: rounded(took.as_secs_f64()),
            unanswered,
            broken,
        }
    }

    /// The verdict on the storm.
    ///
    /// # Errors
    ///
    /// When a payment was not made exactly once, or that is not known.
    pub fn verdict(&self) -> Result<(), NotExactlyOnce> {
        match (self.broken.is_empty(), self.unanswered.is_empty()) {
            (false, _) => Err(NotExactlyOnce::Broken),
            (true, false) => Err(NotExactlyOnce::Unanswered),
            (true, true) => Ok(()),
        }
    }
}

impl Latency {
    fn of(mut latencies: Vec<Duration>) -> Self {
        latencies.sort_unstable();
        let per_mille = |share: usize| {
            let place = (latencies.len() * share / 1000).min(latencies.len().saturating_sub(1));
            let latency = latencies.get(place).copied().unwrap_or_default();
            rounded(latency.as_secs_f64() * 1e3)
        };
        Self {
            p50: per_mille(500),
            p95: per_mille(950),
            p99: per_mille(990),
            longest: per_mille(1000),
        }
    }
}

/// One decimal is enough.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
