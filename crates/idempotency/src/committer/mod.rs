//! A committer's loop: take what has queued, run it in one transaction, answer, and again.
//!
//! Each committer has two lanes. The main one takes batches from the queue. The aside runs, one by
//! one, the few commands that would hold up everybody else's batch.

use std::{collections::VecDeque, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep_until},
};

use crate::{
    Failure, Settings,
    observer::Event,
    queue::{Obstacle, Queue, Running},
    sql::UsedKey,
};

pub(crate) use batch::Executed;
use batch::{Fate, Look, Mode};
use connection::Fault;
use quarantine::Quarantine;
use recovery::put_aside;

pub(crate) use connection::Connector;
pub use server_check::{UnfitServer, unsafe_setting};

mod batch;
mod connection;
mod quarantine;
mod recovery;
mod server_check;
mod used_share;

/// The first pause before looking again at a key that is in flight elsewhere, and the longest; each
/// is twice the one before.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// Up to so many keys a batch isn't split: that would save little, and costs a commit.
const WHOLE: usize = 16;

/// How long a connection may idle before it is looked after: less than the time after which
/// firewalls and load balancers forget a connection.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// How often parts may fail before a search is given up in which none succeeded: then it is no command's fault.
const FRUITLESS: u32 = 64;

/// Where a lane's commands come from, and where it puts those that it won't have.
enum Role {
    Main {
        aside: UnboundedSender<Running>,
        quarantine: Quarantine,
    },
    /// Unbounded, but what is in it has its place in the queue, whose limit counts it.
    Aside {
        put_aside: UnboundedReceiver<Running>,
    },
}

/// A loop over one connection.
pub(crate) struct Lane {
    role: Role,
    queue: Arc<Queue>,
    connector: Connector,
    max_batch: usize,
    in_flight_wait: Duration,
    /// How long a search may go on in which nothing succeeds.
    search_limit: Duration,
    /// What was taken and isn't answered yet, in parts to be run one after the other, the next one
    /// last. A part stays here while it runs, so that no panic can lose it.
    parts: Vec<Vec<Running>>,
    /// What is committed, and whose callers hear so once the next part is on its way: PostgreSQL would
    /// wait for as long as answering takes. Where there is no connection for that part they hear it before one is
    /// made.
    /// They stay here until they are answered, so that no panic can lose them.
    decided: VecDeque<(Running, Fate)>,
    /// What is in flight elsewhere, with the time of the next look.
    delayed: Vec<(Instant, Running)>,
    /// Whether these parts are being run to find the command that holds up the others.
    search: Option<Search>,
    /// When the log last named the session that has locked a table.
    lock_logged: Option<Instant>,
}

/// The search for the commands of a batch that hold up the others.
struct Search {
    /// When it is given up if no part has succeeded.
    end: Instant,
    failures: u32,
    /// Whether a part succeeded: then it is single commands that fail, and not the database.
    succeeded: bool,
}

impl Search {
    fn new(limit: Duration) -> Self {
        Self { end: Instant::now() + limit, failures: 0, succeeded: false }
    }

    /// Whether so many parts failed, and none succeeded, that no command is to blame.
    fn is_fruitless(&self) -> bool {
        !self.succeeded && (self.failures >= FRUITLESS || Instant::now() >= self.end)
    }
}

/// A committer's two lanes. The connectors are for one each.
pub(crate) fn lanes(
    queue: &Arc<Queue>,
    settings: &Settings,
    connectors: (Connector, Connector),
) -> (Lane, Lane) {
    let (aside, put_aside) = unbounded_channel();
    let lane = |role, connector, max_batch| Lane {
        role,
        queue: Arc::clone(queue),
        connector,
        max_batch,
        in_flight_wait: settings.in_flight_wait,
        search_limit: settings.request_deadline / 5,
        parts: Vec::new(),
        decided: VecDeque::new(),
        delayed: Vec::new(),
        search: None,
        lock_logged: None,
    };
    let (main_connector, aside_connector) = connectors;
    (
        lane(
            Role::Main { aside, quarantine: Quarantine::default() },
            main_connector,
            settings.max_batch,
        ),
        lane(Role::Aside { put_aside }, aside_connector, 1),
    )
}

impl Lane {
    /// Works until the queue is closed and everything in it answered. A panic, which only a defect
    /// in this layer can cause, ends the work on hand, and nothing else.
    pub(crate) async fn run(mut self) {
        while AssertUnwindSafe(self.work()).catch_unwind().await.is_err() {
            for running in self.parts.pop().unwrap_or_default() {
                self.queue.fail(running, &Failure::OutcomeUnknown);
            }
        }
        self.connector.close().await;
    }

