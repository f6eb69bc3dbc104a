//! Execution ids: UUIDv7s that ascend with the clock, and follow it back after it was ahead.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use uuid::{ContextV7, Timestamp, Uuid};

/// Ids keep ascending while the clock goes back by less than this: time servers adjust clocks in small steps.
const SMALL_STEP: Duration = Duration::from_secs(5);

static IDS: Mutex<ExecutionIds> = Mutex::new(ExecutionIds::new());

/// A new id.
pub(super) fn next() -> Uuid {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    IDS.lock().unwrap_or_else(PoisonError::into_inner).at(now)
}

/// Makes ids. `Uuid::now_v7` does not do: after the clock was a year ahead for a moment, all its later ids
/// would say next year.
struct ExecutionIds {
    context: ContextV7,
    /// The latest time, since the Unix epoch, that `context` has seen.
    latest: Duration,
}

impl ExecutionIds {
    const fn new() -> Self {
        Self { context: ContextV7::new(), latest: Duration::ZERO }
    }

    /// The next id, at this time since the Unix epoch.
    fn at(&mut self, now: Duration) -> Uuid {
        if now + SMALL_STEP < self.latest {
            // A fresh context begins at a random count, so its ids differ from those made at this time before.
            *self = Self::new();
        }
        self.latest = self.latest.max(now);
        Uuid::new_v7(Timestamp::from_unix(&self.context, now.as_secs(), now.subsec_nanos()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const NOW: Duration = Duration::from_hours(500_000);
    const YEAR: Duration = Duration::from_hours(24 * 365);

    fn time_of(id: Uuid) -> Duration {
        let (seconds, nanos) = id.get_timestamp().unwrap().to_unix();
        Duration::new(seconds, nanos)
    }

    #[test]
    fn ids_follow_the_clock_again_after_it_was_a_year_ahead() {
        let mut ids = ExecutionIds::new();
        ids.at(NOW);
        assert_eq!(time_of(ids.at(NOW + YEAR)), NOW + YEAR);
        let back = NOW + Duration::from_secs(2);
        assert_eq!(time_of(ids.at(back)), back);
    }

    #[test]
    fn ids_ascend_while_the_clock_stands_or_goes_back_a_little() {
        let mut ids = ExecutionIds::new();
        let times = [NOW, NOW, NOW + SMALL_STEP, NOW, NOW, NOW + Duration::from_millis(1)];
        let made: Vec<Uuid> = times.iter().map(|now| ids.at(*now)).collect();
        assert!(made.is_sorted_by(|a, b| a < b), "{made:?}");
    }

    #[test]
    fn ids_differ_though_the_clock_shows_the_same_time_twice() {
        let mut ids = ExecutionIds::new();
        let mut made = HashSet::new();
        for _ in 0..1000 {
            assert!(made.insert(ids.at(NOW)));
            assert!(made.insert(ids.at(NOW + YEAR)));
        }
    }
}
