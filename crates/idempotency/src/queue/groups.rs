//! The keys in a queue: for each the request that leads, and those that follow it.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    fair::FairQueue,
    submission::{Stage, Submission},
};
use crate::key::ScopedKey;

/// A key in the queue, and the requests that came with it.
pub(super) struct Group {
    pub(super) stage: Stage,
    /// Its place among those of its account that wait, kept when the group goes back there.
    pub(super) place: u64,
    /// `None` while it is out to be executed.
    pub(super) leader: Option<(u64, Submission)>,
    pub(super) followers: BTreeMap<u64, Submission>,
}

/// What one account has in the queue.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Share {
    /// Its keys, waiting and being executed.
    pub(super) keys: usize,
    /// The followers of all of them.
    pub(super) copies: usize,
}

/// The keys of a queue, with what each account has of them.
#[derive(Default)]
pub(super) struct Groups {
    by_key: HashMap<ScopedKey, Group>,
    waiting: FairQueue<Uuid, ScopedKey>,
    shares: HashMap<Uuid, Share>,
    next: u64,
}

impl Groups {
    /// Numbers requests in their order.
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    pub(super) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_key.is_empty()
    }

    pub(super) fn share(&self, account_id: Uuid) -> Share {
        self.shares.get(&account_id).copied().unwrap_or_default()
    }

    pub(super) fn contains(&self, scope: &ScopedKey) -> bool {
        self.by_key.contains_key(scope)
    }

    /// A group comes in, or goes back, and waits for its turn.
    pub(super) fn insert(&mut self, scope: ScopedKey, group: Group) {
        let share = self.shares.entry(scope.account_id).or_default();
        share.keys += 1;
        share.copies += group.followers.len();
        self.waiting.insert(scope.account_id, group.place, scope.clone());
        self.by_key.insert(scope, group);
    }

    /// A group leaves, with its followers.
    pub(super) fn remove(&mut self, scope: &ScopedKey) -> Option<Group> {
        let group = self.by_key.remove(scope)?;
        self.waiting.remove(&scope.account_id, group.place);
        let share = self.shares.get_mut(&scope.account_id)?;
        share.keys -= 1;
        share.copies -= group.followers.len();
        if share.keys == 0 {
            self.shares.remove(&scope.account_id);
        }
        Some(group)
    }

    /// The leader whose turn it is, taken out to be executed.
    pub(super) fn next_leader(&mut self) -> Option<Submission> {
        loop {
            let scope = self.waiting.pop()?;
            if let Some(group) = self.by_key.get_mut(&scope)
                && let Some((_, leader)) = group.leader.take()
            {
                return Some(leader);
            }
        }
    }

    /// A request joins a key that is there already.
    pub(super) fn follow(&mut self, scope: &ScopedKey, number: u64, submission: Submission) {
        if let Some(group) = self.by_key.get_mut(scope) {
            group.followers.insert(number, submission);
            self.shares.entry(scope.account_id).or_default().copies += 1;
        }
    }

    /// The first of a key's followers follows no longer.
    pub(super) fn first_follower(&mut self, scope: &ScopedKey) -> Option<(u64, Submission)> {
        let follower = self.by_key.get_mut(scope)?.followers.pop_first()?;
        self.forget_copy(scope.account_id);
        Some(follower)
    }

    pub(super) fn set_stage(&mut self, scope: &ScopedKey, stage: Stage) {
        if let Some(group) = self.by_key.get_mut(scope) {
            group.stage = stage;
        }
    }

    /// A caller stops waiting. Says how far its request had come, as far as can be known.
    pub(super) fn leave(&mut self, scope: &ScopedKey, number: u64) -> Stage {
        let Some(group) = self.by_key.get_mut(scope) else { return Stage::Begun };
        if number < group.place {
            // Another group, made since this caller's was settled.
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
            self.forget_copy(scope.account_id);
        }
        stage
    }

    fn forget_copy(&mut self, account_id: Uuid) {
        if let Some(share) = self.shares.get_mut(&account_id) {
            share.copies -= 1;
        }
    }
}
