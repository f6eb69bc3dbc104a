//! The delivery of events to a webhook endpoint: a cursor, failures, and a lease.

use std::collections::BTreeMap;
use std::fmt;

use stateright::Model;

use crate::Variant;
use worker::Worker;

pub mod properties;
pub mod worker;

/// The number of calls of an endpoint at once.
const SLOTS: usize = 2;
/// Events further beyond the cursor are not delivered yet: the width of the bitmap.
const WINDOW: usize = 3;
/// After so many attempts a failure is parked.
const ATTEMPTS: usize = 2;

/// The model of one endpoint's delivery, with its bounds.
#[derive(Debug)]
pub struct Delivery {
    variant: Variant,
    /// The payment of each event. Event 0 has the lowest position.
    payments: Vec<usize>,
    workers: usize,
    /// The other worker takes an expired lease. A crash is a takeover by the same worker.
    takeovers: usize,
}

impl Delivery {
    /// Four events, three of them of one payment, and two workers. Worker 0 has the first lease.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { variant, payments: vec![0, 0, 1, 0], workers: 2, takeovers: 1 }
    }

    /// The same with a second takeover, which reads what the first one left.
    #[must_use]
    pub fn with_two_takeovers(variant: Variant) -> Self {
        Self { takeovers: 2, ..Self::new(variant) }
    }
}

/// The database, the workers, and the receiver.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    lease_epoch: usize,
    stored: Progress,
    workers: Vec<Worker>,
    receiver: Vec<Received>,
}

/// The endpoint's rows: `webhook_progress` and `webhook_failures`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Progress {
    /// For each event, whether the cursor or the bitmap has passed it.
    done: Vec<bool>,
    failures: BTreeMap<usize, Failure>,
}

/// A row of `webhook_failures`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Failure {
    /// Due again, after so many attempts. Zero: the event waits behind an earlier one of its payment.
    Open(usize),
    /// Only a replay delivers it.
    Parked,
}

/// The facts that the receiver and an observer know of an event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Received {
    was_received: bool,
    /// The number of times that the receiver may still get the event: one, and one more whenever the response was lost
    /// or a lease ended while the event was in a slot.
    permitted: isize,
}

impl Received {
    fn receive(&mut self) {
        self.was_received = true;
        self.permitted -= 1;
    }
}

impl Progress {
    /// Events before the cursor are done.
    fn cursor(&self) -> usize {
        self.done.iter().take_while(|done| **done).count()
    }

    /// Done, and no longer attempted.
    fn is_settled(&self, event: usize) -> bool {
        self.done[event] && !matches!(self.failures.get(&event), Some(Failure::Open(_)))
    }
}

/// A step of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Action {
    /// The worker.
    worker: usize,
    step: worker::Step,
}

impl Model for Delivery {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let events = self.payments.len();
        let mut state = State {
            lease_epoch: 0,
            stored: Progress { done: vec![false; events], failures: BTreeMap::new() },
            workers: vec![Worker::default(); self.workers],
            receiver: vec![Received { was_received: false, permitted: 1 }; events],
        };
        state.take_lease(0);
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        for worker in 0..self.workers {
            actions
                .extend(self.steps(state, worker).into_iter().map(|step| Action { worker, step }));
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        self.does(&mut next, action.worker, action.step);
        Some(next)
    }

    fn properties(&self) -> Vec<stateright::Property<Self>> {
        properties::all()
    }
}

impl Delivery {
    /// The earlier events of the same payment.
    fn earlier(&self, event: usize) -> impl Iterator<Item = usize> {
        (0..event).filter(move |earlier| self.payments[*earlier] == self.payments[event])
    }

    /// The holder of the lease has nothing to do.
    fn is_quiet(&self, state: &State) -> bool {
        let takes_lease = |action: &Action| matches!(action.step, worker::Step::TakeLease);
        let mut actions = vec![];
        self.actions(state, &mut actions);
        actions.iter().all(takes_lease)
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "worker {} {}", self.worker, self.step)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (event, Received { was_received, permitted }) in self.receiver.iter().enumerate() {
            let received = if *was_received { "received" } else { "not received" };
            let done = if self.stored.done[event] { "done" } else { "not done" };
            write!(f, "event {event}: {received}, permitted {permitted} more times, {done}")?;
            match self.stored.failures.get(&event) {
                None => writeln!(f)?,
                Some(failure) => writeln!(f, ", failure {failure:?}")?,
            }
        }
        Ok(())
    }
}
