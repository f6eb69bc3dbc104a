//! The breaker of an endpoint: after too many failures in a row, one call at a time probes it.

use std::time::{Duration, Instant};

use super::schedule::{LONGEST_RETRY_AFTER, spread};

/// Failures in a row that open the breaker: as many as calls at once.
const FAILURES: u32 = 8;

/// The first pause.
const SHORTEST_PAUSE: Duration = Duration::from_secs(5);

/// The longest pause. A receiver that works again waits so long at most.
const LONGEST_PAUSE: Duration = Duration::from_mins(5);

/// A pause lasts this part of the time for which the endpoint has failed.
const SHARE_OF_FAILING: u32 = 4;

/// An endpoint that takes no event for this long is disabled.
const PATIENCE: Duration = Duration::from_hours(5 * 24);

/// Calls that may begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Permit {
    /// As many as there is room for.
    Calls,
    /// One, while no other is running.
    Probe,
    /// None.
    Nothing,
}

/// Stops calls to an endpoint that fails.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Breaker {
    failures_in_a_row: u32,
    /// The first failure since the last success.
    failing: Option<Failing>,
    /// Open: no call before then, and afterwards one at a time until one succeeds.
    open_until: Option<Instant>,
}

#[derive(Debug, Clone, Copy)]
struct Failing {
    since: Instant,
    /// Time before `since`. An [`Instant`] cannot lie before the start of the machine.
    before: Duration,
}

impl Breaker {
    /// The breaker of an endpoint that has failed for this long, and is not called for another while.
    pub(super) fn restored(
        now: Instant,
        failing: Option<Duration>,
        pause: Option<Duration>,
    ) -> Self {
        let failing = failing.map(|before| Failing { since: now, before });
        let probes = failing.is_some() || pause.is_some();
        Self {
            failures_in_a_row: 0,
            failing,
            open_until: probes.then(|| now + pause.unwrap_or_default()),
        }
    }

    pub(super) fn permit(&self, now: Instant) -> Permit {
        match self.open_until {
            None => Permit::Calls,
            Some(until) if until <= now => Permit::Probe,
            Some(_) => Permit::Nothing,
        }
    }

    /// The end of the pause, while the breaker is open.
    pub(super) fn open_until(&self) -> Option<Instant> {
        self.open_until
    }

    /// The time without a success, since the first call that failed.
    pub(super) fn failing_for(&self, now: Instant) -> Option<Duration> {
        self.failing.map(|failing| failing.before + (now - failing.since))
    }

    /// Returns whether the endpoint has failed for so long that it is disabled.
    pub(super) fn is_hopeless(&self, now: Instant) -> bool {
        self.failing_for(now).is_some_and(|failing| failing >= PATIENCE)
    }

    pub(super) fn succeeded(&mut self) {
        *self = Self::default();
    }

    /// Notes a failure. A receiver that asks for a pause gets it at once. `random` is between 0 and 1.
    pub(super) fn failed(&mut self, now: Instant, retry_after: Option<Duration>, random: f64) {
        self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
        self.failing.get_or_insert(Failing { since: now, before: Duration::ZERO });
        let probed = self.open_until.is_some_and(|until| until <= now);
        if probed || self.failures_in_a_row >= FAILURES {
            let share = self.failing_for(now).unwrap_or_default() / SHARE_OF_FAILING;
            self.open(now + spread(share.clamp(SHORTEST_PAUSE, LONGEST_PAUSE), random));
        }
        if let Some(asked) = retry_after {
            self.open(now + asked.min(LONGEST_RETRY_AFTER));
        }
    }

    fn open(&mut self, until: Instant) {
        self.open_until = self.open_until.max(Some(until));
    }

    /// Ends the pause, because the endpoint was changed.
    pub(super) fn probe_now(&mut self, now: Instant) {
        self.open_until = self.open_until.map(|until| until.min(now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn failing(count: u32, now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..count {
            breaker.failed(now, None, 0.5);
        }
        breaker
    }

    #[test]
    fn eight_failures_in_a_row_open_it_and_one_success_closes_it() {
        let now = Instant::now();
        assert_eq!(failing(7, now).permit(now), Permit::Calls);
        let mut breaker = failing(8, now);
        assert_eq!(breaker.permit(now + 4 * SECOND), Permit::Nothing);
        assert_eq!(breaker.permit(now + 5 * SECOND), Permit::Probe);
        breaker.succeeded();
        assert_eq!(breaker.permit(now), Permit::Calls);
        assert_eq!(breaker.failing_for(now), None);
    }

    #[test]
    fn its_pauses_grow_with_the_time_of_failing_to_five_minutes() {
        let mut now = Instant::now();
        let mut breaker = failing(8, now);
        let mut last = Duration::ZERO;
        for _ in 0..40 {
            now = breaker.open_until().unwrap_or(now);
            breaker.failed(now, None, 0.5);
            let pause = breaker.open_until().unwrap_or(now) - now;
            assert!(pause >= last && pause <= LONGEST_PAUSE, "{pause:?}");
            last = pause;
        }
        assert_eq!(last, LONGEST_PAUSE);
    }

    #[test]
    fn a_receiver_that_asks_for_a_pause_gets_it_up_to_an_hour() {
        let now = Instant::now();
        let mut breaker = Breaker::default();
        breaker.failed(now, Some(90 * SECOND), 0.5);
        assert_eq!(breaker.permit(now + 89 * SECOND), Permit::Nothing);
        assert_eq!(breaker.permit(now + 90 * SECOND), Permit::Probe);
        breaker.failed(now, Some(Duration::from_hours(9)), 0.5);
        assert_eq!(breaker.open_until(), Some(now + Duration::from_hours(1)));
    }

    #[test]
    fn an_endpoint_is_hopeless_after_five_days_of_failures() {
        let now = Instant::now();
        let failing_for_119_hours = Breaker::restored(now, Some(Duration::from_hours(119)), None);
        assert!(!failing_for_119_hours.is_hopeless(now + 3599 * SECOND));
        assert!(failing_for_119_hours.is_hopeless(now + 3600 * SECOND));
        assert!(!Breaker::default().is_hopeless(now + Duration::from_hours(300)));
    }

    #[test]
    fn a_restored_breaker_keeps_its_pause_and_probes_first() {
        let now = Instant::now();
        let breaker = Breaker::restored(now, Some(SECOND), Some(3 * SECOND));
        assert_eq!(breaker.permit(now), Permit::Nothing);
        assert_eq!(breaker.permit(now + 3 * SECOND), Permit::Probe);
        assert_eq!(Breaker::restored(now, Some(SECOND), None).permit(now), Permit::Probe);
        assert_eq!(Breaker::restored(now, None, None).permit(now), Permit::Calls);
    }
}
