//! The share of used keys in the last batches. It predicts the next batch.

/// The number of keys that the share is computed from. Older keys count half.
const COUNTED: usize = 64;

/// From this share of used keys on, in percent, keys are looked up before they are claimed. A new key then
/// takes another round trip, and a used one less than half the work.
const LOOK_UP_FIRST: usize = 70;

/// The share of used keys among the last ones.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct UsedShare {
    used: usize,
    keys: usize,
}

impl UsedShare {
    /// Counts a batch: `used` of its `keys` were used before.
    pub(crate) fn note(&mut self, used: usize, keys: usize) {
        self.used += used;
        self.keys += keys;
        while self.keys > COUNTED {
            self.used /= 2;
            self.keys /= 2;
        }
    }

    /// Returns whether it pays to look the next keys up before they are claimed.
    pub(crate) fn look_up_first(self) -> bool {
        self.keys > 0 && 100 * self.used >= LOOK_UP_FIRST * self.keys
    }
}

#[cfg(test)]
mod tests {
    use super::UsedShare;

    #[test]
    fn nothing_is_looked_up_first_while_keys_are_new() {
        let mut share = UsedShare::default();
        assert!(!share.look_up_first());
        share.note(0, 512);
        share.note(1, 40);
        assert!(!share.look_up_first());
    }

    #[test]
    fn replays_are_looked_up_first_until_enough_keys_are_new_again() {
        let mut share = UsedShare::default();
        for _ in 0..1000 {
            share.note(1, 1);
        }
        assert!(share.look_up_first());
        for _ in 0..30 {
            share.note(0, 1);
        }
        assert!(!share.look_up_first());
    }

    #[test]
    fn one_large_batch_is_enough() {
        let mut share = UsedShare::default();
        share.note(0, 64);
        share.note(500, 500);
        assert!(share.look_up_first());
    }
}