    async fn work(&mut self) {
        // Whom a panic has kept waiting.
        answer(&self.queue, &mut self.decided);
        loop {
            if self.parts.is_empty() {
                self.search = None;
                let batch = self.gather();
                if batch.is_empty() {
                    answer(&self.queue, &mut self.decided);
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

    /// The next batch: of what has queued by now, and of what is due for another look, as much as fits into one.
    fn gather(&mut self) -> Vec<Running> {
        if matches!(self.role, Role::Aside { .. }) {
            // Whose wait is over hears so, even while others go before it.
            let delayed = std::mem::take(&mut self.delayed).into_iter();
            self.delayed =
                delayed.filter_map(|(due, running)| Some((due, self.relead(running)?))).collect();
        }
        if let Role::Aside { put_aside } = &mut self.role
            && let Ok(arrived) = put_aside.try_recv()
        {
            // Before those that have been looked at already: this one may be free by now.
            return vec![arrived];
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
        if let Role::Main { aside, quarantine } = &mut self.role {
            // Until there is a batch, or nothing left: what is put aside makes room.
            while batch.len() < most {
                let taken = self.queue.take(most - batch.len());
                if taken.is_empty() {
                    break;
                }
                for mut running in taken {
                    let leader = &running.leader;
                    if let Some(obstacle) = quarantine.find(&leader.scope, leader.row, now) {
                        running.obstacle = obstacle;
                        self.queue.rolled_back([&running]);
                        put_aside(aside, &self.queue, running);
                    } else {
                        batch.push(running);
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
            Role::Aside { put_aside } => {
                put_aside.is_closed() && put_aside.is_empty() && self.delayed.is_empty()
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
            Role::Aside { put_aside } => tokio::select! {
                // The channel is closed when the main lane has ended: nothing can come any more.
                arrived = put_aside.recv() => {
                    if let Some(running) = arrived {
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
            // The largest part: the sooner one succeeds, the sooner it is known that the database works.
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
            // Those whose fate is known need no connection, and don't wait for one.
            answer(&self.queue, &mut self.decided);
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
                let answers = async { answer(&self.queue, &mut self.decided) };
                // In this order: the first of the two is sent before the second begins.
                let (run, ()) = join(run, answers).await;
                run
            }
            Err(unfit) => Err(Fault::no_server(&unfit)),
        };
        let Some(part) = self.parts.pop() else { return };
        match run {
            Ok(fates) => {
                if let Some(search) = &mut self.search {
                    search.succeeded = true;
                }
                self.queue.observe(Event::Committed(part.len()));
                let mut open = Vec::new();
                for (running, fate) in part.into_iter().zip(fates) {
                    match fate {
                        Some(fate) => self.decided.push_back((running, fate)),
                        None => open.push(running),
                    }
                }
                if !open.is_empty() {
                    self.look_up(open).await;
                }
            }
            Err(fault) => self.recover_from(part, fault).await,
        }
    }

    /// Says that the part at hand is begun, but for those whose deadline passed while a connection was
    /// made: their callers hear that nothing was executed, and nothing may be. Whether any are left.
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

    /// Takes those out of the part at hand whose keys were used before, to be answered. Whether any are left
    /// to be claimed.
    async fn look_up_first(&mut self) -> bool {
        let mut open = Vec::new();
        for (running, used) in self.looked_up(Look::First).await {
            match used {
                Some(used) => self.decided.push_back((running, Fate::Used(used))),
                None => open.push(running),
            }
        }
        let any = !open.is_empty();
        if any {
            self.parts.push(open);
        }
        any
    }

    /// Answers those whose keys were used before, and lets the others wait that are in flight elsewhere.
    async fn look_up(&mut self, part: Vec<Running>) {
        self.parts.push(part);
        for (running, used) in self.looked_up(Look::Last).await {
            match used {
                Some(used) => self.decided.push_back((running, Fate::Used(used))),
                None => self.delay(running, Obstacle::KeyInFlight),
            }
        }
    }

    /// The part at hand, with what its keys stand for; nothing where that can't be found out, about which
    /// something is done then. Whose fate is known hears it meanwhile.
    async fn looked_up(&mut self, look: Look) -> Vec<(Running, Option<UsedKey>)> {
        let Some(part) = self.parts.last() else { return Vec::new() };
        let look_up = self.connector.look_up(part, look);
        let answers = async { answer(&self.queue, &mut self.decided) };
        let (found, ()) = join(look_up, answers).await;
        let Some(part) = self.parts.pop() else { return Vec::new() };
        match found {
            Ok(found) => part.into_iter().zip(found).collect(),
            Err(fault) => {
                self.recover_from(part, fault).await;
                Vec::new()
            }
        }
    }

    /// How the next part is run.
    fn mode(&self) -> Mode {
        match self.role {
            Role::Main { .. } if self.search.is_some() => Mode::Searching,
            Role::Main { .. } => Mode::Usual,
            Role::Aside { .. } => Mode::Stepwise,
        }
    }

    /// Leaves out whose callers are gone, or have waited for a lock for as long as they may.
    fn relead(&self, running: Running) -> Option<Running> {
        self.queue.relead(running, self.in_flight_wait)
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

/// How many of so many keys in the queue the next batch takes at most: half of them, or all of a few.
///
/// The keys of the last batch are still among them: they are about to be answered, and whoever sent them to
/// send others. So batches stay of one size, and while PostgreSQL has one the next one queues. Else a large one
/// and a small one take turns, and whoever is done with the small one waits for the other. (Those that had to be
/// looked up were answered before. Then it is half of the others: smaller batches, of one size all the same.)
fn balanced(keys: usize) -> usize {
    keys.div_ceil(2).max(WHOLE)
}

/// Answers those whose fate is known.
fn answer(queue: &Queue, decided: &mut VecDeque<(Running, Fate)>) {
    while let Some((running, fate)) = decided.pop_front() {
        match fate {
            Fate::New(executed) => queue.settle_new(running, executed),
            Fate::Used(used) => queue.settle_used(running, &used),
        }
    }
}
