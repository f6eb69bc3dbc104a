//! How many keys were used before, of the last ones: what comes next is likely to be like them.

/// How many of the last keys it goes by, at most. What came before them counts half.
const REMEMBERED: usize = 64;

/// From how many used keys on, in percent, they are looked for in the statement that claims the others. That
/// saves a round trip where there are any, and costs a lone payment a twentieth where there are none.
const LOOK_UP_WITHIN: usize = 5;

/// From how many used keys on, in percent, they are looked up before anything is claimed. What is new then takes
/// another round trip, and what isn't takes less than half the work.
const LOOK_UP_FIRST: usize = 70;

/// After how many new keys in a row the next ones are claimed without a look whether they are new. That spares
/// PostgreSQL a tenth of its work. Where one isn't after all, the batch is run twice, and PostgreSQL notes an
/// error in its log: once in so many of a committer's keys at most. (What a command's own INSERT fails by is no matter of
/// keys: that batch, and each half in the search for the command, are run twice.)
const TAKEN_FOR_NEW: usize = 4096;

/// What the last keys were.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct UsedShare {
    used: usize,
    keys: usize,
    /// How many were new since one was used.
    new_in_a_row: usize,
}

impl UsedShare {
    /// Says of so many keys how many of them were used.
    pub(super) fn note(&mut self, used: usize, keys: usize) {
        self.new_in_a_row = if used > 0 { 0 } else { self.new_in_a_row.saturating_add(keys) };
        self.used += used;
        self.keys += keys;
        while self.keys > REMEMBERED {
            self.used /= 2;
            self.keys /= 2;
        }
    }

    /// Whether it pays to look for used keys in the statement that claims the others.
    pub(super) fn look_up_within(self) -> bool {
        self.is_at_least(LOOK_UP_WITHIN)
    }

    /// Whether it pays to look them up before anything is claimed.
    pub(super) fn look_up_first(self) -> bool {
        self.is_at_least(LOOK_UP_FIRST)
    }

    /// Whether it pays to take the next keys for new.
    pub(super) fn takes_for_new(self) -> bool {
        self.new_in_a_row >= TAKEN_FOR_NEW
    }

    fn is_at_least(self, percent: usize) -> bool {
        self.keys > 0 && 100 * self.used >= percent * self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::UsedShare;

    #[test]
    fn nothing_is_looked_up_while_keys_are_new() {
        let mut share = UsedShare::default();
        assert!(!share.look_up_within() && !share.look_up_first());
        share.note(0, 512);
        share.note(1, 40);
        assert!(!share.look_up_within() && !share.look_up_first());
    }

    #[test]
    fn replays_are_looked_up_first_until_enough_is_new_again() {
        let mut share = UsedShare::default();
        for _ in 0..1000 {
            share.note(1, 1);
        }
        assert!(share.look_up_first());
        for _ in 0..30 {
            share.note(0, 1);
        }
        assert!(!share.look_up_first() && share.look_up_within());
        for _ in 0..300 {
            share.note(0, 1);
        }
        assert!(!share.look_up_within());
    }

    #[test]
    fn keys_are_taken_for_new_after_thousands_that_were_and_until_one_is_not() {
        let mut share = UsedShare::default();
        share.note(0, 4000);
        assert!(!share.takes_for_new());
        share.note(0, 96);
        assert!(share.takes_for_new());
        share.note(1, 512);
        assert!(!share.takes_for_new());
        share.note(0, 4095);
        assert!(!share.takes_for_new());
    }

    #[test]
    fn one_large_batch_is_enough() {
        let mut share = UsedShare::default();
        share.note(0, 64);
        share.note(500, 500);
        assert!(share.look_up_first());
    }
}
