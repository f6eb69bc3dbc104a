//! A committer: takes what has queued, runs it in one transaction, answers, and begins again.
//!
//! Beside each committer runs another one, its quarantine, which executes one by one the few commands that would
//! hold up everybody else's batch.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join};
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep_until},
};

use crate::{
    Failure, Settings,
    observer::Event,
    queue::{Obstacle, Patience, Queue, Running},
};

use answers::Answers;
use batch::{Look, Mode};
use connection::Fault;
use quarantine::Quarantine;
use search::Search;

pub(crate) use connection::Connector;
pub use server_check::{UnfitServer, unsafe_setting};

mod answers;
mod batch;
mod connection;
mod failed;
mod quarantine;
mod recovery;
mod search;
mod server_check;
mod used_share;

/// The first pause before a delayed command is tried again, and the longest; each is twice the one before.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A batch of up to so many keys is not split: that would save little, and costs a commit.
const WHOLE: usize = 16;

/// The time that a connection may be idle before it is pinged: less than firewalls and load balancers allow.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// Where a committer's commands come from, and where it puts those that would hold up others.
enum Role {
    Main { quarantine: Quarantine },
    Quarantine { admitted: UnboundedReceiver<Running> },
}

/// A loop over one connection.
pub(crate) struct Committer {
    role: Role,
    queue: Arc<Queue>,
    connector: Connector,
    max_batch: usize,
    patience: Patience,
    /// The time that a search may go on in which nothing succeeds.
    search_limit: Duration,
    /// Commands that were taken and are not answered yet, in parts to be run one after the other, the next one
    /// last. A part stays here while it runs, so that no panic can lose it.
    parts: Vec<Vec<Running>>,
    /// Given once the next part is on its way: PostgreSQL would wait for as long as answering takes.
    answers: Answers,
    /// Commands to be tried again, each at its time.
    delayed: Vec<(Instant, Running)>,
    /// The search that the parts are run for, if any.
    search: Option<Search>,
    /// When the log last named the session that has locked a table.
    lock_logged: Option<Instant>,
}

/// A committer and its quarantine, with a connection each.
pub(crate) fn committer(
    queue: &Arc<Queue>,
    settings: &Settings,
    (main, quarantine): (Connector, Connector),
) -> (Committer, Committer) {
    let (sender, admitted) = unbounded_channel();
    let committer = |role, connector, max_batch| Committer {
        role,
        queue: Arc::clone(queue),
        connector,
        max_batch,
        patience: Patience {
            lock: settings.in_flight_wait,
            margin: settings.request_deadline / 20,
        },
        search_limit: settings.request_deadline / 5,
        parts: Vec::new(),
        answers: Answers::default(),
        delayed: Vec::new(),
        search: None,
        lock_logged: None,
    };
    let role = Role::Main { quarantine: Quarantine::new(sender) };
    (
        committer(role, main, settings.max_batch),
        committer(Role::Quarantine { admitted }, quarantine, 1),
    )
}

impl Committer {
    /// Works until the queue is closed and empty. A panic, which is a defect in this layer, fails the part at hand
    /// and nothing else.
    pub(crate) async fn run(mut self) {
        while AssertUnwindSafe(self.work()).catch_unwind().await.is_err() {
            for running in self.parts.pop().unwrap_or_default() {
                self.queue.fail(running, &Failure::OutcomeUnknown);
            }
        }
        self.connector.close().await;
    }

    async fn work(&mut self) {
        // After a panic.
        self.answers.give(&self.queue);
        loop {
            if self.parts.is_empty() {
                self.search = None;
                let batch = self.gather();
                if batch.is_empty() {
                    self.answers.give(&self.queue);
                    if self.is_done() {
                        return;
                    }
                    self.idle().await;
                    continue;
                }
                self.parts.push(batch);
            }
            self.run_next_part().await;
        }
    }

    /// The next batch: commands from the queue, and delayed ones that are due.
    fn gather(&mut self) -> Vec<Running> {
        if let Role::Quarantine { admitted } = &mut self.role {
            let next = admitted.try_recv();
            // A caller whose wait is over hears so, even if other commands are tried first.
            let delayed = std::mem::take(&mut self.delayed).into_iter();
            self.delayed =
                delayed.filter_map(|(due, running)| Some((due, self.relead(running)?))).collect();
            if let Ok(running) = next {
                // Before those that were tried already: its lock may be free by now.
                return vec![running];
            }
        }
        let now = Instant::now();
        let most = self.max_batch.min(balanced(self.queue.keys()));
        let mut room = most;
        let due = self.delayed.extract_if(.., |(due, _)| {
            let taken = *due <= now && room > 0;
            room -= usize::from(taken);
            taken
        });
        let mut batch: Vec<Running> = due.map(|(_, running)| running).collect();
        if let Role::Main { quarantine } = &mut self.role {
            // A quarantined command leaves room for another.
            while batch.len() < most {
                let taken = self.queue.take(most - batch.len());
                if taken.is_empty() {
                    break;
                }
                for running in taken {
                    let leader = &running.leader;
                    match quarantine.find(&leader.scope, leader.row, now) {
                        Some(obstacle) => quarantine.admit(&self.queue, running, obstacle),
                        None => batch.push(running),
                    }
                }
            }
        }
        batch.sort_by(|a, b| a.leader.scope.cmp(&b.leader.scope));
        batch
    }

