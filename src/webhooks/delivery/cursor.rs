//! The progress of an endpoint's deliveries: a position, and the events after it that are done.

/// Events after the position that may be begun, one bit each.
pub(super) const WINDOW: i64 = 64;

/// All events up to `position` are done, and some of the next 64. An event is done when it is delivered, filtered out,
/// or stored as a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) position: i64,
    /// Bit n: the event at `position + 1 + n` is done.
    pub(super) done: u64,
}

impl Cursor {
    /// A cursor behind which nothing is done.
    pub(super) const fn at(position: i64) -> Self {
        Self { position, done: 0 }
    }

    /// The cursor of a reader that has read up to `read_to`, where these events, in order, are not done. Everything
    /// that is done in `earlier`, a cursor before this one, stays done.
    pub(super) fn of(open: impl Iterator<Item = i64> + Clone, read_to: i64, earlier: Self) -> Self {
        let position = open.clone().next().map_or(read_to, |first| first - 1).max(earlier.position);
        let behind = u32::try_from((read_to - position).clamp(0, WINDOW)).unwrap_or(0);
        let read = 1_u64.checked_shl(behind).map_or(u64::MAX, |bit| bit - 1);
        let open = open.map_while(|open| bit(position, open)).fold(0, |all, bit| all | bit);
        let shift = u32::try_from(position - earlier.position).unwrap_or(0);
        let earlier = earlier.done.checked_shr(shift).unwrap_or(0);
        let done = (read & !open) | earlier;
        let advance = done.trailing_ones();
        Self {
            position: position + i64::from(advance),
            done: done.checked_shr(advance).unwrap_or(0),
        }
    }

    /// Returns whether an event is done.
    pub(super) fn is_done(self, position: i64) -> bool {
        position <= self.position
            || bit(self.position, position).is_some_and(|bit| self.done & bit != 0)
    }

    /// Returns whether an event has a slot, so that its completion can be stored.
    pub(super) fn has_slot(self, position: i64) -> bool {
        position - self.position <= WINDOW
    }

    /// The bits as the database stores them.
    pub(super) fn stored_bits(self) -> i64 {
        self.done.cast_signed()
    }

    /// Reads stored bits.
    pub(super) fn of_stored(position: i64, done: i64) -> Self {
        Self { position, done: done.cast_unsigned() }
    }
}

fn bit(position: i64, of: i64) -> Option<u64> {
    let slot = u32::try_from(of - position - 1).ok()?;
    1_u64.checked_shl(slot)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_cursor_says_of_each_event_whether_it_is_done(
            start in 0_i64..1000,
            read in 0_i64..100,
            open in proptest::collection::btree_set(1_i64..=64, 0..20),
        ) {
            let read_to = start + read;
            // No event beyond the window is begun, so those are not done, or not read.
            let open: BTreeSet<i64> = open.into_iter().map(|open| start + open)
                .chain(start + 65..=read_to).filter(|open| *open <= read_to).collect();
            let cursor = Cursor::of(open.iter().copied(), read_to, Cursor::at(start));
            for position in start..=read_to {
                let done = !open.contains(&position);
                let told = cursor.is_done(position);
                prop_assert!(told == done || !cursor.has_slot(position) && !told, "{position}");
            }
            prop_assert!(!cursor.is_done(read_to + 1));
            let stored = Cursor::of_stored(cursor.position, cursor.stored_bits());
            prop_assert_eq!(stored, cursor);
        }
    }

    #[test]
    fn a_cursor_advances_over_everything_that_is_done() {
        let of = |open: &[i64], read_to| Cursor::of(open.iter().copied(), read_to, Cursor::at(3));
        assert_eq!(of(&[], 70), Cursor::at(70));
        assert_eq!(of(&[8], 8), Cursor::at(7));
        assert_eq!(of(&[8, 10], 11), Cursor { position: 7, done: 0b1010 });
        assert!(Cursor::at(7).has_slot(71) && !Cursor::at(7).has_slot(72));
    }

    #[test]
    fn a_cursor_keeps_what_was_done_beyond_the_events_that_were_read() {
        let earlier = Cursor { position: 7, done: 0b1010 };
        assert_eq!(Cursor::of([].into_iter(), 7, earlier), earlier);
        assert_eq!(Cursor::of([].into_iter(), 8, earlier), Cursor { position: 9, done: 0b10 });
        assert_eq!(Cursor::of([8].into_iter(), 8, earlier), earlier);
        assert_eq!(Cursor::of([].into_iter(), 6, earlier), earlier);
    }
}
