//! Where commands wait for a committer, and where duplicates of one request meet.
//!
//! A key is in the queue at most once: the first command that brings it leads, later ones follow it,
//! whether it still waits or is being executed. A follower takes no place in the queue and never
//! reaches the database while its leader's outcome answers it too.
//!
//! No account takes more than its share of the places, and accounts take turns: one that has a thousand
//! keys waiting delays the others by no more than the batch that is being executed.

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
use seat::Seat;
use submission::Reply;

pub(crate) use submission::{Obstacle, Running, Stage, Submission};

mod fair;
mod groups;
mod seat;
mod submission;
#[cfg(test)]
mod tests;

/// The duplicates that may wait for each key that an account may have in the queue: far more than normal retries
/// need, and a bound on the memory that a crowd of them takes.
pub const COPIES_FOR_A_KEY: usize = 4;

/// One committer's queue.
pub(crate) struct Queue {
    state: Mutex<State>,
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

#[derive(Default)]
struct State {
    groups: Groups,
    /// No more commands are taken in.
    closed: bool,
}

impl Queue {
    /// The limits count keys that wait or are being executed: of all accounts, and of one.
    pub(crate) fn new((limit, account_limit): (usize, usize), observer: Arc<dyn Observer>) -> Self {
        Self { state: Mutex::default(), arrivals: Notify::new(), limit, account_limit, observer }
    }

    pub(crate) fn observe(&self, event: Event<'_>) {
        self.observer.observe(event);
    }

    /// Returns the number of keys that wait or are being executed.
    pub(crate) fn keys(&self) -> usize {
        self.state().groups.len()
    }

    /// The state is consistent even if a panic, which would be a defect, poisoned the lock.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a command in, as its key's leader or as a follower.
    pub(crate) fn join(&self, submission: Submission) -> Result<Seat<'_>, Failure> {
        let scope = submission.scope.clone();
        let mut state = self.state();
        if state.closed {
            return Err(Failure::Overloaded);
        }
        let groups = &mut state.groups;
        let number = groups.number();
        let share = groups.share(scope.account_id);
        if groups.contains(&scope) {
            if share.copies >= self.account_limit.saturating_mul(COPIES_FOR_A_KEY) {
                return Err(Failure::ShareExceeded);
            }
            groups.follow(&scope, number, submission);
        } else if groups.len() >= self.limit {
            return Err(Failure::Overloaded);
        } else if share.keys >= self.account_limit {
            return Err(Failure::ShareExceeded);
        } else {
            let group = Group {
                stage: Stage::Waiting(Obstacle::default()),
                place: number,
                leader: Some((number, submission)),
                followers: BTreeMap::new(),
            };
            groups.insert(scope.clone(), group);
            self.arrivals.notify_one();
        }
        drop(state);
        Ok(Seat::new(self, scope, number))
    }

    /// A caller stops waiting.
    fn leave(&self, scope: &ScopedKey, number: u64) -> Stage {
        let mut state = self.state();
        let stage = state.groups.leave(scope, number);
        self.tell_if_drained(&state);
        stage
    }

    /// Takes up to `limit` leaders out to be executed: accounts take turns, each with its oldest.
    pub(crate) fn take(&self, limit: usize) -> Vec<Running> {
        let taken: Vec<Running> = {
            let mut state = self.state();
            let leaders = std::iter::from_fn(|| state.groups.next_leader());
            leaders.take(limit).map(Running::new).collect()
        };
        let now = Instant::now();
        for running in &taken {
            self.observe(Event::Taken(now - running.leader.arrived));
        }
        taken
    }

    /// Waits until [`take`](Self::take) may find something, or the queue is closed.
    pub(crate) async fn arrival(&self) {
        self.arrivals.notified().await;
    }

    /// Marks these as begun by a transaction, and returns those whose deadline has passed separately.
    pub(crate) fn begin(&self, part: Vec<Running>) -> (Vec<Running>, Vec<Running>) {
        let mut state = self.state();
        // Under the lock: a caller that leaves after this finds its command begun.
        let now = Instant::now();
        let (begun, late): (Vec<_>, Vec<_>) =
            part.into_iter().partition(|running| running.leader.deadline > now);
        for running in &begun {
            state.groups.set_stage(&running.leader.scope, Stage::Begun);
        }
        (begun, late)
    }

