//! What is done about a batch whose transaction failed: the whole of the failure table.

use std::time::Duration;

use log::{debug, error, warn};
use tokio::{
    sync::mpsc::UnboundedSender,
    time::{Instant, sleep},
};

use super::{Lane, Role};
use crate::{
    Failure,
    connection::Fault,
    error::Remedy,
    observer::Event,
    queue::Queue,
    submission::{Running, Stage},
};

/// From how many lost connections on a batch is suspected of killing them, and halved.
const HALVE_AFTER_LOSSES: u32 = 2;

/// With how many lost connections a command alone is put aside.
const ASIDE_AFTER_LOSSES: u32 = 4;

/// Every how many repetitions in a row a batch that meets other transactions is halved.
const HALVE_AFTER_REPEATS: u32 = 4;

impl Lane {
    /// Does what has to be done about a batch whose transaction failed.
    pub(super) async fn amend(&mut self, mut part: Vec<Running>, fault: Fault) {
        let Fault { remedy, in_doubt, message } = fault;
        for running in &mut part {
            running.losses += u32::from(remedy == Remedy::Reconnect);
            if in_doubt {
                self.queue.put_in_doubt(running);
            }
        }
        self.queue.observe(Event::Failed(remedy));
        self.queue.mark(&part, Stage::Waiting);
        let size = part.len();
        match remedy {
            Remedy::Isolate => {
                debug!("a transaction of {size} was rolled back, to be run in halves: {message}");
                self.isolate(part, &message);
            }
            Remedy::Repeat => {
                debug!("a transaction of {size} met another, to be run again: {message}");
                self.repeats += 1;
                if self.repeats.is_multiple_of(HALVE_AFTER_REPEATS) {
                    let alone = self.halve(part);
                    self.parts.extend(alone.map(|alone| vec![alone]));
                } else {
                    self.parts.push(part);
                }
                sleep(Duration::from_millis(fastrand::u64(0..10))).await;
            }
            Remedy::Sidestep => self.sidestep(part, &message),
            Remedy::Reconnect => {
                let fate =
                    if in_doubt { "while it was committed" } else { "before it was committed" };
                warn!("lost the connection with a transaction of {size}, {fate}: {message}");
                self.suspect(part);
                self.connector.pause().await;
            }
            Remedy::AwaitServer => {
                warn!("no server to write to, {size} keys wait: {message}");
                self.parts.push(part);
                self.connector.pause().await;
            }
            Remedy::Refuse => {
                error!("PostgreSQL refused a transaction of {size}: {message}");
                for running in part {
                    self.queue.fail(running, &Failure::Overloaded);
                }
            }
        }
    }

    /// Runs halves next, or fails the guilty command where it is alone.
    fn isolate(&mut self, part: Vec<Running>, message: &str) {
        if let Some(guilty) = self.halve(part) {
            let (operation, execution_id) = (guilty.leader.operation, guilty.leader.execution_id);
            error!(
                "{operation} {execution_id} of key {} can't be executed: {message}",
                guilty.leader.scope
            );
            self.queue.fail(guilty, &Failure::Internal(message.into()));
        }
    }

    /// Finds the command whose row somebody else has locked, and puts it aside, with all that want the
    /// same row. The others, which have waited for it, are then run together: most likely nothing is wrong
    /// with them.
    fn sidestep(&mut self, part: Vec<Running>, message: &str) {
        self.searching = matches!(self.role, Role::Main { .. });
        if let Some(suspect) = self.halve(part) {
            if self.searching {
                warn!(
                    "key {} is locked by another session, put aside: {message}",
                    suspect.leader.scope
                );
            }
            let row = suspect.leader.row;
            if let Role::Main { sidestepped, .. } = &mut self.role
                && let Some(row) = row
            {
                sidestepped.add_row(row, Instant::now());
            }
            self.put_aside(suspect);
            let mut rest: Vec<Running> = self.parts.drain(..).flatten().collect();
            let wants_it = |running: &mut Running| row.is_some() && running.leader.row == row;
            for running in rest.extract_if(.., wants_it).collect::<Vec<_>>() {
                self.put_aside(running);
            }
            rest.sort_by(|a, b| a.leader.scope.cmp(&b.leader.scope));
            self.parts.extend(Some(rest).filter(|rest| !rest.is_empty()));
        }
    }

    /// Runs a batch again whose connection was lost; if that happens again and again it may be this
    /// batch that kills connections, and is run in halves.
    fn suspect(&mut self, part: Vec<Running>) {
        let losses = part.iter().map(|running| running.losses).max().unwrap_or(0);
        if losses < HALVE_AFTER_LOSSES {
            self.parts.push(part);
        } else if let Some(suspect) = self.halve(part) {
            if losses < ASIDE_AFTER_LOSSES {
                self.parts.push(vec![suspect]);
            } else {
                warn!("key {} lost its connection {losses} times, put aside", suspect.leader.scope);
                self.put_aside(suspect);
            }
        }
    }

    /// The first half is run next, and then the second. One that is alone is given back.
    fn halve(&mut self, mut part: Vec<Running>) -> Option<Running> {
        if part.len() <= 1 {
            return part.pop();
        }
        let second = part.split_off(part.len().div_ceil(2));
        self.parts.extend([second, part]);
        None
    }

    /// Moves a command where it can't hold up others; there, it tries again.
    fn put_aside(&mut self, running: Running) {
        match &mut self.role {
            Role::Main { aside, sidestepped } => {
                sidestepped.add_key(running.leader.scope.clone(), Instant::now());
                put_aside(aside, &self.queue, running);
            }
            Role::Aside { .. } => self.delay(running),
        }
    }

    /// After a panic, whose message stands on stderr already.
    pub(super) fn recover(&mut self) {
        let Some(mut part) = self.parts.pop() else { return };
        if self.connector.may_have_committed() {
            for running in &mut part {
                self.queue.put_in_doubt(running);
            }
            self.parts.push(part);
        } else {
            self.queue.mark(&part, Stage::Waiting);
            self.isolate(part, "it panicked");
        }
    }
}

/// What comes there waits for somebody else, and hears so when its wait is over, tried or not: of a hundred
/// that want one locked row, each would try for as long as a lock is waited for.
pub(super) fn put_aside(aside: &UnboundedSender<Running>, queue: &Queue, mut running: Running) {
    running.delays += 1;
    if let Err(closed) = aside.send(running) {
        // The other lane has ended, which it does after this one: a defect, and still an answer.
        queue.fail(closed.0, &Failure::Overloaded);
    }
}
