//! Commands whose outcome is known, and whose callers hear it while PostgreSQL has the next part.

use std::collections::VecDeque;

use crate::{
    Record,
    queue::{Queue, Running},
};

/// They stay here until they are answered, so that no panic can lose them.
#[derive(Default)]
pub(super) struct Answers(VecDeque<Decided>);

struct Decided {
    running: Running,
    record: Record,
    /// Whether the record is of its own execution, just now.
    executed: bool,
}

impl Answers {
    pub(super) fn executed(&mut self, running: Running, record: Record) {
        self.0.push_back(Decided { running, record, executed: true });
    }

    pub(super) fn used(&mut self, running: Running, record: Record) {
        self.0.push_back(Decided { running, record, executed: false });
    }

    pub(super) fn give(&mut self, queue: &Queue) {
        while let Some(Decided { running, record, executed }) = self.0.pop_front() {
            if executed {
                queue.executed(running, record);
            } else {
                queue.used(running, &record);
            }
        }
    }
}
