//! What held up a batch not long ago. When it comes again it is put aside at once, instead of being found
//! anew while everybody else waits.
//!
//! A courtesy, and no more: what is forgotten too soon is found again, and what is remembered for too long
//! runs aside, one by one.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::key::ScopedKey;

/// A key is sent again by its own client alone, and holds up nobody else where it runs aside.
const KEY_FOR: Duration = Duration::from_mins(1);

/// A row is wanted by many, who would all run one by one, long after it was let go.
const ROW_FOR: Duration = Duration::from_secs(2);

/// How many of each are known at most.
const KNOWN: usize = 1024;

#[derive(Default)]
pub(super) struct Sidestepped {
    keys: HashMap<ScopedKey, Instant>,
    rows: HashMap<Uuid, Instant>,
}

impl Sidestepped {
    /// Whether a command with this key, which locks this row, would hold up its batch, as far as is known.
    pub(super) fn has(&self, key: &ScopedKey, row: Option<Uuid>, now: Instant) -> bool {
        let key = self.keys.get(key);
        let row = row.and_then(|row| self.rows.get(&row));
        key.into_iter().chain(row).any(|until| *until > now)
    }

    pub(super) fn add_key(&mut self, key: ScopedKey, now: Instant) {
        add(&mut self.keys, key, now, KEY_FOR);
    }

    pub(super) fn add_row(&mut self, row: Uuid, now: Instant) {
        add(&mut self.rows, row, now, ROW_FOR);
    }
}

/// Where there is no room, the new one isn't remembered: the others hold up batches, too.
fn add<K: Eq + Hash>(known: &mut HashMap<K, Instant>, name: K, now: Instant, time: Duration) {
    if known.len() >= KNOWN {
        known.retain(|_, until| *until > now);
    }
    if known.len() < KNOWN {
        known.insert(name, now + time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::IdempotencyKey;

    fn key(name: &str) -> ScopedKey {
        let key = IdempotencyKey::parse(name.as_bytes()).unwrap();
        ScopedKey { account_id: Uuid::nil(), key }
    }

    #[test]
    fn a_row_is_known_by_whoever_wants_it_and_not_for_as_long_as_a_key() {
        let (now, row) = (Instant::now(), Uuid::from_u128(1));
        let mut sidestepped = Sidestepped::default();
        sidestepped.add_key(key("k"), now);
        sidestepped.add_row(row, now);
        assert!(sidestepped.has(&key("k"), None, now));
        assert!(sidestepped.has(&key("other"), Some(row), now));
        assert!(!sidestepped.has(&key("other"), None, now));
        assert!(!sidestepped.has(&key("other"), Some(Uuid::from_u128(2)), now));
        assert!(sidestepped.has(&key("k"), None, now + KEY_FOR / 2));
        assert!(!sidestepped.has(&key("other"), Some(row), now + ROW_FOR));
        assert!(!sidestepped.has(&key("k"), None, now + KEY_FOR));
    }

    #[test]
    fn only_so_many_are_known_until_some_are_forgotten() {
        let (now, late) = (Instant::now(), Instant::now() + 2 * ROW_FOR);
        let mut sidestepped = Sidestepped::default();
        for row in 0..=KNOWN {
            sidestepped.add_row(Uuid::from_u128(row.try_into().unwrap()), now);
        }
        assert_eq!(sidestepped.rows.len(), KNOWN);
        sidestepped.add_row(Uuid::max(), late);
        assert_eq!(sidestepped.rows.len(), 1);
    }
}
