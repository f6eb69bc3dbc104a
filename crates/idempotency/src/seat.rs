//! A caller's place in a queue.

use super::{key::ScopedKey, queue::Queue, submission::Stage};

/// A caller's place, left when it stops waiting: by [`leave`](Self::leave), or by dropping it.
pub(super) struct Seat<'a> {
    queue: &'a Queue,
    scope: ScopedKey,
    number: u64,
    left: bool,
}

impl<'a> Seat<'a> {
    /// That of a caller who was given this number.
    pub(super) fn taken(queue: &'a Queue, scope: ScopedKey, number: u64) -> Self {
        Self { queue, scope, number, left: false }
    }

    /// The caller has heard its outcome: there is nothing to leave.
    pub(super) fn answered(mut self) {
        self.left = true;
    }

    /// The caller stops waiting. Says how far its request had come, so far as can be known.
    pub(super) fn leave(mut self) -> Stage {
        self.left = true;
        self.vacate()
    }

    fn vacate(&self) -> Stage {
        let mut state = self.queue.state();
        let state = &mut *state;
        let Some(group) = state.groups.get_mut(&self.scope) else { return Stage::Begun };
        if self.number < group.place {
            // Another group, made since ours was settled.
            return Stage::Begun;
        }
        let stage = group.stage;
        if group.leader.as_ref().is_some_and(|(number, _)| *number == self.number) {
            group.leader = group.followers.pop_first();
            if group.leader.is_some() {
                state.forget_copy(self.scope.account_id);
            } else {
                self.queue.remove(state, &self.scope);
            }
        } else if group.followers.remove(&self.number).is_some() {
            state.forget_copy(self.scope.account_id);
        }
        stage
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.vacate();
        }
    }
}
