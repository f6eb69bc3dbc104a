//! A committer: takes what has queued, runs it in one transaction, answers, and begins again.
//!
//! - A **batch** is the jobs that a committer takes together. After a failure it is halved into **parts**, which run
//!   one after the other.
//! - A **search** is that halving with short time-outs, to find a command that holds up the others.
//! - The **quarantine** of a committer is another one beside it, which runs such commands one by one.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{Instant, sleep_until},
};

use crate::{
    Failure, Settings,
    queue::{Job, Obstacle, Patience, Queue},
};

use answers::Answers;
use quarantine::Quarantine;
use search::Search;

pub(crate) use connection::Connector;
pub use server_check::{UnfitServer, unsafe_setting};

mod answers;
mod batch;
mod connection;
mod failed;
mod look_up;
mod parts;
mod quarantine;
mod recovery;
mod search;
mod server_check;
mod steps;
mod timeouts;
mod used_share;

/// The first pause before a delayed command is tried again, and the longest; each is twice the one before.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// A batch of up to so many keys is not split: that would save little, and costs a commit.
const WHOLE: usize = 16;

/// The time that a connection may be idle before it is pinged: less than firewalls and load balancers allow.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// The source of a committer's commands.
enum Role {
    Main { quarantine: Quarantine },
    Quarantine { admitted: UnboundedReceiver<Job> },
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
    parts: Vec<Vec<Job>>,
    /// Given once the next part is on its way: PostgreSQL would wait for as long as answering takes.
    answers: Answers,
    /// Commands to be tried again, each at its time.
    delayed: Vec<(Instant, Job)>,
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
            for job in self.parts.pop().unwrap_or_default() {
                self.queue.fail(job, &Failure::OutcomeUnknown);
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
    fn gather(&mut self) -> Vec<Job> {
        if let Role::Quarantine { admitted } = &mut self.role {
            let next = admitted.try_recv();
            // A caller whose wait is over hears so, even if other commands are tried first.
            let delayed = std::mem::take(&mut self.delayed).into_iter();
            self.delayed =
                delayed.filter_map(|(due, job)| Some((due, self.relead(job)?))).collect();
            if let Ok(job) = next {
                // Before those that were tried already: its lock may be free by now.
                return vec![job];
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
        let mut batch: Vec<Job> = due.map(|(_, job)| job).collect();
        if let Role::Main { quarantine } = &mut self.role {
            // A quarantined command leaves room for another.
            while batch.len() < most {
                let taken = self.queue.take(most - batch.len());
                if taken.is_empty() {
                    break;
                }
                for job in taken {
                    let leader = &job.leader;
                    match quarantine.find(&leader.scope, leader.row, now) {
                        Some(obstacle) => quarantine.admit(&self.queue, job, obstacle),
                        None => batch.push(job),
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
                    if let Some(job) = next {
                        self.parts.push(vec![job]);
                    } else if let Some(look) = look {
                        sleep_until(look).await;
                    }
                }
                () = wake => if look.is_none() { self.connector.close().await },
            },
        }
    }

    /// Answers callers whose deadline has passed or who have waited long enough for a lock; see [`Queue::relead`].
    fn relead(&self, job: Job) -> Option<Job> {
        self.queue.relead(job, self.patience)
    }

    fn delay(&mut self, mut job: Job, obstacle: Obstacle) {
        let (first, longest) = LOOKS;
        let pause = first.saturating_mul(1 << job.delays.min(10)).min(longest);
        job.delays += 1;
        job.obstacle = obstacle;
        self.queue.rolled_back([&job]);
        self.delayed.push((Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0), job));
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
