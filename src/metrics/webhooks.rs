//! The work of webhooks: attempts, and how far endpoints are behind.

use std::time::Duration;

use prometheus::{Gauge, Histogram, IntCounter, IntGauge, Registry};

use super::{
    SECONDS, counter, gauge, histogram,
    labels::{Counters, Label},
};
use crate::webhooks::{Heard, endpoint::DisabledReason};

/// The outcome of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attempt {
    /// A 2xx.
    Delivered,
    /// Another status.
    Refused,
    /// No response.
    Failed,
}

impl Attempt {
    /// Classifies what was heard.
    #[must_use]
    pub fn of(heard: &Heard) -> Self {
        match heard {
            Heard::Accepted(_) => Self::Delivered,
            Heard::Refused { .. } => Self::Refused,
            Heard::Failed(_) => Self::Failed,
        }
    }
}

impl Label for Attempt {
    const NAME: &'static str = "outcome";
    const ALL: &'static [Self] = &[Self::Delivered, Self::Refused, Self::Failed];

    fn value(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Refused => "refused",
            Self::Failed => "failed",
        }
    }
}

impl Label for DisabledReason {
    const NAME: &'static str = "reason";
    const ALL: &'static [Self] = &[Self::Gone, Self::Failing];

    fn value(self) -> &'static str {
        self.name()
    }
}

/// All endpoints of the database, as a server last saw them.
#[derive(Debug, Clone, Copy, Default, sqlx::FromRow)]
pub struct Endpoints {
    /// Enabled ones.
    pub enabled: i64,
    /// Enabled ones whose last call failed.
    pub failing: i64,
    /// Enabled ones whose secret this server cannot decrypt.
    pub undecryptable: i64,
    /// The most events that an endpoint is behind. Endpoints that fail themselves do not count.
    pub most_behind: i64,
    /// The sum of the events that endpoints are behind.
    pub behind: i64,
    /// The age of the oldest undelivered event, in seconds.
    pub oldest: f64,
    /// Failed deliveries that are attempted again.
    pub open_failures: i64,
    /// Failed deliveries that only a replay repeats.
    pub parked: i64,
}

/// The counters; cheap to clone.
#[derive(Clone)]
pub struct Webhooks {
    attempts: Counters<Attempt>,
    duration: Histogram,
    parked: IntCounter,
    disabled: Counters<DisabledReason>,
    lost: IntCounter,
    leased: IntGauge,
    enabled: IntGauge,
    failing: IntGauge,
    undecryptable: IntGauge,
    most_behind: IntGauge,
    behind: IntGauge,
    oldest: Gauge,
    open_failures: IntGauge,
    parked_now: IntGauge,
}

impl Webhooks {
    pub(super) fn new(registry: &Registry) -> prometheus::Result<Self> {
        let of_all = |name, help| gauge(registry, name, help);
        Ok(Self {
            attempts: Counters::new(
                registry,
                "payonce_webhook_attempts_total",
                "Calls of webhook endpoints, by outcome: delivered (2xx), refused (another status), failed (no response).",
            )?,
            duration: histogram(
                registry,
                "payonce_webhook_attempt_duration_seconds",
                "Duration of a call of a webhook endpoint.",
                &SECONDS,
            )?,
            parked: counter(
                registry,
                "payonce_webhook_events_parked_total",
                "Events that an endpoint did not take in any attempt.",
            )?,
            disabled: Counters::new(
                registry,
                "payonce_webhook_endpoints_disabled_total",
                "Endpoints that this server disabled, by reason.",
            )?,
            lost: counter(
                registry,
                "payonce_webhook_events_lost_total",
                "Events that expired before they were delivered.",
            )?,
            leased: of_all(
                "payonce_webhook_endpoints_leased",
                "Endpoints that this server delivers to.",
            )?,
            enabled: of_all("payonce_webhook_endpoints", "Enabled endpoints in the database.")?,
            failing: of_all(
                "payonce_webhook_endpoints_failing",
                "Enabled endpoints in the database whose last call failed.",
            )?,
            undecryptable: of_all(
                "payonce_webhook_endpoints_undecryptable",
                "Enabled endpoints in the database whose signing secret this server cannot decrypt.",
            )?,
            most_behind: of_all(
                "payonce_webhook_lag_max_events",
                "The most events that an endpoint is behind, among those whose last call did not fail.",
            )?,
            behind: of_all(
                "payonce_webhook_lag_sum_events",
                "Events that all endpoints are behind, without those whose last call failed.",
            )?,
            oldest: gauge(
                registry,
                "payonce_webhook_lag_max_seconds",
                "Age of the oldest event that an endpoint waits for, among those whose last call did not fail.",
            )?,
            open_failures: of_all(
                "payonce_webhook_failures_open",
                "Failed deliveries in the database that are attempted again.",
            )?,
            parked_now: of_all(
                "payonce_webhook_failures_parked",
                "Failed deliveries in the database that only a replay repeats.",
            )?,
        })
    }

    /// Counts a call.
    pub fn attempted(&self, attempt: Attempt, took: Duration) {
        self.attempts.count(attempt);
        self.duration.observe(took.as_secs_f64());
    }

    /// Counts an event that is not attempted any more.
    pub fn parked(&self) {
        self.parked.inc();
    }

    /// Counts an endpoint that is disabled.
    pub fn disabled(&self, reason: DisabledReason) {
        self.disabled.count(reason);
    }

    /// Counts events that expired before they were delivered.
    pub fn lost(&self, events: i64) {
        self.lost.inc_by(u64::try_from(events).unwrap_or(0));
    }

    /// Notes how many endpoints this server delivers to.
    pub fn leased(&self, endpoints: usize) {
        self.leased.set(i64::try_from(endpoints).unwrap_or(i64::MAX));
    }

    /// Notes the state of all endpoints.
    pub fn saw(&self, endpoints: &Endpoints) {
        self.enabled.set(endpoints.enabled);
        self.failing.set(endpoints.failing);
        self.undecryptable.set(endpoints.undecryptable);
        self.most_behind.set(endpoints.most_behind);
        self.behind.set(endpoints.behind);
        self.oldest.set(endpoints.oldest);
        self.open_failures.set(endpoints.open_failures);
        self.parked_now.set(endpoints.parked);
    }
}
