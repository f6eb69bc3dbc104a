//! The entrance to the quarantine, where commands that would hold up a batch run one by one.
//!
//! It lists the keys and rows that held up a batch recently. A command with one of them is quarantined at once, without
//! another search while all others wait. If a key is removed too soon, a search finds it again; if too late, its command
//! runs alone.

use std::{collections::HashMap, hash::Hash, time::Duration};

use tokio::{sync::mpsc::UnboundedSender, time::Instant};
use uuid::Uuid;

use crate::{
    Failure,
    key::ScopedKey,
    queue::{Job, Obstacle, Queue},
};

/// Only its own client sends a key again, and in the quarantine it holds up nobody else.
const KEY_FOR: Duration = Duration::from_mins(1);

/// Many commands may want one row, and would run one by one long after its lock is released.
const ROW_FOR: Duration = Duration::from_secs(2);

/// The limit of listed keys, and of rows.
const KNOWN: usize = 1024;

pub(crate) struct Quarantine {
    /// Unbounded, but the limit of the queue counts the commands in it.
    sender: UnboundedSender<Job>,
    keys: HashMap<ScopedKey, Entry>,
    rows: HashMap<Uuid, Entry>,
}

struct Entry {
    until: Instant,
    obstacle: Obstacle,
}

impl Quarantine {
    pub(crate) fn new(sender: UnboundedSender<Job>) -> Self {
        Self { sender, keys: HashMap::new(), rows: HashMap::new() }
    }

    /// Quarantines a command. If it waits for a lock, its wait ends on time even if it was not tried: of a hundred
    /// that want one row, each attempt takes as long as the lock time-out.
    pub(crate) fn admit(&self, queue: &Queue, mut job: Job, obstacle: Obstacle) {
        job.obstacle = obstacle;
        queue.rolled_back([&job]);
        if let Err(closed) = self.sender.send(job) {
            // Its committer has ended, which it does after this one: a defect, and still an answer.
            queue.fail(closed.0, &Failure::Overloaded);
        }
    }

    /// The obstacle of a command with this key, which locks this row, if it is known.
    pub(crate) fn find(
        &self,
        key: &ScopedKey,
        row: Option<Uuid>,
        now: Instant,
    ) -> Option<Obstacle> {
        let key = self.keys.get(key);
        let row = row.and_then(|row| self.rows.get(&row));
        let mut known = key.into_iter().chain(row).filter(|entry| entry.until > now);
        known.next().map(|entry| entry.obstacle)
    }

    pub(crate) fn add_key(&mut self, key: ScopedKey, obstacle: Obstacle, now: Instant) {
        add(&mut self.keys, key, now, Entry { until: now + KEY_FOR, obstacle });
    }

    pub(crate) fn add_row(&mut self, row: Uuid, obstacle: Obstacle, now: Instant) {
        add(&mut self.rows, row, now, Entry { until: now + ROW_FOR, obstacle });
    }
}

/// If there is no room, the new one is not listed.
fn add<K: Eq + Hash>(known: &mut HashMap<K, Entry>, name: K, now: Instant, entry: Entry) {
    if known.len() >= KNOWN {
        known.retain(|_, entry| entry.until > now);
    }
    if known.len() < KNOWN {
        known.insert(name, entry);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::{AccountId, IdempotencyKey};

    fn key(name: &str) -> ScopedKey {
        let key = IdempotencyKey::parse(name.as_bytes()).unwrap();
        ScopedKey { account_id: AccountId::DEFAULT, key }
    }

    #[test]
    fn a_row_is_known_for_every_key_and_not_for_as_long_as_a_key() {
        let (now, row) = (Instant::now(), Uuid::from_u128(1));
        let mut quarantine = Quarantine::new(unbounded_channel().0);
        quarantine.add_key(key("k"), Obstacle::Conflict, now);
        quarantine.add_row(row, Obstacle::Locked, now);
        let found = |name, row, now| quarantine.find(&key(name), row, now);
        assert_eq!(found("k", None, now), Some(Obstacle::Conflict));
        assert_eq!(found("other", Some(row), now), Some(Obstacle::Locked));
        assert_eq!(found("other", None, now), None);
        assert_eq!(found("other", Some(Uuid::from_u128(2)), now), None);
        assert_eq!(found("k", None, now + KEY_FOR / 2), Some(Obstacle::Conflict));
        assert_eq!(found("other", Some(row), now + ROW_FOR), None);
        assert_eq!(found("k", None, now + KEY_FOR), None);
    }

    #[test]
    fn only_so_many_are_known_until_some_are_forgotten() {
        let (now, late) = (Instant::now(), Instant::now() + 2 * ROW_FOR);
        let mut quarantine = Quarantine::new(unbounded_channel().0);
        for row in 0..=KNOWN {
            let row = Uuid::from_u128(row.try_into().unwrap());
            quarantine.add_row(row, Obstacle::Locked, now);
        }
        assert_eq!(quarantine.rows.len(), KNOWN);
        quarantine.add_row(Uuid::max(), Obstacle::Locked, late);
        assert_eq!(quarantine.rows.len(), 1);
    }
}
