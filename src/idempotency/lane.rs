//! A committer's loop: take what has queued, run it in one transaction, answer, and again.
//!
//! Each committer has two lanes. The main one takes batches from the queue. The aside runs, one by
//! one, the few commands that would hold up everybody else's batch.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use log::{debug, error, warn};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::{Instant, sleep, sleep_until},
};

use super::{
    Failure, Settings,
    batch::Fate,
    connection::{Connector, Fault},
    error::Remedy,
    queue::{Queue, Running, Stage},
    sidestepped::Sidestepped,
};

/// The first pause before looking again at a key that is in flight elsewhere, and the longest; each
/// is twice the one before.
const LOOKS: (Duration, Duration) = (Duration::from_millis(5), Duration::from_millis(100));

/// How long a connection may idle before it is looked after: less than the time after which
/// firewalls and load balancers forget a connection.
const PROBE_AFTER: Duration = Duration::from_secs(30);

/// From how many lost connections on a batch is suspected of killing them, and halved.
const HALVE_AFTER_LOSSES: u32 = 2;

/// With how many lost connections a command alone is put aside.
const ASIDE_AFTER_LOSSES: u32 = 4;

/// Every how many repetitions in a row a batch that meets other transactions is halved.
const HALVE_AFTER_REPEATS: u32 = 4;

/// Where a lane's commands come from, and where it puts those that it won't have.
enum Role {
    Main {
        aside: UnboundedSender<Running>,
        sidestepped: Sidestepped,
    },
    /// Unbounded, but what is in it has its place in the queue, whose limit counts it.
    Aside {
        put_aside: UnboundedReceiver<Running>,
    },
}

/// A loop over one connection.
pub(super) struct Lane {
    role: Role,
    queue: Arc<Queue>,
    connector: Connector,
    max_batch: usize,
    in_flight_wait: Duration,
    /// What was taken and isn't answered yet, in parts to be run one after the other, the next one
    /// last. A part stays here while it runs, so that no panic can lose it.
    parts: Vec<Vec<Running>>,
    /// What is in flight elsewhere, with the time of the next look.
    delayed: Vec<(Instant, Running)>,
    /// How often in a row a batch had to be repeated because it met other transactions.
    repeats: u32,
    /// Whether these parts are being run to find out whose row is locked.
    searching: bool,
}

/// A committer's two lanes. The connectors are for one each.
pub(super) fn lanes(
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
        parts: Vec::new(),
        delayed: Vec::new(),
        repeats: 0,
        searching: false,
    };
    let (main_connector, aside_connector) = connectors;
    (
        lane(
            Role::Main { aside, sidestepped: Sidestepped::default() },
            main_connector,
            settings.max_batch.max(1),
        ),
        lane(Role::Aside { put_aside }, aside_connector, 1),
    )
}

impl Lane {
    /// Works until the queue is closed and everything in it answered. A panic, which only a defect
    /// in a command or in this layer can cause, fails the command that caused it and nothing else.
    pub(super) async fn run(mut self) {
        while AssertUnwindSafe(self.work()).catch_unwind().await.is_err() {
            self.recover();
        }
        self.connector.close().await;
    }

    async fn work(&mut self) {
        loop {
            if self.parts.is_empty() {
                self.searching = false;
                let batch = self.gather();
                if batch.is_empty() {
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

    /// The next batch: whatever has queued by now, and what is due for another look.
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
        let mut room = self.max_batch;
        let due = self.delayed.extract_if(.., |(due, _)| {
            let taken = *due <= now && room > 0;
            room -= usize::from(taken);
            taken
        });
        let mut batch: Vec<Running> = due.map(|(_, running)| running).collect();
        if let Role::Main { aside, sidestepped } = &mut self.role {
            // Until there is a batch, or nothing left: what is put aside makes room.
            while batch.len() < self.max_batch {
                let taken = self.queue.take(self.max_batch - batch.len());
                if taken.is_empty() {
                    break;
                }
                for running in taken {
                    let leader = &running.leader;
                    if sidestepped.has(&leader.scope, leader.command.locks(), now) {
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
        let run = match self.connector.connect().await {
            Ok(()) => {
                let Some(part) = self.parts.last() else { return };
                self.queue.mark(part, Stage::Begun);
                self.connector.run(part, self.searching).await
            }
            Err(unfit) => Err(Fault::no_server(&unfit)),
        };
        let Some(part) = self.parts.pop() else { return };
        match run {
            Ok(fates) => {
                self.repeats = 0;
                let mut open = Vec::new();
                for (running, fate) in part.into_iter().zip(fates) {
                    match fate {
                        Fate::New(executed) => self.queue.settle_new(running, executed),
                        Fate::Used(used) => self.queue.settle_used(running, &used),
                        Fate::Open => open.push(running),
                    }
                }
                if !open.is_empty() {
                    self.look_up(open).await;
                }
            }
            Err(fault) => self.amend(part, fault).await,
        }
    }

    /// Answers those whose keys were used before, and lets the others wait that are in flight elsewhere.
    async fn look_up(&mut self, part: Vec<Running>) {
        self.parts.push(part);
        let Some(part) = self.parts.last() else { return };
        let looked = self.connector.look_up(part).await;
        let Some(part) = self.parts.pop() else { return };
        match looked {
            Ok(found) => {
                for (running, used) in part.into_iter().zip(found) {
                    match used {
                        Some(used) => self.queue.settle_used(running, &used),
                        None => self.delay(running),
                    }
                }
            }
            Err(fault) => self.amend(part, fault).await,
        }
    }

    /// Leaves out whose callers are gone. Who was found in flight elsewhere waits only so long;
    /// unless that may be its own transaction, on a connection that was lost.
    fn relead(&self, running: Running) -> Option<Running> {
        let patience = (running.delays > 0 && running.losses == 0).then_some(self.in_flight_wait);
        self.queue.relead(running, patience)
    }

    fn delay(&mut self, mut running: Running) {
        let (first, longest) = LOOKS;
        let pause = first.saturating_mul(1 << running.delays.min(10)).min(longest);
        running.delays += 1;
        self.queue.mark([&running], Stage::Waiting);
        self.delayed.push((Instant::now() + pause.mul_f64(0.5 + fastrand::f64() / 2.0), running));
    }

    /// Does what has to be done about a batch whose transaction failed.
    async fn amend(&mut self, mut part: Vec<Running>, fault: Fault) {
        let Fault { remedy, in_doubt, message } = fault;
        for running in &mut part {
            running.losses += u32::from(remedy == Remedy::Reconnect);
            running.in_doubt |= in_doubt;
        }
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
            let row = suspect.leader.command.locks();
            if let Role::Main { sidestepped, .. } = &mut self.role
                && let Some(row) = row
            {
                sidestepped.add_row(row, Instant::now());
            }
            self.put_aside(suspect);
            let mut rest: Vec<Running> = self.parts.drain(..).flatten().collect();
            let wants_it =
                |running: &mut Running| row.is_some() && running.leader.command.locks() == row;
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
    fn recover(&mut self) {
        let Some(mut part) = self.parts.pop() else { return };
        if self.connector.may_have_committed() {
            for running in &mut part {
                running.in_doubt = true;
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
fn put_aside(aside: &UnboundedSender<Running>, queue: &Queue, mut running: Running) {
    running.delays += 1;
    if let Err(closed) = aside.send(running) {
        // The other lane has ended, which it does after this one: a defect, and still an answer.
        queue.fail(closed.0, &Failure::Overloaded);
    }
}
