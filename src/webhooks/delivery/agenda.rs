//! Decides which events an endpoint is sent next, and what is stored. It has no clock and makes no call.
//!
//! - A call begins only if its completion has a slot in the window of 64 events after the stored cursor.
//! - One call of a payment runs at a time, and later events wait behind an open failure of their payment.
//! - First attempts go before retries, and retries before replays. Those two leave half of the calls free.
//! - A failure, and a call that takes long, gets a row in the commit that lets the cursor pass it. There is always room
//!   for that row: otherwise the call does not begin.

mod choose;

use std::{
    collections::BTreeMap,
    mem,
    time::{Duration, Instant},
};

use super::{
    breaker::Breaker,
    changes::{Changes, Row},
    cursor::Cursor,
    facts::Facts,
    failures::{Failure, Failures},
    schedule,
    track::Track,
};
/// Open failures of an endpoint. With more of them, its cursor stands.
pub(super) const OPEN_FAILURES: usize = 1000;

/// A call that takes longer gets a row, so that it does not hold the cursor.
const SLOW: Duration = Duration::from_secs(1);

/// The reason for sending an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Source {
    First,
    Retry,
    Replay,
}

/// The end of a call.
#[derive(Debug, Clone)]
pub(super) enum Ended {
    Delivered,
    Failed { status: Option<u16>, retry_after: Option<Duration>, error: String },
}

/// A call that runs.
#[derive(Debug)]
struct Call {
    source: Source,
    facts: Facts,
    begun: Instant,
    /// True if the event has a row in `webhook_failures`.
    has_row: bool,
}

/// The cursors of a commit: of first deliveries, and of a replay with its number.
type Cursors = (Option<Cursor>, Option<(i64, Cursor)>);

/// The state of one endpoint's deliveries.
#[derive(Debug)]
pub(super) struct Agenda {
    first: Track,
    replay: Option<(i64, Track)>,
    failures: Failures,
    breaker: Breaker,
    calls: BTreeMap<i64, Call>,
    rows: BTreeMap<i64, Option<Row>>,
    /// The cursors of the commit that is under way.
    storing: Option<Cursors>,
    room: usize,
}

impl Agenda {
    pub(super) fn new(first: Cursor, failures: Vec<Failure>, breaker: Breaker) -> Self {
        Self::with_room(first, failures, breaker, OPEN_FAILURES)
    }

    pub(super) fn with_room(
        first: Cursor,
        failures: Vec<Failure>,
        breaker: Breaker,
        room: usize,
    ) -> Self {
        let mut open = Failures::default();
        for failure in failures {
            open.put(failure);
        }
        Self {
            first: Track::new(first, i64::MAX),
            replay: None,
            failures: open,
            breaker,
            calls: BTreeMap::new(),
            rows: BTreeMap::new(),
            storing: None,
            room,
        }
    }

    /// Begins a replay, or ends it, if its number is new.
    pub(super) fn set_replay(&mut self, replay: Option<(i64, Cursor, i64)>) {
        let number = replay.map(|(number, ..)| number);
        if number != self.replay_number() {
            self.replay = replay.map(|(number, from, to)| (number, Track::new(from, to)));
        }
    }

    pub(super) fn replay_number(&self) -> Option<i64> {
        self.replay.as_ref().map(|(number, _)| *number)
    }

    /// Returns the number of the replay, if all of it is done and stored.
    pub(super) fn ended_replay(&self) -> Option<i64> {
        self.replay.as_ref().filter(|(_, track)| track.has_ended()).map(|(number, _)| *number)
    }

    /// The position after which a page is needed.
    pub(super) fn reads_after(&self, source: Source) -> Option<i64> {
        match source {
            Source::First => self.first.reads_after(),
            Source::Replay => self.replay.as_ref()?.1.reads_after(),
            Source::Retry => None,
        }
    }

    /// Takes a page. Events up to `next_after` that it does not contain need no delivery.
    pub(super) fn read(&mut self, source: Source, page: &[Facts], next_after: i64) {
        match (source, &mut self.replay) {
            (Source::First, _) => self.first.read(page, next_after),
            (Source::Replay, Some((_, track))) => track.read(page, next_after),
            (Source::Replay, None) | (Source::Retry, _) => {}
        }
    }

    /// Passes over events that wait and are not wanted.
    pub(super) fn retain(&mut self, mut wanted: impl FnMut(&Facts) -> bool) {
        self.first.retain(&mut wanted);
        if let Some((_, track)) = &mut self.replay {
            track.retain(wanted);
        }
    }

    /// Continues after a position, because the feed has begun anew and ends there.
    pub(super) fn rewind(&mut self, position: i64) {
        self.first = Track::new(Cursor::at(position), i64::MAX);
    }

    /// Returns whether an event of a page still waits for its call.
    pub(super) fn waits(&self, source: Source, position: i64) -> bool {
        match (source, &self.replay) {
            (Source::First, _) => self.first.waits(position),
            (Source::Replay, Some((_, track))) => track.waits(position),
            (Source::Replay, None) | (Source::Retry, _) => false,
        }
    }

