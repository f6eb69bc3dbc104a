//! When a failed delivery is attempted again.

use std::time::Duration;

/// Pauses before the second attempt, the third, and so on. After the last one the event is parked.
const PAUSES: [Duration; 11] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(2),
    Duration::from_hours(4),
    Duration::from_hours(8),
    Duration::from_hours(12),
    Duration::from_hours(24),
];

/// The longest `Retry-After` that is honoured.
pub(super) const LONGEST_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Pauses are this much shorter or longer at most, so that retries do not come all at once.
const SPREAD: f64 = 0.2;

/// The pause before the next attempt, or `None` if the event is parked. `random` is between 0 and 1.
pub(super) fn pause(attempts: u16, retry_after: Option<Duration>, random: f64) -> Option<Duration> {
    let planned = PAUSES.get(usize::from(attempts).checked_sub(1)?)?;
    let asked = retry_after.unwrap_or_default().min(LONGEST_RETRY_AFTER);
    Some(spread(*planned, random).max(asked))
}

/// A duration up to a fifth shorter or longer.
pub(super) fn spread(duration: Duration, random: f64) -> Duration {
    duration.mul_f64(1.0 - SPREAD + 2.0 * SPREAD * random)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn eleven_retries_take_two_days_and_then_the_event_is_parked() {
        let planned: Vec<_> =
            (1..=11).map(|attempts| pause(attempts, None, 0.5).unwrap_or_default()).collect();
        assert_eq!(planned, PAUSES);
        let sum: Duration = planned.iter().sum();
        assert!(sum > Duration::from_hours(48) && sum < Duration::from_hours(54), "{sum:?}");
        assert_eq!(pause(12, None, 0.5), None);
        assert_eq!(pause(12, Some(Duration::from_secs(9)), 0.5), None);
    }

    proptest! {
        #[test]
        fn a_pause_differs_by_a_fifth_at_most_and_honours_retry_after(
            attempts in 1_u16..=11,
            retry_after in proptest::option::of(0_u64..100_000),
            random in 0.0..1.0,
        ) {
            let planned = PAUSES[usize::from(attempts) - 1];
            let asked = retry_after.map(Duration::from_secs);
            let pause = pause(attempts, asked, random).unwrap_or_default();
            let bounds = planned.mul_f64(0.8)..=planned.mul_f64(1.2);
            let honoured = asked.unwrap_or_default().min(LONGEST_RETRY_AFTER);
            prop_assert!(pause >= honoured);
            prop_assert!(bounds.contains(&pause) || pause == honoured);
        }
    }
}
