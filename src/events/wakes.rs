//! Wakes those who wait for an account's next event, when this process has given it a position.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::ids::AccountId;

/// The accounts that somebody waits for. It holds one entry for each of them, until the last subscription is dropped:
/// the subscriber bounds their number.
///
/// Events that another server sequences wake nobody here, so subscribers also poll.
#[derive(Debug, Clone, Default)]
pub struct Wakes(Arc<Mutex<HashMap<AccountId, Waiting>>>);

/// The subscriptions to an account. They are counted here, because a receiver is dropped after its subscription has
/// released the lock.
#[derive(Debug, Default)]
struct Waiting {
    news: watch::Sender<()>,
    subscriptions: usize,
}

impl Wakes {
    /// Subscribes to an account. Subscribe before you read its events: later ones then wake you.
    #[must_use]
    pub fn subscribe(&self, account_id: AccountId) -> Subscription {
        let mut accounts = self.accounts();
        let waiting = accounts.entry(account_id).or_default();
        waiting.subscriptions += 1;
        Subscription { account_id, news: waiting.news.subscribe(), wakes: self.clone() }
    }

    /// Wakes the subscriptions of accounts that have new events. The events must be committed.
    pub fn sequenced(&self, accounts: &[AccountId]) {
        let waiting = self.accounts();
        if waiting.is_empty() {
            return;
        }
        for waiting in accounts.iter().filter_map(|account_id| waiting.get(account_id)) {
            waiting.news.send_replace(());
        }
    }

    fn accounts(&self) -> MutexGuard<'_, HashMap<AccountId, Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A wait for the events of one account.
pub struct Subscription {
    account_id: AccountId,
    news: watch::Receiver<()>,
    wakes: Wakes,
}

impl Subscription {
    /// Waits for events sequenced since the subscription began or this function last returned.
    pub async fn sequenced(&mut self) {
        // The sender exists as long as its subscriptions.
        let _ = self.news.changed().await;
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("account_id", &self.account_id).finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let mut accounts = self.wakes.accounts();
        let Some(waiting) = accounts.get_mut(&self.account_id) else { return };
        waiting.subscriptions -= 1;
        if waiting.subscriptions == 0 {
            accounts.remove(&self.account_id);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use uuid::Uuid;

    use super::*;

    fn account(number: u128) -> AccountId {
        Uuid::from_u128(number).into()
    }

    #[tokio::test]
    async fn events_of_the_account_wake_each_subscription_once() {
        let wakes = Wakes::default();
        let [mut one, mut two] = [(); 2].map(|()| wakes.subscribe(account(1)));
        let mut other = wakes.subscribe(account(2));
        wakes.sequenced(&[account(1), account(3)]);
        // Also when they happened before the wait began.
        one.sequenced().await;
        two.sequenced().await;
        assert!(one.sequenced().now_or_never().is_none());
        assert!(other.sequenced().now_or_never().is_none());
        wakes.sequenced(&[account(2), account(1)]);
        assert!(one.sequenced().now_or_never().is_some());
        assert!(other.sequenced().now_or_never().is_some());
    }

    #[test]
    fn an_account_is_forgotten_with_its_last_subscription() {
        let wakes = Wakes::default();
        let one = wakes.subscribe(account(1));
        let two = wakes.subscribe(account(1));
        drop(one);
        assert_eq!(wakes.accounts().len(), 1);
        drop(two);
        assert_eq!(wakes.accounts().len(), 0);
    }

    #[test]
    fn an_account_is_forgotten_although_receivers_are_dropped_after_it() {
        let wakes = Wakes::default();
        let subscriptions = [wakes.subscribe(account(1)), wakes.subscribe(account(1))];
        // As when several threads drop their subscriptions at once.
        let receivers = subscriptions.each_ref().map(|one| one.news.clone());
        drop(subscriptions);
        assert_eq!(wakes.accounts().len(), 0);
        drop(receivers);
    }
}
