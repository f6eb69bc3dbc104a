//! The worker of one endpoint: reads events, calls the endpoint and has the completions stored.

mod calls;
mod pages;
mod writes;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, future::LocalBoxFuture, stream::FuturesUnordered};
use tokio::{sync::mpsc, time::sleep_until};

use super::{
    agenda::{Agenda, Source},
    cursor::Cursor,
    facts::Facts,
    lease::{LeaseClock, LeaseId, Leased},
    reader::Reader,
    write::{Note, Write},
};
use crate::{
    events::{
        Event, Subscription, Wakes,
        page::{Gone, Page},
    },
    metrics::Webhooks,
    webhooks::{
        CALL_TIMEOUT, Caller, Heard,
        endpoint::{DisabledReason, Endpoint, Range},
        secrets::Secret,
    },
};

/// Pause between two notes about an endpoint, and after a read that failed.
const PAUSE: Duration = Duration::from_secs(2);

/// There may be newer events.
const UNKNOWN: i64 = i64::MAX;

/// A worker with nothing to do for this long gives its lease up.
pub(super) const IDLE: Duration = Duration::from_secs(30);

/// A message of the coordinator to a worker.
#[derive(Debug)]
pub(super) enum Told {
    /// The lease was prolonged, and the endpoint may have changed.
    Renewed(Box<Leased>, Vec<Secret>),
    /// The position of the newest event of the account.
    LastPosition(i64),
    /// Finish what has begun, and end.
    Stop,
}

/// The parts that all workers of a server share.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) reader: Arc<Reader>,
    pub(super) writes: mpsc::Sender<Write>,
    pub(super) metrics: Webhooks,
    pub(super) wakes: Wakes,
}

/// The result of a future of the worker.
enum Happened {
    Called { source: Source, facts: Facts, heard: Option<Heard> },
    Read(Source, Box<Result<Result<Page, Gone>, sqlx::Error>>),
    Stored(Option<bool>),
}

/// The reason why a worker begins nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Closing {
    Release,
    Disable(DisabledReason),
}

pub(super) struct Worker {
    shared: Shared,
    caller: Caller,
    id: LeaseId,
    endpoint: Endpoint,
    secrets: Arc<[Secret]>,
    lease: LeaseClock,
    agenda: Agenda,
    bodies: BTreeMap<(Source, i64), Event>,
    /// The newest event of the account, as far as is known.
    last_position: i64,
    news: Subscription,
    running: FuturesUnordered<LocalBoxFuture<'static, Happened>>,
    reading: [bool; 2],
    /// No read before then.
    read_at: Instant,
    note: Option<Note>,
    noted_at: Option<Instant>,
    lost: Option<Range>,
    writing: bool,
    /// The number of the last replay that has ended.
    ended_replay: i64,
    closing: Option<Closing>,
    busy_at: Instant,
}

impl Worker {
    pub(super) fn new(
        shared: Shared,
        caller: Caller,
        leased: Leased,
        secrets: Vec<Secret>,
        lease: LeaseClock,
        agenda: Agenda,
    ) -> Self {
        let now = Instant::now();
        let news = shared.wakes.subscribe(leased.endpoint.account_id);
        Self {
            shared,
            caller,
            id: leased.id(),
            endpoint: leased.endpoint,
            secrets: secrets.into(),
            lease,
            agenda,
            bodies: BTreeMap::new(),
            last_position: UNKNOWN,
            news,
            running: FuturesUnordered::new(),
            reading: [false; 2],
            read_at: now,
            note: None,
            noted_at: None,
            lost: None,
            writing: false,
            ended_replay: 0,
            closing: None,
            busy_at: now,
        }
    }

    /// Delivers until the lease is lost, or everything that was begun is stored after a reason to stop.
    pub(super) async fn run(mut self, mut told: mpsc::Receiver<Told>) {
        loop {
            let now = Instant::now();
            self.act(now);
            if self.has_finished(now) {
                return;
            }
            let wakes = self.wakes_at(now);
            tokio::select! {
                told = told.recv(), if self.closing.is_none() => match told {
                    Some(told) => self.hear(told),
                    None => self.closing = Some(Closing::Release),
                },
                Some(happened) = self.running.next(), if !self.running.is_empty() => {
                    if !self.happened(happened) {
                        return;
                    }
                }
                () = self.news.sequenced() => self.last_position = UNKNOWN,
                () = sleep_until(wakes.into()) => {}
            }
        }
    }

