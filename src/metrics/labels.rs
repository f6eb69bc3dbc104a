//! Labels whose values are known beforehand.

use std::marker::PhantomData;

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

use super::registered;
use crate::idempotency::{Failure, Outcome, Remedy, Resolution, Step};

/// A label, by the type of its values.
pub(super) trait Label: Copy + 'static {
    const NAME: &'static str;
    const ALL: &'static [Self];

    fn value(self) -> &'static str;
}

impl Label for Step {
    const NAME: &'static str = "step";
    const ALL: &'static [Self] = Self::ALL;

    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for Remedy {
    const NAME: &'static str = "remedy";
    const ALL: &'static [Self] = Self::ALL;

    fn value(self) -> &'static str {
        self.name()
    }
}

impl Label for Resolution {
    const NAME: &'static str = "resolution";
    const ALL: &'static [Self] = Self::ALL;

    fn value(self) -> &'static str {
        self.name()
    }
}

/// The outcome of a request with a key, for metrics and the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyedOutcome {
    /// Executed.
    New,
    /// Executed, and refused by the rules of the business.
    Refused,
    /// Answered from the stored response.
    Replayed,
    /// The key belongs to a different request.
    Reused,
    /// The key's response has expired.
    Expired,
    /// The key is void.
    Voided,
    /// Another server executes the key.
    InFlight,
    /// The queue is full, or the database lacks a resource.
    Overloaded,
    /// The account's share of the queue is full.
    Throttled,
    /// The database is unavailable, the outcome is unknown, or the program has a defect.
    Failed,
}

impl Label for KeyedOutcome {
    const NAME: &'static str = "outcome";
    const ALL: &'static [Self] = &[
        Self::New,
        Self::Refused,
        Self::Replayed,
        Self::Reused,
        Self::Expired,
        Self::Voided,
        Self::InFlight,
        Self::Overloaded,
        Self::Throttled,
        Self::Failed,
    ];

    fn value(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Refused => "refused",
            Self::Replayed => "replayed",
            Self::Reused => "reused",
            Self::Expired => "expired",
            Self::Voided => "voided",
            Self::InFlight => "in_flight",
            Self::Overloaded => "overloaded",
            Self::Throttled => "throttled",
            Self::Failed => "failed",
        }
    }
}

impl KeyedOutcome {
    /// Classifies what a caller hears.
    #[must_use]
    pub fn of(answer: &Result<Outcome, Failure>) -> Self {
        match answer {
            Ok(Outcome::New { response, .. }) if response.status() >= 400 => Self::Refused,
            Ok(Outcome::New { .. }) => Self::New,
            Ok(Outcome::Replay { .. }) => Self::Replayed,
            Ok(Outcome::Reused { .. }) => Self::Reused,
            Ok(Outcome::Expired { .. }) => Self::Expired,
            Ok(Outcome::Voided) => Self::Voided,
            Ok(Outcome::InFlight) => Self::InFlight,
            Err(Failure::Overloaded | Failure::OutOfResources) => Self::Overloaded,
            Err(Failure::ShareExceeded) => Self::Throttled,
            Err(
                Failure::DatabaseUnavailable
                | Failure::Locked
                | Failure::Conflict
                | Failure::ConnectionLost
                | Failure::TimedOut
                | Failure::OutcomeUnknown
                | Failure::Internal(_),
            ) => Self::Failed,
        }
    }

    /// The outcome as metrics and log lines name it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.value()
    }
}

/// A counter for each value of a label. All are shown from the start, because Prometheus takes no notice of the
/// first rise of a counter that appears with it.
#[derive(Clone)]
pub(super) struct Counters<L>(IntCounterVec, PhantomData<L>);

impl<L: Label> Counters<L> {
    pub(super) fn new(registry: &Registry, name: &str, help: &str) -> prometheus::Result<Self> {
        let counters = IntCounterVec::new(Opts::new(name, help), &[L::NAME])?;
        let counters = Self(registered(registry, counters)?, PhantomData);
        for label in L::ALL {
            counters.of(*label);
        }
        Ok(counters)
    }

    pub(super) fn count(&self, label: L) {
        self.of(label).inc();
    }

    fn of(&self, label: L) -> IntCounter {
        self.0.with_label_values(&[label.value()])
    }
}
