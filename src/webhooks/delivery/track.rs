//! A reader of the feed: the events it has read, in order, and which of them are done.

use std::collections::BTreeMap;

use super::{cursor::Cursor, facts::Facts};

/// Events that are read ahead: fewer than these wait when the next page is read.
const READ_AHEAD: usize = 32;

/// An event that is not done.
#[derive(Debug, Clone, Copy)]
pub(super) enum Open {
    Waiting(Facts),
    Called,
}

/// First deliveries, or a replay.
#[derive(Debug)]
pub(super) struct Track {
    /// The cursor that the database has.
    stored: Cursor,
    read_to: i64,
    /// The last position of a replay.
    end: i64,
    open: BTreeMap<i64, Open>,
}

impl Track {
    pub(super) fn new(stored: Cursor, end: i64) -> Self {
        Self { stored, read_to: stored.position, end, open: BTreeMap::new() }
    }

    /// The position after which to read, if there is room for another page.
    pub(super) fn reads_after(&self) -> Option<i64> {
        let waiting = self.open.values().filter(|open| matches!(open, Open::Waiting(_))).count();
        (waiting < READ_AHEAD && self.read_to < self.end).then_some(self.read_to)
    }

    /// Adds a page. Events up to `next_after` that it does not contain are filtered out.
    pub(super) fn read(&mut self, page: &[Facts], next_after: i64) {
        let next_after = next_after.min(self.end);
        for facts in page.iter().filter(|facts| facts.position <= next_after) {
            if facts.position > self.read_to && !self.stored.is_done(facts.position) {
                self.open.insert(facts.position, Open::Waiting(*facts));
            }
        }
        self.read_to = self.read_to.max(next_after);
    }

    /// The cursor to store.
    pub(super) fn cursor(&self) -> Cursor {
        Cursor::of(self.open.keys().copied(), self.read_to, self.stored)
    }

    pub(super) fn stored(&self) -> Cursor {
        self.stored
    }

    pub(super) fn set_stored(&mut self, cursor: Cursor) {
        self.stored = cursor;
        self.read_to = self.read_to.max(cursor.position);
    }

    /// Events with a slot that wait for their call, in order.
    pub(super) fn waiting(&self) -> impl Iterator<Item = Facts> {
        let with_slot =
            self.open.iter().take_while(|(position, _)| self.stored.has_slot(**position));
        with_slot.filter_map(|(_, open)| match open {
            Open::Waiting(facts) => Some(*facts),
            Open::Called => None,
        })
    }

    pub(super) fn waits(&self, position: i64) -> bool {
        matches!(self.open.get(&position), Some(Open::Waiting(_)))
    }

    /// Lets an event wait again that was not called after all.
    pub(super) fn wait(&mut self, facts: Facts) {
        self.open.insert(facts.position, Open::Waiting(facts));
    }

    pub(super) fn call(&mut self, position: i64) {
        self.open.insert(position, Open::Called);
    }

    /// Notes that the call of an event has ended, or that its row lets the cursor pass.
    pub(super) fn finish(&mut self, position: i64) {
        if matches!(self.open.get(&position), Some(Open::Called)) {
            self.open.remove(&position);
        }
    }

    /// Passes over an event without a call.
    pub(super) fn pass(&mut self, position: i64) {
        self.open.remove(&position);
    }

    /// Passes over events that wait and are not wanted.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&Facts) -> bool) {
        self.open.retain(|_, open| match open {
            Open::Waiting(facts) => wanted(facts),
            Open::Called => true,
        });
    }

    /// Returns whether everything up to the end is done and stored.
    pub(super) fn has_ended(&self) -> bool {
        self.stored.position >= self.end
    }

    /// Returns whether no event waits.
    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }
}
