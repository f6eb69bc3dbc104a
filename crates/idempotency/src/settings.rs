//! The settings of an engine, and how they relate to each other.

use std::{fmt::Debug, time::Duration};

use thiserror::Error;

/// PostgreSQL takes a time-out below a millisecond for none at all, and time-outs are fractions of the deadline.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(10);

/// The sweeper relies on it: no transaction is open for longer.
pub(super) const LONGEST_DEADLINE: Duration = Duration::from_hours(1);

/// PostgreSQL has no date for the end of a much longer one.
const LONGEST_TTL: Duration = Duration::from_hours(1000 * 365 * 24);

/// The limits and time-outs of an [`Engine`](super::Engine).
#[derive(Debug, Clone)]
pub struct Settings {
    /// The committers: connections that commit, each with its own queue. A key always goes to the same one.
    pub committers: usize,
    /// Commands in one transaction at most.
    pub max_batch: usize,
    /// Keys that wait or are being executed at most, in all queues together.
    pub queue_limit: usize,
    /// Keys of one account that wait or are being executed at most; `None`: three quarters of `queue_limit`. An
    /// account may have [`DUPLICATES_PER_KEY`](super::DUPLICATES_PER_KEY) times as many duplicates of them.
    pub account_queue_limit: Option<usize>,
    /// The time until a caller gets its outcome, 10 ms to an hour. Time-outs towards PostgreSQL are fractions of
    /// it; connecting alone may take a second in any case.
    pub request_deadline: Duration,
    /// The time that a command waits for its key that another server is executing; less than the deadline.
    pub in_flight_wait: Duration,
    /// The time that the response of a success can be replayed, more than the deadline; `None`: as long as its key.
    pub response_ttl: Option<Duration>,
    /// The time that a key stays used, more than the deadline and at least `response_ttl`; `None`: permanently.
    pub key_ttl: Option<Duration>,
    /// Announce executions with success, by a row in the table `announcements` for each transaction. Something has to
    /// read and delete these rows.
    pub announce: bool,
    /// Work on a PostgreSQL that may lose what it has acknowledged: with `synchronous_commit`, `fsync` or
    /// `full_page_writes` off.
    pub allow_asynchronous_commit: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            committers: 1,
            max_batch: 512,
            queue_limit: 4096,
            account_queue_limit: None,
            request_deadline: Duration::from_secs(10),
            in_flight_wait: Duration::from_secs(2),
            response_ttl: Some(Duration::from_hours(24)),
            key_ttl: None,
            announce: false,
            allow_asynchronous_commit: false,
        }
    }
}

/// Settings that contradict each other, or a limit of the layer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0}")]
pub struct InvalidSettings(String);

impl Settings {
    /// Keys of one account that wait or are being executed at most.
    pub(super) fn account_limit(&self) -> usize {
        self.account_queue_limit.unwrap_or(self.queue_limit - self.queue_limit / 4)
    }

    /// Checks that the settings fit together.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), InvalidSettings> {
        at_least("committers", self.committers, "", 1)?;
        at_least("max_batch", self.max_batch, "", 1)?;
        at_least("queue_limit", self.queue_limit, "", 1)?;
        if let Some(limit) = self.account_queue_limit {
            at_least("account_queue_limit", limit, "", 1)?;
            at_least("queue_limit", self.queue_limit, "account_queue_limit", limit)?;
        }
        let deadline = self.request_deadline;
        at_least("request_deadline", deadline, "", SHORTEST_DEADLINE)?;
        at_most("request_deadline", deadline, "", LONGEST_DEADLINE)?;
        more_than("request_deadline", deadline, "in_flight_wait", self.in_flight_wait)?;
        for (name, ttl) in [("response_ttl", self.response_ttl), ("key_ttl", self.key_ttl)] {
            if let Some(ttl) = ttl {
                more_than(name, ttl, "request_deadline", deadline)?;
                at_most(name, ttl, "", LONGEST_TTL)?;
            }
        }
        match (self.key_ttl, self.response_ttl) {
            (Some(key), Some(response)) => at_least("key_ttl", key, "response_ttl", response),
            _ => Ok(()),
        }
    }
}

/// A setting, and the other setting, or the constant, that it is compared with.
fn demand<T: Debug>(
    holds: bool,
    (name, value): (&str, T),
    relation: &str,
    (other_name, other): (&str, T),
) -> Result<(), InvalidSettings> {
    let other = match other_name {
        "" => format!("{other:?}"),
        name => format!("{name} ({other:?})"),
    };
    let message = || InvalidSettings(format!("{name} ({value:?}) must be {relation} {other}"));
    holds.then_some(()).ok_or_else(message)
}

fn at_least<T: Debug + PartialOrd>(
    name: &str,
    value: T,
    other_name: &str,
    other: T,
) -> Result<(), InvalidSettings> {
    demand(value >= other, (name, value), "at least", (other_name, other))
}

fn at_most<T: Debug + PartialOrd>(
    name: &str,
    value: T,
    other_name: &str,
    other: T,
) -> Result<(), InvalidSettings> {
    demand(value <= other, (name, value), "at most", (other_name, other))
}

fn more_than<T: Debug + PartialOrd>(
    name: &str,
    value: T,
    other_name: &str,
    other: T,
) -> Result<(), InvalidSettings> {
    demand(value > other, (name, value), "more than", (other_name, other))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_hours(1);
    const DAY: Duration = Duration::from_hours(24);

    #[test]
    fn settings_that_fit_together_are_accepted() {
        let valid = Settings::default();
        assert_eq!(valid.check(), Ok(()));
        let ttls = [(None, None), (Some(DAY), Some(DAY)), (None, Some(DAY)), (Some(DAY), None)];
        for (response_ttl, key_ttl) in ttls {
            assert_eq!(Settings { response_ttl, key_ttl, ..valid.clone() }.check(), Ok(()));
        }
    }

    #[test]
    fn settings_that_contradict_each_other_are_refused_by_their_names() {
        let valid = Settings::default;
        for (settings, message) in [
            (Settings { committers: 0, ..valid() }, "committers (0) must be at least 1"),
            (Settings { max_batch: 0, ..valid() }, "max_batch (0) must be at least 1"),
            (
                Settings { queue_limit: 4, account_queue_limit: Some(5), ..valid() },
                "queue_limit (4) must be at least account_queue_limit (5)",
            ),
            (
                Settings { request_deadline: Duration::from_millis(9), ..valid() },
                "request_deadline (9ms) must be at least 10ms",
            ),
            (
                Settings { request_deadline: 2 * HOUR, ..valid() },
                "request_deadline (7200s) must be at most 3600s",
            ),
            (
                Settings { in_flight_wait: Duration::from_secs(10), ..valid() },
                "request_deadline (10s) must be more than in_flight_wait (10s)",
            ),
            (
                Settings { response_ttl: Some(Duration::from_secs(10)), ..valid() },
                "response_ttl (10s) must be more than request_deadline (10s)",
            ),
            (
                Settings { key_ttl: Some(HOUR), ..valid() },
                "key_ttl (3600s) must be at least response_ttl (86400s)",
            ),
            (
                Settings { response_ttl: None, key_ttl: Some(Duration::ZERO), ..valid() },
                "key_ttl (0ns) must be more than request_deadline (10s)",
            ),
        ] {
            assert_eq!(settings.check().unwrap_err().to_string(), message);
        }
        let endless = Settings { response_ttl: Some(Duration::MAX), ..valid() };
        assert!(endless.check().is_err());
    }
}
