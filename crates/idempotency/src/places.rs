//! Who has which place in a queue, and whose turn it is: no account takes more than its share, and those
//! that wait take turns.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

use super::{
    key::ScopedKey,
    submission::{Stage, Submission},
};

/// A key in the queue: who leads it, and who follows.
pub(super) struct Group {
    pub(super) stage: Stage,
    /// Its place among those of its account that wait, kept when the group goes back there.
    pub(super) place: u64,
    /// `None` while it is out to be executed.
    pub(super) leader: Option<(u64, Submission)>,
    pub(super) followers: BTreeMap<u64, Submission>,
}

/// What one account has in the queue.
#[derive(Default)]
pub(super) struct Share {
    /// Its groups, waiting and being executed.
    pub(super) keys: usize,
    /// The followers of all of them.
    pub(super) copies: usize,
    /// Its groups that wait, in their order of arrival.
    waiting: BTreeMap<u64, ScopedKey>,
    /// Its place in `Places::turns`, as long as anything waits.
    turn: Option<u64>,
}

/// The keys in a queue, and the turns of their accounts.
#[derive(Default)]
pub(super) struct Places {
    pub(super) groups: HashMap<ScopedKey, Group>,
    /// Of the accounts that have a group.
    pub(super) shares: HashMap<Uuid, Share>,
    /// The accounts for which something waits, in the order in which it is their turn.
    turns: BTreeMap<u64, Uuid>,
    pub(super) closed: bool,
    /// Numbers submissions and, with them, places; and turns.
    next: u64,
}

impl Places {
    pub(super) fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// A group comes in, or goes back, and waits.
    pub(super) fn insert(&mut self, scope: ScopedKey, group: Group) {
        let account_id = scope.account_id;
        let turn = self.number();
        let share = self.shares.entry(account_id).or_default();
        share.keys += 1;
        share.copies += group.followers.len();
        share.waiting.insert(group.place, scope.clone());
        if share.turn.is_none() {
            share.turn = Some(turn);
            self.turns.insert(turn, account_id);
        }
        self.groups.insert(scope, group);
    }

    /// A group leaves, with its followers.
    pub(super) fn remove(&mut self, scope: &ScopedKey) -> Option<Group> {
        let group = self.groups.remove(scope)?;
        let share = self.shares.get_mut(&scope.account_id)?;
        share.keys -= 1;
        share.copies -= group.followers.len();
        share.waiting.remove(&group.place);
        if share.waiting.is_empty()
            && let Some(turn) = share.turn.take()
        {
            self.turns.remove(&turn);
        }
        if share.keys == 0 {
            self.shares.remove(&scope.account_id);
        }
        Some(group)
    }

    /// The oldest key of the account whose turn it is; it waits no longer.
    pub(super) fn next_waiting(&mut self) -> Option<ScopedKey> {
        let (_, account_id) = self.turns.pop_first()?;
        let turn = self.number();
        let share = self.shares.get_mut(&account_id)?;
        let waiting = share.waiting.pop_first();
        share.turn = (!share.waiting.is_empty()).then_some(turn);
        if share.turn.is_some() {
            self.turns.insert(turn, account_id);
        }
        waiting.map(|(_, scope)| scope)
    }

    /// A follower is none any more.
    pub(super) fn forget_copy(&mut self, account_id: Uuid) {
        if let Some(share) = self.shares.get_mut(&account_id) {
            share.copies -= 1;
        }
    }
}
