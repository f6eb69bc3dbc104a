//! The keys in a queue: for each, the request that leads and those that follow it.

use std::collections::{BTreeMap, HashMap};

use super::{fair::FairQueue, job::Stage, request::Request};
use crate::{AccountId, key::ScopedKey};

/// A key in the queue, and the requests that have it.
pub(super) struct Group {
    pub(super) stage: Stage,
    /// Its place among the waiting keys of its account. It keeps the place when it waits again.
    pub(super) place: u64,
    /// `None` while it is being executed.
    pub(super) leader: Option<(u64, Request)>,
    pub(super) followers: BTreeMap<u64, Request>,
}

/// The part of the queue that one account has.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// Its keys, waiting and being executed.
    pub(super) keys: usize,
    /// The followers of all of them.
    pub(super) followers: usize,
}

/// The keys of a queue, and the share of each account.
#[derive(Default)]
pub(super) struct Groups {
    by_key: HashMap<ScopedKey, Group>,
    waiting: FairQueue<AccountId, ScopedKey>,
    shares: HashMap<AccountId, Share>,
    next: u64,
    /// No more requests are taken in.
    pub(super) closed: bool,
}

impl Groups {
    /// The number of the next request.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_drained(&self) -> bool {
        self.closed && self.by_key.is_empty()
    }

    pub(super) fn share(&self, account_id: AccountId) -> Share {
        self.shares.get(&account_id).copied().unwrap_or_default()
    }

    pub(super) fn contains(&self, scope: &ScopedKey) -> bool {
        self.by_key.contains_key(scope)
    }

    /// Adds a group, which waits for its turn.
    pub(super) fn insert(&mut self, scope: ScopedKey, group: Group) {
        let share = self.shares.entry(scope.account_id).or_default();
        share.keys += 1;
        share.followers += group.followers.len();
        self.waiting.insert(scope.account_id, group.place, scope.clone());
        self.by_key.insert(scope, group);
    }

    /// Removes a group with its followers.
    pub(super) fn remove(&mut self, scope: &ScopedKey) -> Option<Group> {
        let group = self.by_key.remove(scope)?;
        self.waiting.remove(&scope.account_id, group.place);
        let share = self.shares.get_mut(&scope.account_id)?;
        share.keys -= 1;
        share.followers -= group.followers.len();
        if share.keys == 0 {
            self.shares.remove(&scope.account_id);
        }
        Some(group)
    }

    /// Takes out the leader whose turn it is.
    pub(super) fn next_leader(&mut self) -> Option<Request> {
        loop {
            let scope = self.waiting.pop()?;
            if let Some(group) = self.by_key.get_mut(&scope)
                && let Some((_, leader)) = group.leader.take()
            {
                return Some(leader);
            }
        }
    }

    /// Adds a follower to a key that is in the queue.
    pub(super) fn follow(&mut self, scope: &ScopedKey, number: u64, request: Request) {
        if let Some(group) = self.by_key.get_mut(scope) {
            group.followers.insert(number, request);
            self.shares.entry(scope.account_id).or_default().followers += 1;
        }
    }

    /// Takes out the first follower of a key.
    pub(super) fn first_follower(&mut self, scope: &ScopedKey) -> Option<(u64, Request)> {
        let follower = self.by_key.get_mut(scope)?.followers.pop_first()?;
        self.follower_left(scope.account_id);
        Some(follower)
    }

    pub(super) fn set_stage(&mut self, scope: &ScopedKey, stage: Stage) {
        if let Some(group) = self.by_key.get_mut(scope) {
            group.stage = stage;
        }
    }

    /// Removes a request whose caller stops waiting. Returns how far its execution has come.
    pub(super) fn leave(&mut self, scope: &ScopedKey, number: u64) -> Stage {
        let Some(group) = self.by_key.get_mut(scope) else { return Stage::Begun };
        if number < group.place {
            // This group is newer: that of the caller has been settled.
            return Stage::Begun;
        }
        let stage = group.stage;
        if group.leader.as_ref().is_some_and(|(leader, _)| *leader == number) {
            let next = self.first_follower(scope);
            if next.is_none() {
                self.remove(scope);
            } else if let Some(group) = self.by_key.get_mut(scope) {
                group.leader = next;
            }
        } else if group.followers.remove(&number).is_some() {
            self.follower_left(scope.account_id);
        }
        stage
    }

    fn follower_left(&mut self, account_id: AccountId) {
        if let Some(share) = self.shares.get_mut(&account_id) {
            share.followers -= 1;
        }
    }
}