    fn hear(&mut self, told: Told) {
        match told {
            Told::Renewed(leased, secrets) => {
                let moved = leased.endpoint.url != self.endpoint.url;
                if moved
                    || leased.endpoint.failing_since.is_none()
                        && self.endpoint.failing_since.is_some()
                {
                    self.agenda.breaker().probe_now(Instant::now());
                }
                if leased.wanted {
                    self.closing.get_or_insert(Closing::Release);
                }
                self.endpoint = leased.endpoint;
                self.secrets = secrets.into();
                let types = &self.endpoint.event_types;
                self.agenda.retain(|facts| types.includes(facts.event_type));
                self.follow_replay();
            }
            Told::LastPosition(position) => self.last_position = self.last_position.max(position),
            Told::Stop => {
                self.closing.get_or_insert(Closing::Release);
            }
        }
    }

    /// Begins a replay that was requested while the worker runs.
    fn follow_replay(&mut self) {
        let Endpoint { replay, replay_number: number, .. } = self.endpoint;
        if let Some(Range { from, to }) = replay
            && number > self.ended_replay
        {
            self.agenda.set_replay(Some((number, Cursor::at(from.before().number()), to.number())));
        }
    }

    /// Begins the calls that may begin.
    fn act(&mut self, now: Instant) {
        self.agenda.let_slow_calls_pass(now);
        if self.closing.is_none() {
            for source in [Source::First, Source::Replay] {
                self.read(source, now);
            }
            while self.lease.covers(CALL_TIMEOUT, now)
                && let Some((source, facts)) = self.agenda.next(now)
            {
                self.call(source, facts);
            }
        }
        self.write(now);
        if self.agenda.calls() > 0 || self.writing {
            self.busy_at = now;
        }
    }

    /// Takes note of what a future ended with. Returns false if the lease is lost.
    fn happened(&mut self, happened: Happened) -> bool {
        let now = Instant::now();
        match happened {
            Happened::Called { facts, heard: None, .. } => {
                self.agenda.not_called(facts.position, now + PAUSE);
            }
            Happened::Called { source, facts, heard: Some(heard) } => {
                self.heard(source, facts, heard, now);
            }
            Happened::Read(source, page) => {
                let index = usize::from(source == Source::Replay);
                if let Some(reading) = self.reading.get_mut(index) {
                    *reading = false;
                }
                self.has_read(source, *page, now);
            }
            Happened::Stored(held) => {
                self.writing = false;
                if held != Some(true) {
                    return false;
                }
                self.agenda.stored();
            }
        }
        true
    }

    /// Returns whether the worker ends: it was told to, or it has nothing to do for a while.
    fn has_finished(&mut self, now: Instant) -> bool {
        if self.writing || self.agenda.calls() > 0 {
            return false;
        }
        if self.closing.is_some() {
            return self.note.is_none();
        }
        let paused = self.agenda.breaker().open_until().is_some_and(|until| until > now + IDLE);
        let caught_up = self.agenda.is_idle()
            && self
                .agenda
                .reads_after(Source::First)
                .is_some_and(|after| after >= self.last_position)
            && self.agenda.replay_number().is_none();
        let due = self.agenda.wakes_at(now).is_some_and(|at| at <= now + IDLE);
        if self.note.is_none() && (paused || caught_up && !due && self.busy_at + IDLE <= now) {
            self.closing = Some(Closing::Release);
            return true;
        }
        false
    }

    fn wakes_at(&mut self, now: Instant) -> Instant {
        let idle = (self.busy_at + IDLE).max(now + Duration::from_secs(1));
        let noted = self.note.as_ref().filter(|_| !self.writing).and(self.noted_at);
        let noted = noted.map(|at| at + PAUSE);
        let read = (self.read_at > now).then_some(self.read_at);
        [Some(idle), noted, read, self.agenda.wakes_at(now)]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(idle)
    }
}
