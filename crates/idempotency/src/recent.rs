//! What used keys were found to stand for a moment ago, in memory: so a client that sends one request again and
//! again, also with a second or two in between, costs the database a look-up every five seconds, and not one each time.
//!
//! Whoever brings a known key is answered at once. While others pay it waits for the committer's next turn in the queue,
//! as they do, or those who ask again and again would have more of the server than those who pay.
//!
//! Nothing gets here but what the database said of a key that is used up, after standbys that have to confirm it
//! did, and that never changes while the key is kept. So an answer from here is never a wrong one, only one that
//! may be out of date. Its response may expire: the database has said that it won't meanwhile
//! ([`UsedKey::lasts`]). And rows may be other than they were, where somebody has changed them by hand or restored a
//! backup, a standby without them was promoted, or another server lets keys expire: that shows after five seconds.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{key::ScopedKey, store::UsedKey};

/// For how long after the request arrived that had a key looked up.
pub(super) const KEPT: Duration = Duration::from_secs(5);

/// What all committers together keep takes little more memory than twice this, however many keys are asked for.
const BYTES: usize = 8 * 1024 * 1024;

/// What a key takes besides its own text and its response's: about that of its row, its fields and its places in the
/// map.
const BYTES_OF_A_KEY: usize = 768;

/// The keys of one committer that were looked up a moment ago.
pub(super) struct Recent {
    /// What the young may take; nothing, where nothing is kept.
    most: usize,
    known: Mutex<Known>,
}

/// The young become the old as soon as they fill their part, or some of them may be out of date; and the old go.
#[derive(Default)]
struct Known {
    young: Generation,
    old: Generation,
    /// What the young take.
    bytes: usize,
    /// Since when they are collected; `None` before the first.
    since: Option<Instant>,
    /// Whether whoever asks is told without waiting for the committer's next turn.
    at_once: bool,
}

type Generation = HashMap<ScopedKey, (Instant, Arc<UsedKey>)>;

impl Recent {
    /// For one of so many committers.
    pub(super) fn new(committers: usize) -> Self {
        Self { most: BYTES / committers.max(1), known: Mutex::default() }
    }

    /// Where nothing may be kept.
    pub(super) fn nothing() -> Self {
        Self { most: 0, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this key stands for, if that is known still.
    pub(super) fn find(&self, scope: &ScopedKey, now: Instant) -> Option<Arc<UsedKey>> {
        self.known().find(scope, now)
    }

    /// The same, for somebody who would be told without waiting for the committer's next turn, if that may be.
    pub(super) fn find_at_once(&self, scope: &ScopedKey, now: Instant) -> Option<Arc<UsedKey>> {
        let known = self.known();
        if known.at_once { known.find(scope, now) } else { None }
    }

    /// Whether that may be, from now on.
    pub(super) fn tell_at_once(&self, at_once: bool) {
        self.known().at_once = at_once;
    }

    /// Keeps what this key stands for, which was looked up after `arrived`; unless that may change meanwhile.
    pub(super) fn keep(
        &self,
        scope: &ScopedKey,
        used: &Arc<UsedKey>,
        arrived: Instant,
        now: Instant,
    ) {
        let end = arrived + KEPT;
        let Some(response) = used.response.as_ref().filter(|_| used.lasts && now < end) else {
            return;
        };
        let headers: usize = response.headers().map(|(name, value)| name.len() + value.len()).sum();
        let bytes = BYTES_OF_A_KEY + scope.key.as_str().len() + response.body().len() + headers;
        if bytes > self.most {
            return;
        }
        let mut known = self.known();
        let full = known.bytes + bytes > self.most;
        let mut gone = Generation::new();
        if full || known.since.is_none_or(|since| since + KEPT <= now) {
            let young = mem::take(&mut known.young);
            gone = mem::replace(&mut known.old, young);
            known.bytes = 0;
            known.since = Some(now);
        }
        known.bytes += bytes;
        known.young.insert(scope.clone(), (end, Arc::clone(used)));
        // Dropping them takes longer than anybody should wait.
        drop(known);
        drop(gone);
    }
}

impl Known {
    fn find(&self, scope: &ScopedKey, now: Instant) -> Option<Arc<UsedKey>> {
        let (end, used) = self.young.get(scope).or_else(|| self.old.get(scope))?;
        (*end > now).then(|| Arc::clone(used))
    }
}

#[cfg(test)]
mod tests {
    use chrono::Utc;
    use uuid::Uuid;

    use super::*;
    use crate::{IdempotencyKey, Response};

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
    fn a_key_is_known_for_a_moment_to_its_own_account() {
        let (recent, now) = (Recent::new(1), Instant::now());
        recent.keep(&scope("k"), &Arc::new(used(1)), now, now);
        let last = now + KEPT - Duration::from_nanos(1);
        assert!(recent.find(&scope("k"), now).is_some());
        assert!(recent.find(&scope("k"), last).is_some());
        assert!(recent.find(&scope("k"), now + KEPT).is_none());
        assert!(recent.find(&scope("other"), now).is_none());
        let other = ScopedKey { account_id: Uuid::max(), ..scope("k") };
        assert!(recent.find(&other, now).is_none());
    }

    #[test]
    fn nobody_is_told_at_once_unless_that_may_be() {
        let (recent, now) = (Recent::new(1), Instant::now());
        recent.keep(&scope("k"), &Arc::new(used(1)), now, now);
        for at_once in [true, false, true] {
            recent.tell_at_once(at_once);
            assert_eq!(recent.find_at_once(&scope("k"), now).is_some(), at_once);
            assert!(recent.find(&scope("k"), now).is_some());
            assert!(recent.find_at_once(&scope("other"), now).is_none(), "it isn't known");
            assert!(recent.find_at_once(&scope("k"), now + KEPT).is_none(), "not any more");
        }
    }

    #[test]
    fn what_may_change_meanwhile_is_not_kept() {
        let (recent, now) = (Recent::new(1), Instant::now());
        recent.keep(&scope("ends"), &Arc::new(UsedKey { lasts: false, ..used(1) }), now, now);
        recent.keep(&scope("ended"), &Arc::new(UsedKey { response: None, ..used(1) }), now, now);
        for key in ["ends", "ended"] {
            assert!(recent.find(&scope(key), now).is_none(), "{key}");
        }
    }

    #[test]
    fn where_nothing_may_be_kept_nothing_is() {
        let (recent, now) = (Recent::nothing(), Instant::now());
        recent.keep(&scope("k"), &Arc::new(used(0)), now, now);
        assert!(recent.find(&scope("k"), now).is_none());
    }

    #[test]
    fn what_is_kept_takes_no_more_than_its_memory() {
        let (recent, now) = (Recent::new(1), Instant::now());
        let bytes = 64 * 1024;
        for number in 0..1000 {
            recent.keep(&scope(&format!("k{number}")), &Arc::new(used(bytes)), now, now);
        }
        recent.keep(&scope("vast"), &Arc::new(used(BYTES)), now, now);
        let known = |number: usize| recent.find(&scope(&format!("k{number}")), now).is_some();
        let kept = (0..1000).filter(|number| known(*number)).count();
        assert!(known(999) && !known(0), "the last are kept, not the first");
        assert!((BYTES / bytes / 2..=2 * BYTES / bytes).contains(&kept), "{kept}");
        assert!(recent.find(&scope("vast"), now).is_none());
    }
}
