//! A caller's place in a queue.

use super::{Queue, Stage};
use crate::key::ScopedKey;

/// A caller's place, left when it stops waiting: by [`leave`](Self::leave), or by dropping it.
pub(crate) struct Seat<'a> {
    queue: &'a Queue,
    scope: ScopedKey,
    number: u64,
    left: bool,
}

impl<'a> Seat<'a> {
    /// The place of the caller who was given this number.
    pub(super) fn new(queue: &'a Queue, scope: ScopedKey, number: u64) -> Self {
        Self { queue, scope, number, left: false }
    }

    /// The caller has heard its outcome: there is nothing to leave.
    pub(crate) fn answered(mut self) {
        self.left = true;
    }

    /// The caller stops waiting. Returns how far its execution has come.
    pub(crate) fn leave(mut self) -> Stage {
        self.left = true;
        self.queue.leave(&self.scope, self.number)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        if !self.left {
            self.queue.leave(&self.scope, self.number);
        }
    }
}
