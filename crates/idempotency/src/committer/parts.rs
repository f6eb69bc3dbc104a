//! The parts of a batch, run one after the other.

use futures_util::future::join;

use super::{Committer, Role, batch::Mode, failed::Failed, look_up::Look};
use crate::{
    observer::Event,
    queue::{Job, Obstacle},
};

impl Committer {
    pub(super) async fn run_next_part(&mut self) {
        if self.search.is_some() {
            // The largest part first: the sooner one succeeds, the sooner it is clear that the database works.
            self.parts.sort_by_key(Vec::len);
        }
        let part: Vec<Job> =
            self.parts.pop().into_iter().flatten().filter_map(|job| self.relead(job)).collect();
        if part.is_empty() {
            return;
        }
        self.parts.push(part);
        if !self.connector.is_connected() {
            // Callers whose outcome is known don't wait for a connection.
            self.answers.give(&self.queue);
        }
        let run = match self.connector.connect().await {
            Ok(()) => {
                if !self.begin() {
                    return;
                }
                let mode = self.mode();
                if mode == Mode::Usual
                    && self.connector.looks_up_first()
                    && !self.look_up_first().await
                {
                    return;
                }
                let Some(part) = self.parts.last() else { return };
                let run = self.connector.run(part, mode);
                let answers = async { self.answers.give(&self.queue) };
                // In this order, the batch is sent before answering begins.
                let (run, ()) = join(run, answers).await;
                run
            }
            Err(unfit) => Err(Failed::no_server(unfit.to_string())),
        };
        let Some(part) = self.parts.pop() else { return };
        match run {
            Ok(records) => {
                if let Some(search) = &mut self.search {
                    search.part_succeeded();
                }
                self.queue.observe(Event::Committed(part.len()));
                let mut open = Vec::new();
                for (job, record) in part.into_iter().zip(records) {
                    match record {
                        Some(record) => self.answers.executed(job, record),
                        None => open.push(job),
                    }
                }
                if !open.is_empty() {
                    self.look_up_last(open).await;
                }
            }
            Err(failed) => self.recover_from(part, &failed).await,
        }
    }

    /// Marks the part at hand as begun, without commands whose deadline has passed: their callers hear that nothing
    /// was executed. Returns whether any are left.
    fn begin(&mut self) -> bool {
        let Some(part) = self.parts.pop() else { return false };
        let (begun, late) = self.queue.begin(part);
        let others: Vec<Job> = late.into_iter().filter_map(|job| self.relead(job)).collect();
        if !others.is_empty() {
            self.parts.push(others);
        }
        let any = !begun.is_empty();
        if any {
            self.parts.push(begun);
        }
        any
    }

    /// Answers the commands of the part at hand whose keys are used. Returns whether any are left to be claimed.
    async fn look_up_first(&mut self) -> bool {
        let open = self.look_up(Look::First).await;
        let any = !open.is_empty();
        if any {
            self.parts.push(open);
        }
        any
    }

    /// Answers the commands whose keys are used, and delays the others, whose keys are in flight elsewhere.
    async fn look_up_last(&mut self, part: Vec<Job>) {
        self.parts.push(part);
        for job in self.look_up(Look::Last).await {
            self.delay(job, Obstacle::KeyInFlight);
        }
    }

    /// Looks up the keys of the part at hand, answers the commands whose keys are used, and returns the others.
    /// After a failure it recovers and returns none.
    async fn look_up(&mut self, look: Look) -> Vec<Job> {
        let Some(part) = self.parts.last() else { return Vec::new() };
        let look_up = self.connector.look_up(part, look);
        let answers = async { self.answers.give(&self.queue) };
        let (found, ()) = join(look_up, answers).await;
        let Some(part) = self.parts.pop() else { return Vec::new() };
        let records = match found {
            Ok(records) => records,
            Err(failed) => {
                self.recover_from(part, &failed).await;
                return Vec::new();
            }
        };
        let mut open = Vec::new();
        for (job, record) in part.into_iter().zip(records) {
            match record {
                Some(record) => self.answers.used(job, record),
                None => open.push(job),
            }
        }
        open
    }

    /// Returns the mode of the next part.
    fn mode(&self) -> Mode {
        match self.role {
            Role::Main { .. } if self.search.is_some() => Mode::Searching,
            Role::Main { .. } => Mode::Usual,
            Role::Quarantine { .. } => Mode::Stepwise,
        }
    }
}
