//! The choice of the next call.

use std::time::Instant;

use super::{Agenda, Call, Source};
use crate::{
    ids::PaymentId,
    webhooks::delivery::{
        breaker::Permit, changes::Row, facts::Facts, failures::Failure, track::Track,
    },
};

/// Calls of an endpoint at once.
pub(super) const CALLS: usize = 8;

/// Retries and replays at once, so that first attempts find room beside them.
const OTHER_CALLS: usize = CALLS / 2;

/// The decision about the events that wait.
#[derive(Debug, Default)]
struct Choice {
    chosen: Option<Facts>,
    /// Events to keep as failures.
    behind: Vec<Facts>,
    /// Events that need no delivery.
    passed: Vec<i64>,
}

impl Agenda {
    /// Chooses the next call, and notes that it runs.
    pub(in crate::webhooks::delivery) fn next(&mut self, now: Instant) -> Option<(Source, Facts)> {
        if self.calls.len() >= CALLS {
            return None;
        }
        let (source, facts) = match self.breaker.permit(now) {
            Permit::Nothing => None,
            Permit::Probe if !self.calls.is_empty() => None,
            Permit::Probe => {
                self.retry(now).or_else(|| self.first(now)).or_else(|| self.replay(now))
            }
            Permit::Calls => {
                let others = self.calls.values().filter(|call| call.source != Source::First);
                let has_room = others.count() < OTHER_CALLS;
                self.first(now).or_else(|| {
                    has_room.then(|| self.retry(now).or_else(|| self.replay(now))).flatten()
                })
            }
        }?;
        match (source, &mut self.replay) {
            (Source::First, _) => self.first.call(facts.position),
            (Source::Replay, Some((_, track))) => track.call(facts.position),
            (Source::Replay, None) => {}
            (Source::Retry, _) => self.failures.call(facts.position),
        }
        let call = Call { source, facts, begun: now, has_row: source == Source::Retry };
        self.calls.insert(facts.position, call);
        Some((source, facts))
    }

    fn first(&mut self, now: Instant) -> Option<(Source, Facts)> {
        let Choice { chosen, behind, .. } = self.choose(&self.first, |_| false);
        for facts in behind {
            self.first.pass(facts.position);
            self.wait_behind(facts, now);
        }
        chosen.map(|facts| (Source::First, facts))
    }

    fn retry(&mut self, now: Instant) -> Option<(Source, Facts)> {
        let due = self.failures.attempted().take_while(|(due, _)| *due <= now);
        let mut failures = due.filter_map(|(_, position)| self.failures.get(position));
        let free = failures.find(|failure| !self.is_called(failure.facts.payment_id))?;
        Some((Source::Retry, free.facts))
    }

    /// Replays only what is done: what is open is delivered anyway.
    fn replay(&mut self, now: Instant) -> Option<(Source, Facts)> {
        let first = self.first.cursor();
        let (_, track) = self.replay.as_ref()?;
        let is_open = |position| !first.is_done(position) || self.failures.get(position).is_some();
        let Choice { chosen, behind, passed } = self.choose(track, is_open);
        let (_, track) = self.replay.as_mut()?;
        for position in behind.iter().map(|facts| facts.position).chain(passed) {
            track.pass(position);
        }
        for facts in behind {
            self.wait_behind(facts, now);
        }
        chosen.map(|facts| (Source::Replay, facts))
    }

    /// Chooses the first event of a track that need not wait for another one of its payment.
    fn choose(&self, track: &Track, passes: impl Fn(i64) -> bool) -> Choice {
        let mut choice = Choice::default();
        // Payments with an event that waits for a call.
        let mut waiting = Vec::new();
        let room = self.room_left();
        for facts in track.waiting() {
            let Facts { payment_id, position, .. } = facts;
            if choice.behind.len() >= room {
                break;
            }
            if passes(position) {
                choice.passed.push(position);
            } else if waiting.contains(&payment_id) {
            } else if self.failures.hold(payment_id, position) {
                choice.behind.push(facts);
            } else if self.is_called(payment_id) {
                waiting.push(payment_id);
            } else {
                choice.chosen = Some(facts);
                break;
            }
        }
        choice
    }

    /// Keeps an event as a failure without an attempt, because an earlier one is open.
    fn wait_behind(&mut self, facts: Facts, now: Instant) {
        self.failures.put(Failure { facts, attempts: 0, due: now });
        self.rows.insert(facts.position, Some(Row::unattempted(facts, now)));
    }

    /// Open failures that may be added. Each call without a row may become one.
    fn room_left(&self) -> usize {
        let reserved = self.calls.values().filter(|call| !call.has_row).count();
        self.room.saturating_sub(self.failures.len() + reserved)
    }

    fn is_called(&self, payment_id: PaymentId) -> bool {
        self.calls.values().any(|call| call.facts.payment_id == payment_id)
    }
}
