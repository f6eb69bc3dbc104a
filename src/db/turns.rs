//! A limited number of places that accounts take in turns.
//!
//! However many waiters one account has, another account's next waiter is at most one turn of each account away.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use crate::ids::AccountId;

/// Too many of one account wait already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ShareExceeded;

/// Places and their waiters. While a place is free, nobody waits.
#[derive(Debug)]
struct Turns<T> {
    free: usize,
    /// Limit of waiters per account.
    waiting_limit: usize,
    /// The waiters of each account, in order of arrival.
    waiting: HashMap<AccountId, BTreeMap<u64, T>>,
    /// The accounts with waiters, in the order of their turns.
    order: VecDeque<AccountId>,
    next_number: u64,
}

impl<T> Turns<T> {
    fn new(places: usize, waiting_limit: usize) -> Self {
        Self {
            free: places,
            waiting_limit,
            waiting: HashMap::new(),
            order: VecDeque::new(),
            next_number: 0,
        }
    }

    /// Takes a place if one is free.
    fn take(&mut self) -> bool {
        let free = self.free > 0;
        self.free -= usize::from(free);
        free
    }

    /// Waits for a place. The number is for [`leave`](Self::leave).
    fn wait(&mut self, account_id: AccountId, waiter: T) -> Result<u64, ShareExceeded> {
        let waiting = self.waiting.entry(account_id).or_default();
        if waiting.len() >= self.waiting_limit {
            return Err(ShareExceeded);
        }
        if waiting.is_empty() {
            self.order.push_back(account_id);
        }
        let number = self.next_number;
        self.next_number += 1;
        waiting.insert(number, waiter);
        Ok(number)
    }

    /// Removes a waiter.
    fn leave(&mut self, account_id: AccountId, number: u64) {
        let Some(waiting) = self.waiting.get_mut(&account_id) else { return };
        waiting.remove(&number);
        if waiting.is_empty() {
            self.waiting.remove(&account_id);
            self.order.retain(|waits| *waits != account_id);
        }
    }

    /// Frees a place, or returns the waiter that gets it.
    fn release(&mut self) -> Option<T> {
        let Some(account_id) = self.order.pop_front() else {
            self.free += 1;
            return None;
        };
        let waiting = self.waiting.get_mut(&account_id)?;
        let next = waiting.pop_first();
        if waiting.is_empty() {
            self.waiting.remove(&account_id);
        } else {
            self.order.push_back(account_id);
        }
        next.map(|(_, waiter)| waiter)
    }
}

/// The places, for tasks.
#[derive(Debug)]
pub(crate) struct Places(Mutex<Turns<oneshot::Sender<Place>>>);

/// A place, released when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Places>);

/// A waiter, removed when it is dropped.
struct Waiting<'a> {
    places: &'a Places,
    account_id: AccountId,
    number: u64,
}