    /// Marks these as waiting, except those that a transaction may have committed.
    pub(crate) fn rolled_back<'a>(&self, batch: impl IntoIterator<Item = &'a Running>) {
        let mut state = self.state();
        for running in batch.into_iter().filter(|running| !running.is_in_doubt()) {
            state.groups.set_stage(&running.leader.scope, Stage::Waiting(running.obstacle));
        }
    }

    /// Answers the leader, whose command was executed and has this record now, and all who follow it.
    pub(crate) fn executed(&self, running: Running, record: Record) {
        self.settled(&running, Resolution::NotCommitted);
        let followers = self.followers(&running);
        for follower in followers {
            let reply = follower.reply(&record);
            self.answer(follower, reply);
        }
        self.answer(running.leader, Ok(executed(record)));
    }

    /// Answers the leader and all who follow it by the record that their key had.
    pub(crate) fn used(&self, running: Running, record: &Record) {
        let id = record.execution_id;
        let left = running.left_in_doubt.iter().find(|left| left.execution_id == id);
        let own = left.is_some() || running.leader.execution_id == id;
        let resolution = if own { Resolution::Committed } else { Resolution::NotCommitted };
        self.settled(&running, resolution);
        if let (Some(left), RecordState::Stored { response, .. }) = (left, &record.state) {
            // None of those who are answered below was executed.
            self.observe(Event::Executed { command: &*left.command, response });
        }
        let followers = self.followers(&running);
        for submission in std::iter::once(running.leader).chain(followers) {
            // Its own, committed by a connection that was lost before it could say so.
            let own = submission.execution_id == id;
            let reply = if own { Ok(executed(record.clone())) } else { submission.reply(record) };
            self.answer(submission, reply);
        }
    }

    /// Reports what became of a command, and answers its caller.
    fn answer(&self, submission: Submission, reply: Reply) {
        let command: &dyn Any = &*submission.command;
        match &reply {
            Ok(Outcome::New { response, .. }) => {
                self.observe(Event::Executed { command, response });
            }
            Ok(Outcome::Replay { response, .. }) => {
                self.observe(Event::Replayed { command, response });
            }
            _ => {}
        }
        submission.answer(reply);
    }

    /// A COMMIT with this command was sent and not acknowledged.
    pub(crate) fn put_in_doubt(&self, running: &mut Running) {
        if !running.is_in_doubt() {
            self.observe(Event::InDoubt);
        }
        running.in_doubt = true;
    }

    /// If the key was in doubt, it is so no longer.
    fn settled(&self, running: &Running, resolution: Resolution) {
        if running.is_in_doubt() {
            self.observe(Event::Settled(resolution));
        }
    }

    /// Removes the key from the queue, and returns its followers.
    fn followers(&self, running: &Running) -> impl Iterator<Item = Submission> + use<> {
        let group = self.remove(&mut self.state(), &running.leader.scope);
        group.into_iter().flat_map(|group| group.followers.into_values())
    }

    /// Fails the leader, and the followers that sent the same request; if the key is in doubt, they hear that. Of
    /// the other followers, which were not tried, the first becomes the leader.
    pub(crate) fn fail(&self, running: Running, failure: &Failure) {
        self.settled(&running, Resolution::Unknown);
        let failure = if running.is_in_doubt() { &Failure::OutcomeUnknown } else { failure };
        let mut state = self.state();
        let Some(mut group) = self.remove(&mut state, &running.leader.scope) else { return };
        let Running { leader, .. } = running;
        let same = |follower: &Submission| follower.fingerprint == leader.fingerprint;
        let (failed, others): (BTreeMap<_, _>, _) = std::mem::take(&mut group.followers)
            .into_iter()
            .partition(|(_, follower)| same(follower));
        group.followers = others;
        if let Some(next) = group.followers.pop_first() {
            group.leader = Some(next);
            group.stage = Stage::Waiting(Obstacle::default());
            state.groups.insert(leader.scope.clone(), group);
            self.arrivals.notify_one();
        }
        // While the lock is held: a caller whose deadline passes now must not find its key waiting again.
        for submission in std::iter::once(leader).chain(failed.into_values()) {
            submission.answer(Err(failure.clone()));
        }
    }

    /// Answers a leader whose caller is gone, whose deadline has passed, or that has waited long enough for a lock
    /// of another session; then the next follower leads, by the same rules. `None`: no caller is left.
    pub(crate) fn relead(&self, mut running: Running, patience: Patience) -> Option<Running> {
        loop {
            let leader = &running.leader;
            // No further attempt at the last moment: the caller would only hear that the outcome is unknown.
            let margin = if running.delays > 0 { patience.margin } else { Duration::ZERO };
            // The lock may be its own transaction's, on a connection that was lost.
            let own = running.losses > 0 || running.is_in_doubt();
            let waits_for_lock = running.obstacle.is_lock() && !own;
            let reply = if waits_for_lock && leader.arrived.elapsed() >= patience.lock {
                running.obstacle.reply()
            } else if leader.reply.is_closed() || leader.deadline <= Instant::now() + margin {
                if running.is_in_doubt() {
                    Err(Failure::OutcomeUnknown)
                } else {
                    running.obstacle.reply()
                }
            } else {
                return Some(running);
            };
            let Some(next) = self.next_leader(&leader.scope) else {
                self.settled(&running, Resolution::Unknown);
                running.leader.answer(reply);
                return None;
            };
            running.hand_over(next, reply);
        }
    }

    /// Takes out the first follower of a key; without one, the key leaves the queue.
    fn next_leader(&self, scope: &ScopedKey) -> Option<Submission> {
        let mut state = self.state();
        let next = state.groups.first_follower(scope);
        if next.is_none() {
            self.remove(&mut state, scope);
        }
        next.map(|(_, follower)| follower)
    }

    /// Takes no more commands in; those that wait can still be taken out.
    pub(crate) fn close(&self) {
        self.state().closed = true;
        self.arrivals.notify_one();
    }

    /// Returns whether it is closed and empty.
    pub(crate) fn is_drained(&self) -> bool {
        let state = self.state();
        state.closed && state.groups.is_empty()
    }

    /// The key leaves the queue.
    fn remove(&self, state: &mut State, scope: &ScopedKey) -> Option<Group> {
        let group = state.groups.remove(scope);
        self.tell_if_drained(state);
        group
    }

    /// Wakes the committer if the queue is closed and empty.
    fn tell_if_drained(&self, state: &State) {
        if state.closed && state.groups.is_empty() {
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
