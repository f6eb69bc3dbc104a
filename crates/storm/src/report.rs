//! What a storm comes to.

use std::{collections::BTreeMap, time::Duration};

use serde::Serialize;
use thiserror::Error;

use super::{books::Books, client::Traffic, intents::Heard};

/// What a storm came to, as programs are told.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether every promise was kept, as far as could be seen, and all could be seen.
    pub exactly_once: bool,
    /// Payments that were intended: fewer than was asked for, where the storm was given up.
    pub intended: u64,
    /// Payments that are there, of all those that may be this storm's; `null` where they can't be read.
    pub found: Option<usize>,
    /// Payments that were made, or answered, as more than one.
    pub duplicates: usize,
    /// Payments that were answered and aren't there; `null` where they can't be read.
    pub lost: Option<usize>,
    /// Requests that were sent.
    pub requests: u64,
    /// Those of them that were sent again, after a failure or an answer that said so.
    pub retries: u64,
    /// Those of them that were given up in the middle.
    pub hang_ups: u64,
    /// Answers that said of a payment that it was made before.
    pub replays: u64,
    /// Refusals of another payment with a key that was used up.
    pub reuses_refused: u64,
    /// Answers by their status.
    pub statuses: BTreeMap<u16, u64>,
    /// How long final answers took, in milliseconds.
    pub latency_ms: Latency,
    /// How long all of it was sent, in seconds.
    pub seconds: f64,
    /// What was not answered within the patience that there was, in words.
    pub unanswered: Vec<String>,
    /// Promises that were broken, in words.
    pub broken: Vec<String>,
}

/// Percentiles.
#[derive(Debug, Serialize)]
pub struct Latency {
    /// The median.
    pub p50: f64,
    /// 19 of 20 took no longer.
    pub p95: f64,
    /// 99 of 100 took no longer.
    pub p99: f64,
    /// All took no longer.
    pub longest: f64,
}

/// Why it can't be said that every payment was made exactly once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotExactlyOnce {
    /// It isn't so.
    #[error("PROMISES WERE BROKEN")]
    Broken,
    /// Nobody knows.
    #[error(
        "not everything was answered in time, so that it can't be said whether every payment was made \
         exactly once"
    )]
    Unanswered,
}

impl Report {
    pub(super) fn new(
        intended: u64,
        books: Result<Books, String>,
        heard: Heard,
        traffic: Traffic,
        took: Duration,
    ) -> Self {
        let Heard { hang_ups, replays, reuses_refused, mut unanswered, twice, broken, .. } = heard;
        let Traffic { requests, retries, statuses, latencies } = traffic;
        let books = books.map_err(|why| unanswered.push(why)).ok();
        Self {
            exactly_once: broken.is_empty() && unanswered.is_empty(),
            intended,
            found: books.as_ref().map(|books| books.found),
            duplicates: twice.len(),
            lost: books.as_ref().map(|books| books.lost),
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

    /// Whether every payment was made exactly once.
    ///
    /// # Errors
    ///
    /// When it was not, or when that can't be said.
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

/// As exact as anybody reads it.
fn rounded(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}