    /// Notes that a retry was not sent after all. It is due again at this time.
    pub(super) fn not_called(&mut self, position: i64, due: Instant) {
        let Some(call) = self.calls.remove(&position) else { return };
        match (call.source, &mut self.replay) {
            _ if call.has_row => {
                let attempts = self.failures.get(position).map_or(0, |failure| failure.attempts);
                self.failures.put(Failure { facts: call.facts, attempts, due });
            }
            (Source::First, _) => self.first.wait(call.facts),
            (Source::Replay, Some((_, track))) => track.wait(call.facts),
            (Source::Replay, None) | (Source::Retry, _) => {}
        }
    }

    /// Notes how a call ended, and returns whether the event is parked. `random` is between 0 and 1.
    pub(super) fn ended(&mut self, position: i64, ended: Ended, now: Instant, random: f64) -> bool {
        let Some(call) = self.calls.remove(&position) else { return false };
        if !call.has_row {
            self.let_pass(&call);
        }
        match ended {
            Ended::Delivered => {
                self.breaker.succeeded();
                self.failures.remove(position);
                // A replay may have delivered what was parked.
                if call.has_row || call.source == Source::Replay {
                    self.rows.insert(position, None);
                }
                false
            }
            Ended::Failed { status, retry_after, error } => {
                self.breaker.failed(now, retry_after, random);
                let attempts =
                    self.failures.get(position).map_or(0, |failure| failure.attempts) + 1;
                let due = schedule::pause(attempts, retry_after, random).map(|pause| now + pause);
                match due {
                    Some(due) => self.failures.put(Failure { facts: call.facts, attempts, due }),
                    None => self.failures.remove(position),
                }
                let row = Row { facts: call.facts, attempts, due, status, error: Some(error) };
                self.rows.insert(position, Some(row));
                due.is_none()
            }
        }
    }

    /// Gives each call that takes long a row, so that it does not hold the cursor.
    pub(super) fn let_slow_calls_pass(&mut self, now: Instant) {
        let mut calls = mem::take(&mut self.calls);
        for call in calls.values_mut().filter(|call| !call.has_row && call.begun + SLOW <= now) {
            call.has_row = true;
            self.let_pass(call);
            self.failures.put(Failure { facts: call.facts, attempts: 0, due: now });
            self.failures.call(call.facts.position);
            self.rows.insert(call.facts.position, Some(Row::unattempted(call.facts, now)));
        }
        self.calls = calls;
    }

    fn let_pass(&mut self, call: &Call) {
        match (call.source, &mut self.replay) {
            (Source::First, _) => self.first.finish(call.facts.position),
            (Source::Replay, Some((_, track))) => track.finish(call.facts.position),
            (Source::Replay, None) | (Source::Retry, _) => {}
        }
    }

    /// Takes what has to be stored, unless an earlier commit is under way.
    pub(super) fn changes(&mut self) -> Option<Changes> {
        if self.storing.is_some() {
            return None;
        }
        let first = self.first.cursor();
        let replay = self.replay.as_ref();
        let changes = Changes {
            first: Some(first).filter(|cursor| *cursor != self.first.stored()),
            replay: replay.and_then(|(number, track)| {
                let cursor = track.cursor();
                (cursor != track.stored()).then_some((*number, cursor))
            }),
            rows: mem::take(&mut self.rows),
        };
        if changes.is_empty() {
            return None;
        }
        self.storing = Some((changes.first, changes.replay));
        Some(changes)
    }

    /// Notes that the changes taken last are stored, which frees slots.
    pub(super) fn stored(&mut self) {
        let Some((first, replay)) = self.storing.take() else { return };
        if let Some(cursor) = first {
            self.first.set_stored(cursor);
        }
        if let Some((number, cursor)) = replay
            && let Some((current, track)) = &mut self.replay
            && *current == number
        {
            track.set_stored(cursor);
        }
    }

    /// The next time at which something is due without any call, page or commit.
    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let slow = self.calls.values().filter(|call| !call.has_row).map(|call| call.begun + SLOW);
        let retry = self.failures.attempted().map(|(due, _)| due).find(|due| *due > now);
        let resumed = self.breaker.open_until().filter(|until| *until > now);
        slow.chain(retry).chain(resumed).min()
    }

    /// Returns whether nothing runs, waits or has to be stored.
    pub(super) fn is_idle(&self) -> bool {
        let replayed = self.replay.as_ref().is_none_or(|(_, track)| track.is_idle());
        let stored = self.storing.is_none() && self.rows.is_empty();
        self.calls.is_empty() && stored && self.first.is_idle() && replayed
    }

    pub(super) fn calls(&self) -> usize {
        self.calls.len()
    }

    pub(super) fn breaker(&mut self) -> &mut Breaker {
        &mut self.breaker
    }
}

#[cfg(test)]
mod tests;
