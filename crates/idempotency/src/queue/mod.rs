//! Requests wait here for a committer, and duplicates of one request meet.
//!
//! - A **request** is one call of [`Engine::submit`](crate::Engine::submit).
//! - A **group** is the requests with one key. The first one is its **leader**, later ones are **followers**, while
//!   the key waits and while it is being executed. A follower takes no place in the queue, and never reaches the
//!   database if the outcome of its leader answers it too.
//! - A **seat** belongs to a caller that waits. Dropping it takes the caller's request out of the queue.
//! - A **job** is a leader that a committer has taken, with the history of its attempts.
//!
//! No account takes more than its share of the places. Accounts take turns: one with a thousand waiting keys delays
//! the others by no more than the batch that is being executed.

use std::{
    any::Any,
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    Failure, Outcome, Record, RecordState,
    key::ScopedKey,
    observer::{Event, Observer, Resolution},
};

use groups::{Group, Groups};
use request::Reply;
use seat::Seat;

pub(crate) use job::{Job, Obstacle, Stage};
pub(crate) use request::Request;

mod fair;
mod groups;
mod job;
mod request;
mod seat;
#[cfg(test)]
mod tests;

/// The duplicates that may wait for each key that an account may have in the queue: far more than normal retries
/// need, and a bound on the memory that a crowd of them takes.
pub const DUPLICATES_PER_KEY: usize = 4;

/// One committer's queue.
pub(crate) struct Queue {
    groups: Mutex<Groups>,
    arrivals: Notify,
    limit: usize,
    account_limit: usize,
    observer: Arc<dyn Observer>,
}

/// The waiting times of commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Patience {
    /// For a lock of another session.
    pub(crate) lock: Duration,
    /// A command that was delayed is not tried again this shortly before its deadline.
    pub(crate) margin: Duration,
}

impl Queue {
    /// The limits count keys that wait or are being executed: of all accounts, and of one.
    pub(crate) fn new((limit, account_limit): (usize, usize), observer: Arc<dyn Observer>) -> Self {
        Self { groups: Mutex::default(), arrivals: Notify::new(), limit, account_limit, observer }
    }

    pub(crate) fn observe(&self, event: Event<'_>) {
        self.observer.observe(event);
    }

    /// Returns the number of keys that wait or are being executed.
    pub(crate) fn keys(&self) -> usize {
        self.groups().len()
    }