impl Places {
    /// Creates places, with a limit of waiters per account.
    pub(crate) fn new(places: usize, waiting_limit: usize) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Turns::new(places, waiting_limit))))
    }

    /// Waits for a place. Dropping the future leaves the queue.
    pub(crate) async fn take(
        self: &Arc<Self>,
        account_id: AccountId,
    ) -> Result<Place, ShareExceeded> {
        let (waiting, turn) = {
            let mut turns = self.turns();
            if turns.take() {
                drop(turns);
                return Ok(Place(Arc::clone(self)));
            }
            let (waiter, turn) = oneshot::channel();
            let number = turns.wait(account_id, waiter)?;
            (Waiting { places: self, account_id, number }, turn)
        };
        // The sender stays in the queue while this future waits.
        let place = turn.await.map_err(|_| ShareExceeded);
        drop(waiting);
        place
    }

    fn turns(&self) -> MutexGuard<'_, Turns<oneshot::Sender<Place>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let next = self.0.turns().release();
        if let Some(next) = next {
            // A waiter that has just left drops the place, which passes it on.
            let _ = next.send(Self(Arc::clone(&self.0)));
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.places.turns().leave(self.account_id, self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use uuid::Uuid;

    use super::*;

    #[derive(Debug, Clone)]
    enum Act {
        /// One of this account arrives.
        Arrive(u8),
        /// One that waits leaves.
        Leave(prop::sample::Index),
        /// A place is released.
        Release,
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            4 => (0..4_u8).prop_map(Act::Arrive),
            1 => any::<prop::sample::Index>().prop_map(Act::Leave),
            3 => Just(Act::Release),
        ]
    }

    fn account(number: u8) -> AccountId {
        Uuid::from_u128(number.into()).into()
    }

    proptest! {
        #[test]
        fn accounts_take_turns_and_each_keeps_its_order(
            acts in prop::collection::vec(act(), 0..200), places in 1..4_usize, limit in 1..5_usize
        ) {
            let mut turns = Turns::new(places, limit);
            let mut taken = 0;
            // Who waits: account, number, and which accounts had a turn since.
            let mut waiting: Vec<(u8, u64, Vec<u8>)> = Vec::new();
            for act in acts {
                match act {
                    Act::Arrive(who) if turns.take() => {
                        prop_assert!(waiting.is_empty(), "{who} passes those who wait");
                        taken += 1;
                    }
                    Act::Arrive(who) => {
                        prop_assert_eq!(taken, places);
                        let of_account = waiting.iter().filter(|(waits, ..)| *waits == who).count();
                        if let Ok(number) = turns.wait(account(who), who) {
                            waiting.push((who, number, Vec::new()));
                        } else {
                            prop_assert_eq!(of_account, limit);
                        }
                    }
                    Act::Leave(_) if waiting.is_empty() => {}
                    Act::Leave(which) => {
                        let (who, number, _) = waiting.remove(which.index(waiting.len()));
                        turns.leave(account(who), number);
                    }
                    Act::Release if taken == 0 => {}
                    Act::Release => match turns.release() {
                        None => {
                            prop_assert!(waiting.is_empty());
                            taken -= 1;
                        }
                        Some(who) => {
                            let first = waiting.iter().position(|(waits, ..)| *waits == who);
                            waiting.remove(first.unwrap());
                            // Of those who wait for an account's next turn, the first; a later one waits for two.
                            let mut seen = Vec::new();
                            for (waits, _, passed) in &mut waiting {
                                if !seen.contains(waits) && *waits != who {
                                    prop_assert!(!passed.contains(&who), "{who} had two turns before {waits}");
                                    passed.push(who);
                                }
                                seen.push(*waits);
                            }
                        }
                    },
                }
            }
            prop_assert!(turns.order.len() == turns.waiting.len() && turns.waiting.values().all(|of| !of.is_empty()));
        }
    }

    #[tokio::test]
    async fn a_place_goes_on_to_the_next_also_where_one_leaves_as_it_gets_it() {
        let places = Places::new(1, 8);
        let held = places.take(account(0)).await.unwrap();
        let mut gone = Box::pin(places.take(account(1)));
        let mut next = Box::pin(places.take(account(2)));
        assert!((&mut gone).now_or_never().is_none());
        assert!((&mut next).now_or_never().is_none());
        drop(held);
        // It has got the place, and leaves without having looked.
        drop(gone);
        drop(next.await.unwrap());
        places.take(account(3)).await.unwrap();
    }

    #[tokio::test]
    async fn more_of_one_account_than_may_wait_are_refused_and_others_are_not() {
        let places = Places::new(1, 1);
        let _held = places.take(account(0)).await.unwrap();
        let mut waits = Box::pin(places.take(account(0)));
        assert!((&mut waits).now_or_never().is_none());
        assert_eq!(places.take(account(0)).await.unwrap_err(), ShareExceeded);
        assert!(places.take(account(1)).now_or_never().is_none());
    }
}
