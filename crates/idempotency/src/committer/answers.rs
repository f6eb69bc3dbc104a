//! Commands whose outcome is known. Their callers hear it while PostgreSQL works on the next part.

use std::collections::VecDeque;

use crate::{
    Record,
    queue::{Job, Queue},
};

/// A command stays here until it is answered, so that a panic cannot lose it.
#[derive(Default)]
pub(super) struct Answers(VecDeque<Decided>);

struct Decided {
    job: Job,
    record: Record,
    /// True if the record is of its own execution, in the last batch.
    executed: bool,
}

impl Answers {
    pub(super) fn executed(&mut self, job: Job, record: Record) {
        self.0.push_back(Decided { job, record, executed: true });
    }

    pub(super) fn used(&mut self, job: Job, record: Record) {
        self.0.push_back(Decided { job, record, executed: false });
    }

    pub(super) fn give(&mut self, queue: &Queue) {
        while let Some(Decided { job, record, executed }) = self.0.pop_front() {
            if executed {
                queue.executed(job, record);
            } else {
                queue.used(job, &record);
            }
        }
    }
}