    fn is_done(&self) -> bool {
        match &self.role {
            Role::Main { .. } => self.queue.is_drained(),
            Role::Quarantine { admitted } => {
                admitted.is_closed() && admitted.is_empty() && self.delayed.is_empty()
            }
        }
    }

    /// Waits for something to do.
    async fn idle(&mut self) {
        let probe = Instant::now() + PROBE_AFTER;
        let look = self.delayed.iter().map(|(due, _)| *due).min();
        let wake = sleep_until(look.map_or(probe, |look| look.min(probe)));
        match &mut self.role {
            Role::Main { .. } => tokio::select! {
                () = self.queue.arrival() => {}
                () = wake => if look.is_none() { self.connector.probe().await },
            },
            Role::Quarantine { admitted } => tokio::select! {
                // The channel is closed when the main committer has ended: nothing can come any more.
                next = admitted.recv() => {
                    if let Some(running) = next {
                        self.parts.push(vec![running]);
                    } else if let Some(look) = look {
                        sleep_until(look).await;
                    }
                }
                () = wake => if look.is_none() { self.connector.close().await },
            },
        }
    }

    async fn run_next_part(&mut self) {
        if self.search.is_some() {
            // The largest part first: the sooner one succeeds, the sooner it is clear that the database works.
            self.parts.sort_by_key(Vec::len);
        }
        let part: Vec<Running> = self
            .parts
            .pop()
            .into_iter()
            .flatten()
            .filter_map(|running| self.relead(running))
            .collect();
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
            Err(unfit) => Err(Fault::no_server(&unfit)),
        };
        let Some(part) = self.parts.pop() else { return };
        match run {
            Ok(records) => {
                if let Some(search) = &mut self.search {
                    search.part_succeeded();
                }
                self.queue.observe(Event::Committed(part.len()));
                let mut open = Vec::new();
                for (running, record) in part.into_iter().zip(records) {
                    match record {
                        Some(record) => self.answers.executed(running, record),
                        None => open.push(running),
                    }
                }
                if !open.is_empty() {
                    self.look_up_last(open).await;
                }
            }
            Err(fault) => self.recover_from(part, fault).await,
        }
    }

    /// Marks the part at hand as begun, without commands whose deadline has passed: their callers hear that nothing
    /// was executed. Returns whether any are left.
    fn begin(&mut self) -> bool {
        let Some(part) = self.parts.pop() else { return false };
        let (begun, late) = self.queue.begin(part);
        let others: Vec<Running> =
            late.into_iter().filter_map(|running| self.relead(running)).collect();
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
    async fn look_up_last(&mut self, part: Vec<Running>) {
        self.parts.push(part);
        for running in self.look_up(Look::Last).await {
            self.delay(running, Obstacle::KeyInFlight);
        }
    }

    /// Looks up the keys of the part at hand, answers the commands whose keys are used, and returns the others.
    /// After a failure it recovers and returns none.
    async fn look_up(&mut self, look: Look) -> Vec<Running> {
        let Some(part) = self.parts.last() else { return Vec::new() };
        let look_up = self.connector.look_up(part, look);
        let answers = async { self.answers.give(&self.queue) };
        let (found, ()) = join(look_up, answers).await;
        let Some(part) = self.parts.pop() else { return Vec::new() };
        let records = match found {
            Ok(records) => records,
            Err(fault) => {
                self.recover_from(part, fault).await;
                return Vec::new();
            }
        };
        let mut open = Vec::new();
        for (running, record) in part.into_iter().zip(records) {
            match record {
                Some(record) => self.answers.used(running, record),
                None => open.push(running),
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

    /// Answers callers whose deadline has passed or who have waited long enough for a lock; see [`Queue::relead`].
    fn relead(&self, running: Running) -> Option<Running> {
        self.queue.relead(running, self.patience)
    }

    fn delay(&mut self, mut running: Running, obstacle: Obstacle) {
        let (first, longest) = LOOKS;
        let pause = first.saturating_mul(1 << running.delays.min(10)).min(longest);
        running.delays += 1;
        running.obstacle = obstacle;
        self.queue.rolled_back([&running]);
        self.delayed.push((Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0), running));
    }
}

/// Returns the size limit of the next batch: half of the keys in the queue, or all of a few.
///
/// The keys of the last batch are still among them: their callers are about to be answered, and to send others. So
/// batches keep one size, and while PostgreSQL has one the next one queues. Otherwise a large one and a small one
/// would take turns, and the clients of the small one would wait for the large one.
fn balanced(keys: usize) -> usize {
    keys.div_ceil(2).max(WHOLE)
}
