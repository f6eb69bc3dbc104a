//! A worker of a server: holds the lease of the endpoint, calls the receiver, and stores its progress.

use std::collections::BTreeMap;
use std::fmt;

use super::{ATTEMPTS, Delivery, Failure, Progress, SLOTS, State, WINDOW};
use crate::Variant;

/// A worker. Without a lease it knows nothing and calls nobody.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Worker {
    /// The epoch of its lease, from 1.
    epoch: usize,
    /// The endpoint's rows, as this worker read and wrote them.
    known: Option<Progress>,
    /// A slot is free again when its completion is stored.
    slots: BTreeMap<usize, Call>,
    /// Failures of the next transaction. For `Variant::CursorBeforeFailures` only.
    unstored: Vec<usize>,
}

/// The call in a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Call {
    Running,
    Accepted,
    Failed,
    /// Not called: an earlier event of the payment has an open failure.
    Behind,
}

/// A step of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Takes the lease, also from another worker, and reads the endpoint's rows. The other worker may still believe to hold it.
    TakeLease,
    /// Starts a call of an event: a first attempt, or a retry of a failure.
    Call(usize),
    /// Gives an event a slot without a call, because an earlier event of its payment failed.
    Wait(usize),
    /// The receiver gets the event, and the worker gets its 2xx.
    Accepted(usize),
    /// The receiver gets the event, but the worker gets no response, or an error.
    ResponseLost(usize),
    /// The receiver does not get the event.
    Lost(usize),
    /// Stores all completions in one transaction.
    Store,
    /// The second transaction of `Variant::CursorBeforeFailures`.
    StoreFailures,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TakeLease => f.write_str("takes the lease"),
            Self::Call(event) => write!(f, "calls with event {event}"),
            Self::Wait(event) => write!(f, "puts event {event} behind a failure of its payment"),
            Self::Accepted(event) => write!(f, "hears that event {event} was accepted"),
            Self::ResponseLost(event) => write!(f, "hears nothing, but event {event} was received"),
            Self::Lost(event) => write!(f, "fails to send event {event}"),
            Self::Store => f.write_str("stores its progress"),
            Self::StoreFailures => f.write_str("stores the failures"),
        }
    }
}

impl Delivery {
    pub(super) fn steps(&self, state: &State, number: usize) -> Vec<Step> {
        let worker = &state.workers[number];
        let mut steps = vec![];
        if state.lease_epoch <= self.takeovers {
            steps.push(Step::TakeLease);
        }
        let Some(known) = &worker.known else { return steps };
        if !worker.unstored.is_empty() {
            steps.push(Step::StoreFailures);
            return steps;
        }
        for (event, call) in &worker.slots {
            if *call == Call::Running {
                steps.extend([
                    Step::Accepted(*event),
                    Step::ResponseLost(*event),
                    Step::Lost(*event),
                ]);
            }
        }
        if worker.slots.values().any(|call| *call != Call::Running) {
            steps.push(Step::Store);
        }
        // The clock of a lease is monotonic, and a call ends before its lease: no call starts after the lease is lost.
        let has_lease =
            worker.epoch == state.lease_epoch || self.variant == Variant::CallWithoutLease;
        if has_lease && worker.slots.len() < SLOTS {
            let window = 0..(known.cursor() + WINDOW).min(self.payments.len());
            steps.extend(window.filter_map(|event| self.start(worker, known, event)));
        }
        steps
    }

    /// The step that gives an event a slot, if it is its turn.
    fn start(&self, worker: &Worker, known: &Progress, event: usize) -> Option<Step> {
        let is_open = |event: &usize| matches!(known.failures.get(event), Some(Failure::Open(_)));
        if worker.slots.contains_key(&event) || known.is_settled(event) {
            return None;
        }
        let unsettled: Vec<_> =
            self.earlier(event).filter(|earlier| !known.is_settled(*earlier)).collect();
        if unsettled.is_empty() {
            return Some(Step::Call(event));
        }
        // It has not been passed yet, and no earlier event of its payment is in its first attempt.
        let waits = !known.done[event] && unsettled.iter().all(is_open);
        waits.then_some(Step::Wait(event))
    }

    pub(super) fn does(&self, state: &mut State, number: usize, step: Step) {
        match step {
            Step::TakeLease => state.take_lease(number),
            Step::Call(event) => state.workers[number].set(event, Call::Running),
            Step::Wait(event) => state.workers[number].set(event, Call::Behind),
            Step::Accepted(event) => {
                state.receiver[event].receive();
                state.workers[number].set(event, Call::Accepted);
            }
            Step::ResponseLost(event) => {
                state.receiver[event].receive();
                state.receiver[event].permitted += 1;
                state.workers[number].set(event, Call::Failed);
            }
            Step::Lost(event) => state.workers[number].set(event, Call::Failed),
            Step::Store => self.store(state, number),
            Step::StoreFailures => self.store_failures(state, number),
        }
    }

    /// One transaction: the cursor passes an event, and its failure is stored. Both name the epoch of the lease.
    fn store(&self, state: &mut State, number: usize) {
        let mut worker = std::mem::take(&mut state.workers[number]);
        let Some(mut known) = worker.known.take().filter(|_| self.may_store(state, &worker)) else {
            return;
        };
        let completed: Vec<_> =
            worker.slots.extract_if(.., |_, call| *call != Call::Running).collect();
        for (event, call) in completed {
            known.done[event] = true;
            match call {
                Call::Accepted => drop(known.failures.remove(&event)),
                Call::Running => {}
                Call::Failed | Call::Behind if self.variant == Variant::CursorBeforeFailures => {
                    worker.unstored.push(event);
                }
                Call::Failed => known.add_attempt(event),
                Call::Behind => drop(known.failures.insert(event, Failure::Open(0))),
            }
        }
        state.stored = known.clone();
        state.workers[number] = Worker { known: Some(known), ..worker };
    }

    fn store_failures(&self, state: &mut State, number: usize) {
        let mut worker = std::mem::take(&mut state.workers[number]);
        let Some(mut known) = worker.known.take().filter(|_| self.may_store(state, &worker)) else {
            return;
        };
        for event in std::mem::take(&mut worker.unstored) {
            known.add_attempt(event);
        }
        state.stored = known.clone();
        state.workers[number] = Worker { known: Some(known), ..worker };
    }

    /// `WHERE lease_epoch = mine`. A worker that is refused forgets everything.
    fn may_store(&self, state: &State, worker: &Worker) -> bool {
        worker.epoch == state.lease_epoch || self.variant == Variant::StoreWithoutEpoch
    }
}

impl State {
    /// The previous holder may go on: its calls arrive, and it tries to store.
    pub(super) fn take_lease(&mut self, number: usize) {
        let holder = self.workers.iter().find(|worker| worker.epoch == self.lease_epoch);
        for event in holder.into_iter().flat_map(|worker| worker.slots.keys()) {
            self.receiver[*event].permitted += 1;
        }
        self.lease_epoch += 1;
        let known = Some(self.stored.clone());
        self.workers[number] = Worker { epoch: self.lease_epoch, known, ..Worker::default() };
    }
}

impl Worker {
    fn set(&mut self, event: usize, call: Call) {
        self.slots.insert(event, call);
    }
}

impl Progress {
    fn add_attempt(&mut self, event: usize) {
        let attempts = match self.failures.get(&event) {
            Some(Failure::Open(attempts)) => attempts + 1,
            Some(Failure::Parked) | None => 1,
        };
        let failure = if attempts < ATTEMPTS { Failure::Open(attempts) } else { Failure::Parked };
        self.failures.insert(event, failure);
    }
}
