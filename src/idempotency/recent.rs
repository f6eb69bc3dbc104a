//! What used keys were found to stand for a moment ago, in memory: so a client that sends one request again and
//! again, without a pause, costs the database one look-up a second, and not one each time.
//!
//! Nothing gets here but what the database said of a key that is used up, after standbys that have to confirm it
//! did, and that never changes while the key is kept. So an answer from here is never a wrong one, only one that
//! may be out of date in two ways. Its response may expire: the database has said that it won't meanwhile
//! ([`UsedKey::lasts`]). And somebody may have changed rows by hand, or restored a backup: that shows after a
//! second.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{key::ScopedKey, store::UsedKey};

/// For how long after the request arrived that had a key looked up.
pub(super) const KEPT: Duration = Duration::from_secs(1);

/// What all queues together keep takes no more memory than twice this, however many keys are asked for.
const BYTES: usize = 8 * 1024 * 1024;

/// What a key takes besides its response's text: about that of its row, its fields and its place in the map.
const BYTES_OF_A_KEY: usize = 512;

/// Keys of one queue that were looked up a moment ago.
pub(super) struct Recent {
    generations: Mutex<Generations>,
    /// What the young may take.
    bytes: usize,
}

/// The young become the old as soon as they fill their part, or some of them may be out of date; and the old go.
#[derive(Default)]
struct Generations {
    young: Generation,
    old: Generation,
    bytes: usize,
    /// Since when the young are collected; `None` before the first.
    since: Option<Instant>,
}

type Generation = HashMap<ScopedKey, (Instant, Arc<UsedKey>)>;

impl Recent {
    /// For one of so many queues.
    pub(super) fn new(queues: usize) -> Self {
        Self { generations: Mutex::default(), bytes: BYTES / queues.max(1) }
    }

    /// What this key stands for, if that is known still.
    pub(super) fn find(&self, scope: &ScopedKey, now: Instant) -> Option<Arc<UsedKey>> {
        let generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let Generations { young, old, .. } = &*generations;
        let (end, used) = young.get(scope).or_else(|| old.get(scope))?;
        (*end > now).then(|| Arc::clone(used))
    }

    /// Keeps what this key stands for, which was looked up after `arrived`; unless that may change meanwhile.
    pub(super) fn keep(&self, scope: ScopedKey, used: Arc<UsedKey>, arrived: Instant) {
        let (now, end) = (Instant::now(), arrived + KEPT);
        let Some(response) = used.response.as_ref().filter(|_| used.lasts && now < end) else {
            return;
        };
        let headers: usize = response.headers().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = BYTES_OF_A_KEY + response.body().len() + headers;
        if bytes > self.bytes {
            return;
        }
        let mut generations = self.generations.lock().unwrap_or_else(PoisonError::into_inner);
        let full = generations.bytes + bytes > self.bytes;
        let mut gone = Generation::new();
        if full || generations.since.is_none_or(|since| since + KEPT <= now) {
            let young = mem::take(&mut generations.young);
            gone = mem::replace(&mut generations.old, young);
            generations.bytes = 0;
            generations.since = Some(now);
        }
        generations.bytes += bytes;
        generations.young.insert(scope, (end, used));
        // What takes a while is done when nobody waits for it.
        drop(generations);
        drop(gone);
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use uuid::Uuid;

    use super::*;
    use crate::idempotency::{IdempotencyKey, Response};

    fn scope(key: &str) -> ScopedKey {
        let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
        ScopedKey { account_id: Uuid::nil(), key }
    }

    fn used(body: usize) -> UsedKey {
        UsedKey {
            execution_id: Uuid::nil(),
            operation: "pay".to_owned(),
            fingerprint: Vec::new(),
            created_at: Utc::now(),
            response: Some(Response::new(201, vec![0; body])),
            replayable_until: None,
            lasts: true,
        }
    }

    #[test]
    fn a_key_is_known_for_a_second_to_its_own_account() {
        let (recent, now) = (Recent::new(1), Instant::now());
        recent.keep(scope("k"), Arc::new(used(1)), now);
        let last = now + KEPT - Duration::from_nanos(1);
        assert!(recent.find(&scope("k"), now).is_some());
        assert!(recent.find(&scope("k"), last).is_some());
        assert!(recent.find(&scope("k"), now + KEPT).is_none());
        assert!(recent.find(&scope("other"), now).is_none());
        let other = ScopedKey { account_id: Uuid::max(), ..scope("k") };
        assert!(recent.find(&other, now).is_none());
    }

    #[test]
    fn what_may_change_meanwhile_is_not_kept() {
        let (recent, now) = (Recent::new(1), Instant::now());
        recent.keep(scope("ends"), Arc::new(UsedKey { lasts: false, ..used(1) }), now);
        recent.keep(scope("ended"), Arc::new(UsedKey { response: None, ..used(1) }), now);
        for key in ["ends", "ended"] {
            assert!(recent.find(&scope(key), now).is_none(), "{key}");
        }
    }

    #[test]
    fn what_is_kept_takes_no_more_than_its_memory() {
        let (recent, now) = (Recent::new(1), Instant::now());
        let bytes = 64 * 1024;
        for number in 0..1000 {
            recent.keep(scope(&format!("k{number}")), Arc::new(used(bytes)), now);
        }
        recent.keep(scope("vast"), Arc::new(used(BYTES)), now);
        let known = |number: usize| recent.find(&scope(&format!("k{number}")), now).is_some();
        let kept = (0..1000).filter(|number| known(*number)).count();
        assert!(known(999) && !known(0), "the last are kept, not the first");
        assert!((BYTES / bytes / 2..=2 * BYTES / bytes).contains(&kept), "{kept}");
        assert!(recent.find(&scope("vast"), now).is_none());
    }
}