    /// They are consistent even if a panic, which would be a defect, poisoned the lock.
    fn groups(&self) -> MutexGuard<'_, Groups> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command in, as its key's leader or as a follower.
    pub(crate) fn join(&self, request: Request) -> Result<Seat<'_>, Failure> {
        let scope = request.scope.clone();
        let mut groups = self.groups();
        if groups.closed {
            return Err(Failure::Overloaded);
        }
        let number = groups.number();
        let share = groups.share(scope.account_id);
        if groups.contains(&scope) {
            if share.followers >= self.account_limit.saturating_mul(DUPLICATES_PER_KEY) {
                return Err(Failure::ShareExceeded);
            }
            groups.follow(&scope, number, request);
        } else if groups.len() >= self.limit {
            return Err(Failure::Overloaded);
        } else if share.keys >= self.account_limit {
            return Err(Failure::ShareExceeded);
        } else {
            let group = Group {
                stage: Stage::Waiting(Obstacle::default()),
                place: number,
                leader: Some((number, request)),
                followers: BTreeMap::new(),
            };
            groups.insert(scope.clone(), group);
            self.arrivals.notify_one();
        }
        drop(groups);
        Ok(Seat::new(self, scope, number))
    }

    /// A caller stops waiting.
    fn leave(&self, scope: &ScopedKey, number: u64) -> Stage {
        let mut groups = self.groups();
        let stage = groups.leave(scope, number);
        self.tell_if_drained(&groups);
        stage
    }

    /// Takes up to `limit` leaders out to be executed: accounts take turns, each with its oldest.
    pub(crate) fn take(&self, limit: usize) -> Vec<Job> {
        let taken: Vec<Job> = {
            let mut groups = self.groups();
            let leaders = std::iter::from_fn(|| groups.next_leader());
            leaders.take(limit).map(Job::new).collect()
        };
        let now = Instant::now();
        for job in &taken {
            self.observe(Event::Taken(now - job.leader.arrived));
        }
        taken
    }

    /// Waits until [`take`](Self::take) may find something, or the queue is closed.
    pub(crate) async fn arrival(&self) {
        self.arrivals.notified().await;
    }

    /// Marks these as begun by a transaction, and returns those whose deadline has passed separately.
    pub(crate) fn begin(&self, part: Vec<Job>) -> (Vec<Job>, Vec<Job>) {
        let mut groups = self.groups();
        // Under the lock: a caller that leaves after this finds its command begun.
        let now = Instant::now();
        let (begun, late): (Vec<_>, Vec<_>) =
            part.into_iter().partition(|job| job.leader.deadline > now);
        for job in &begun {
            groups.set_stage(&job.leader.scope, Stage::Begun);
        }
        (begun, late)
    }

    /// Marks these as waiting, except those that a transaction may have committed.
    pub(crate) fn rolled_back<'a>(&self, batch: impl IntoIterator<Item = &'a Job>) {
        let mut groups = self.groups();
        for job in batch.into_iter().filter(|job| !job.is_in_doubt()) {
            groups.set_stage(&job.leader.scope, Stage::Waiting(job.obstacle));
        }
    }

    /// Answers the leader, whose command was executed and has this record now, and all who follow it.
    pub(crate) fn executed(&self, job: Job, record: Record) {
        self.settled(&job, Resolution::NotCommitted);
        let followers = self.followers(&job);
        for follower in followers {
            let reply = follower.reply(&record);
            self.answer(follower, reply);
        }
        self.answer(job.leader, Ok(executed(record)));
    }

    /// Answers the leader and all who follow it by the record that their key had.
    pub(crate) fn used(&self, job: Job, record: &Record) {
        let id = record.execution_id;
        let left = job.left_in_doubt.iter().find(|left| left.execution_id == id);
        let own = left.is_some() || job.leader.execution_id == id;
        let resolution = if own { Resolution::Committed } else { Resolution::NotCommitted };
        self.settled(&job, resolution);
        if let (Some(left), RecordState::Stored { response, .. }) = (left, &record.state) {
            // None of those who are answered below was executed.
            self.observe(Event::Executed { command: &*left.command, response });
        }
        let followers = self.followers(&job);
        for request in std::iter::once(job.leader).chain(followers) {
            // Its own, committed by a connection that was lost before it could say so.
            let own = request.execution_id == id;
            let reply = if own { Ok(executed(record.clone())) } else { request.reply(record) };
            self.answer(request, reply);
        }
    }

    /// Reports what became of a command, and answers its caller.
    fn answer(&self, request: Request, reply: Reply) {
        let command: &dyn Any = &*request.command;
        match &reply {
            Ok(Outcome::New { response, .. }) => {
                self.observe(Event::Executed { command, response });
            }
            Ok(Outcome::Replay { response, .. }) => {
                self.observe(Event::Replayed { command, response });
            }
            _ => {}
        }
        request.answer(reply);
    }

    /// A COMMIT with this command was sent and not acknowledged.
    pub(crate) fn put_in_doubt(&self, job: &mut Job) {
        if !job.is_in_doubt() {
            self.observe(Event::InDoubt);
        }
        job.in_doubt = true;
    }

    /// If the key was in doubt, it is so no longer.
    fn settled(&self, job: &Job, resolution: Resolution) {
        if job.is_in_doubt() {
            self.observe(Event::Settled(resolution));
        }
    }

    /// Removes the key from the queue, and returns its followers.
    fn followers(&self, job: &Job) -> impl Iterator<Item = Request> + use<> {
        let group = self.remove(&mut self.groups(), &job.leader.scope);
        group.into_iter().flat_map(|group| group.followers.into_values())
    }

    /// Fails the leader, and the followers that sent the same request; if the key is in doubt, they hear that. Of
    /// the other followers, which were not tried, the first becomes the leader.
    pub(crate) fn fail(&self, job: Job, failure: &Failure) {
        self.settled(&job, Resolution::Unknown);
        let failure = if job.is_in_doubt() { &Failure::OutcomeUnknown } else { failure };
        let mut groups = self.groups();
        let Some(mut group) = self.remove(&mut groups, &job.leader.scope) else { return };
        let Job { leader, .. } = job;
        let same = |follower: &Request| follower.fingerprint == leader.fingerprint;
        let (failed, others): (BTreeMap<_, _>, _) = std::mem::take(&mut group.followers)
            .into_iter()
            .partition(|(_, follower)| same(follower));
        group.followers = others;
        if let Some(next) = group.followers.pop_first() {
            group.leader = Some(next);
            group.stage = Stage::Waiting(Obstacle::default());
            groups.insert(leader.scope.clone(), group);
            self.arrivals.notify_one();
        }
        // While the lock is held: a caller whose deadline passes now must not find its key waiting again.
        for request in std::iter::once(leader).chain(failed.into_values()) {
            request.answer(Err(failure.clone()));
        }
    }

    /// Answers a leader whose caller is gone, whose deadline has passed, or that has waited long enough for a lock
    /// of another session; then the next follower leads, by the same rules. `None`: no caller is left.
    pub(crate) fn relead(&self, mut job: Job, patience: Patience) -> Option<Job> {
        loop {
            let leader = &job.leader;
            // No further attempt at the last moment: the caller would only hear that the outcome is unknown.
            let margin = if job.delays > 0 { patience.margin } else { Duration::ZERO };
            // The lock may be its own transaction's, on a connection that was lost.
            let own = job.losses > 0 || job.is_in_doubt();
            let waits_for_lock = job.obstacle.is_lock() && !own;
            let reply = if waits_for_lock && leader.arrived.elapsed() >= patience.lock {
                job.obstacle.reply()
            } else if leader.reply.is_closed() || leader.deadline <= Instant::now() + margin {
                if job.is_in_doubt() { Err(Failure::OutcomeUnknown) } else { job.obstacle.reply() }
            } else {
                return Some(job);
            };
            let Some(next) = self.next_leader(&leader.scope) else {
                self.settled(&job, Resolution::Unknown);
                job.leader.answer(reply);
                return None;
            };
            job.hand_over(next, reply);
        }
    }

    /// Takes out the first follower of a key; without one, the key leaves the queue.
    fn next_leader(&self, scope: &ScopedKey) -> Option<Request> {
        let mut groups = self.groups();
        let next = groups.first_follower(scope);
        if next.is_none() {
            self.remove(&mut groups, scope);
        }
        next.map(|(_, follower)| follower)
    }

    /// Takes no more commands in; those that wait can still be taken out.
    pub(crate) fn close(&self) {
        self.groups().closed = true;
        self.arrivals.notify_one();
    }

    /// Returns whether it is closed and empty.
    pub(crate) fn is_drained(&self) -> bool {
        let groups = self.groups();
        groups.is_drained()
    }

    /// The key leaves the queue.
    fn remove(&self, groups: &mut Groups, scope: &ScopedKey) -> Option<Group> {
        let group = groups.remove(scope);
        self.tell_if_drained(groups);
        group
    }

    /// Wakes the committer if the queue is closed and empty.
    fn tell_if_drained(&self, groups: &Groups) {
        if groups.is_drained() {
            self.arrivals.notify_one();
        }
    }
}

/// The reply to the caller whose command was executed.
fn executed(record: Record) -> Outcome {
    let execution_id = record.execution_id;
    match record.state {
        RecordState::Stored { response, replayable_until } => {
            Outcome::New { execution_id, response, replayable_until }
        }
        RecordState::Expired => Outcome::Expired { execution_id },
        RecordState::Voided => Outcome::Voided,
    }
}
