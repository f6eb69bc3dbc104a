//! Random feeds, receivers and crashes against a database in memory.

use std::collections::{BTreeMap, BTreeSet};

use chrono::DateTime;
use proptest::prelude::*;
use uuid::Uuid;

use super::{choose::CALLS, *};
use crate::{db::timestamp::Timestamp, events::EventType};

const ROOM: usize = 20;

fn facts(position: i64, payment: u8) -> Facts {
    Facts {
        position,
        event_type: EventType::PaymentCreated,
        version: 1,
        subject: Uuid::from_u128(position.unsigned_abs().into()).into(),
        payment_id: Uuid::from_u128(payment.into()).into(),
        at: Timestamp(DateTime::UNIX_EPOCH),
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    /// One of the running calls ends.
    End {
        which: usize,
        delivered: bool,
    },
    Commit,
    /// A commit begins and is acknowledged later.
    Send,
    Crash {
        with_commit: bool,
    },
    Pass(Duration),
    Read,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Begin),
        8 => (any::<usize>(), prop::bool::weighted(0.7))
            .prop_map(|(which, delivered)| Step::End { which, delivered }),
        4 => Just(Step::Commit),
        2 => Just(Step::Send),
        1 => any::<bool>().prop_map(|with_commit| Step::Crash { with_commit }),
        2 => (1_u64..4000).prop_map(|millis| Step::Pass(Duration::from_millis(millis))),
        1 => (1_u64..100_000).prop_map(|seconds| Step::Pass(Duration::from_secs(seconds))),
        3 => Just(Step::Read),
    ]
}

/// The database, the receiver and the feed.
struct World {
    now: Instant,
    feed: Vec<Facts>,
    unwanted: BTreeSet<i64>,
    stored: Cursor,
    rows: BTreeMap<i64, Row>,
    received: BTreeMap<i64, usize>,
    agenda: Agenda,
    sent: Option<Changes>,
}

impl World {
    fn new(payments: &[u8], unwanted: BTreeSet<i64>) -> Self {
        let feed = (1..).zip(payments).map(|(position, payment)| facts(position, *payment));
        Self {
            now: Instant::now(),
            feed: feed.collect(),
            unwanted,
            stored: Cursor::at(0),
            rows: BTreeMap::new(),
            received: BTreeMap::new(),
            agenda: Agenda::with_room(Cursor::at(0), Vec::new(), Breaker::default(), ROOM),
            sent: None,
        }
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Begin => self.begin(),
            Step::End { which, delivered } => {
                let running: Vec<i64> = self.agenda.calls.keys().copied().collect();
                if let Some(position) = running.get(which % running.len().max(1)) {
                    self.end(*position, *delivered);
                }
            }
            Step::Commit => {
                self.acknowledge();
                self.sent = self.agenda.changes();
                self.acknowledge();
            }
            Step::Send => self.sent = self.sent.take().or_else(|| self.agenda.changes()),
            Step::Crash { with_commit } => {
                if *with_commit {
                    self.apply();
                }
                self.restart();
            }
            Step::Pass(time) => {
                self.now += *time;
                self.agenda.let_slow_calls_pass(self.now);
            }
            Step::Read => self.read(),
        }
        assert!(self.agenda.calls() <= CALLS);
        assert!(self.agenda.failures.len() <= ROOM);
    }

    fn read(&mut self) {
        let Some(after) = self.agenda.reads_after(Source::First) else { return };
        let page: Vec<Facts> =
            self.feed.iter().filter(|facts| facts.position > after).take(10).copied().collect();
        let Some(last) = page.last() else { return };
        let wanted: Vec<Facts> =
            page.iter().filter(|facts| !self.unwanted.contains(&facts.position)).copied().collect();
        self.agenda.read(Source::First, &wanted, last.position);
    }

    fn begin(&mut self) {
        let Some((source, begun)) = self.agenda.next(self.now) else { return };
        let Facts { position, payment_id, .. } = begun;
        assert!(!self.unwanted.contains(&position));
        // In order: earlier events of the payment were received, or are parked.
        let earlier = self.feed.iter().take_while(|facts| facts.position < position);
        for earlier in earlier.filter(|facts| facts.payment_id == payment_id) {
            let parked = self.is_parked(earlier.position);
            let done = parked
                || self.unwanted.contains(&earlier.position)
                || self.received.contains_key(&earlier.position);
            assert!(done, "{position} overtakes {}", earlier.position);
        }
        if source == Source::First {
            assert!(self.stored.has_slot(position) && !self.stored.is_done(position));
        }
    }

    fn is_parked(&self, position: i64) -> bool {
        let row = self.agenda.rows.get(&position).and_then(Option::as_ref);
        let sent = self.sent.as_ref().and_then(|sent| sent.rows.get(&position)?.as_ref());
        row.or(sent).or(self.rows.get(&position)).is_some_and(|row| row.due.is_none())
    }

    fn end(&mut self, position: i64, delivered: bool) {
        let ended = if delivered {
            let times = self.received.entry(position).or_default();
            *times += 1;
            let done = self.stored.is_done(position) && !self.rows.contains_key(&position);
            assert!(!done, "{position} is stored as delivered, and was sent again");
            Ended::Delivered
        } else {
            Ended::Failed { status: Some(500), retry_after: None, error: String::new() }
        };
        self.agenda.ended(position, ended, self.now, 0.5);
    }

    /// The commit that is under way takes place.
    fn apply(&mut self) {
        let Some(changes) = &self.sent else { return };
        if let Some(cursor) = changes.first {
            assert!(cursor.position >= self.stored.position, "{cursor:?} {:?}", self.stored);
            self.stored = cursor;
        }
        for (position, row) in &changes.rows {
            match row {
                Some(row) => drop(self.rows.insert(*position, row.clone())),
                None => drop(self.rows.remove(position)),
            }
        }
        let open = self.rows.values().filter(|row| row.due.is_some()).count();
        assert!(open <= ROOM, "{open}");
        for facts in self.feed.iter().filter(|facts| self.stored.is_done(facts.position)) {
            let position = facts.position;
            let kept = self.received.contains_key(&position)
                || self.rows.contains_key(&position)
                || self.unwanted.contains(&position);
            assert!(kept, "{position} is skipped: {:?}", self.stored);
        }
    }

    fn acknowledge(&mut self) {
        if self.sent.is_some() {
            self.apply();
            self.sent = None;
            self.agenda.stored();
        }
    }

    fn restart(&mut self) {
        self.sent = None;
        let open = self.rows.values().filter_map(|row| {
            Some(Failure { facts: row.facts, attempts: row.attempts, due: row.due? })
        });
        let breaker = Breaker::default();
        self.agenda = Agenda::with_room(self.stored, open.collect(), breaker, ROOM);
    }

    /// The receiver takes everything from now on.
    fn finish(&mut self) {
        self.acknowledge();
        for _ in 0..10 * self.feed.len() + 100 {
            self.read();
            self.begin();
            self.begin();
            let running: Vec<i64> = self.agenda.calls.keys().copied().collect();
            for position in running {
                self.end(position, true);
            }
            self.run(&Step::Commit);
            self.now += Duration::from_hours(1);
        }
        let last = self.feed.last().map_or(0, |facts| facts.position);
        assert_eq!(self.stored, Cursor::at(last), "{:?}", self.agenda);
        for facts in &self.feed {
            let position = facts.position;
            assert!(
                self.received.contains_key(&position)
                    || self.is_parked(position)
                    || self.unwanted.contains(&position),
                "{position} is missing"
            );
        }
        assert!(self.rows.values().all(|row| row.due.is_none()) && self.agenda.is_idle());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_event_is_delivered_in_the_order_of_its_payment_across_failures_and_crashes(
        payments in prop::collection::vec(0_u8..12, 1..150),
        unwanted in prop::collection::btree_set(1_i64..150, 0..30),
        steps in prop::collection::vec(step(), 0..600),
    ) {
        let mut world = World::new(&payments, unwanted);
        for step in &steps {
            world.run(step);
        }
        world.finish();
    }
}

/// An agenda that has read these payments' events.
fn agenda(payments: &[u8]) -> (Agenda, Instant) {
    let mut agenda = Agenda::new(Cursor::at(0), Vec::new(), Breaker::default());
    let page: Vec<Facts> =
        (1..).zip(payments).map(|(position, payment)| facts(position, *payment)).collect();
    let last = page.len().try_into().unwrap_or(0);
    agenda.read(Source::First, &page, last);
    (agenda, Instant::now())
}

fn failed() -> Ended {
    Ended::Failed { status: Some(500), retry_after: None, error: "500".to_owned() }
}

/// Begins the calls that may begin.
fn begin(agenda: &mut Agenda, now: Instant) -> Vec<(Source, i64)> {
    std::iter::from_fn(|| agenda.next(now))
        .map(|(source, facts)| (source, facts.position))
        .collect()
}

fn store(agenda: &mut Agenda) -> Changes {
    let changes = agenda.changes().unwrap_or_default();
    agenda.stored();
    changes
}

#[test]
fn eight_calls_run_at_once_and_one_of_a_payment() {
    let (mut agenda, now) = agenda(&[1, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
    let begun: Vec<i64> =
        begin(&mut agenda, now).into_iter().map(|(_, position)| position).collect();
    assert_eq!(begun, [1, 3, 4, 5, 6, 7, 8, 9]);
    agenda.ended(1, Ended::Delivered, now, 0.5);
    assert_eq!(begin(&mut agenda, now), [(Source::First, 2)]);
}

#[test]
fn a_slot_is_free_only_when_its_completion_is_stored() {
    let payments: Vec<u8> = (0..70).collect();
    let (mut agenda, now) = agenda(&payments);
    let mut sent = 0;
    loop {
        let begun = begin(&mut agenda, now);
        if begun.is_empty() {
            break;
        }
        sent += begun.len();
        for (_, position) in begun {
            agenda.ended(position, Ended::Delivered, now, 0.5);
        }
    }
    assert_eq!(sent, 64);
    assert_eq!(store(&mut agenda).first, Some(Cursor::at(64)));
    assert_eq!(begin(&mut agenda, now).len(), 6);
}

#[test]
fn first_attempts_go_before_retries_which_leave_them_half_of_the_calls() {
    let failures = (1..=6).map(|position| {
        let facts = facts(position, u8::try_from(position).unwrap_or(0));
        Failure { facts, attempts: 1, due: Instant::now() }
    });
    let mut agenda = Agenda::new(Cursor::at(6), failures.collect(), Breaker::default());
    let now = Instant::now();
    let sources = |begun: Vec<(Source, i64)>| -> Vec<Source> {
        begun.into_iter().map(|(source, _)| source).collect()
    };
    agenda.read(Source::First, &[facts(7, 7), facts(8, 8)], 8);
    let begun = sources(begin(&mut agenda, now));
    assert_eq!(begun, [[Source::First; 2].as_slice(), &[Source::Retry; 4]].concat());
    agenda.read(Source::First, &[facts(9, 9), facts(10, 10), facts(11, 11)], 11);
    assert_eq!(sources(begin(&mut agenda, now)), [Source::First; 2]);
}

#[test]
fn later_events_of_a_payment_wait_behind_a_failure_and_a_parked_one_no_longer_holds_them() {
    let (mut agenda, mut now) = agenda(&[1, 1, 2]);
    assert_eq!(begin(&mut agenda, now), [(Source::First, 1), (Source::First, 3)]);
    agenda.ended(3, Ended::Delivered, now, 0.5);
    agenda.ended(1, failed(), now, 0.5);
    assert_eq!(begin(&mut agenda, now), []);
    let changes = store(&mut agenda);
    assert_eq!(changes.first, Some(Cursor::at(3)), "the cursor passes the failures");
    assert_eq!(changes.rows.keys().copied().collect::<Vec<_>>(), [1, 2], "in the same commit");
    for _ in 2..=12 {
        now += Duration::from_hours(30);
        assert_eq!(begin(&mut agenda, now), [(Source::Retry, 1)]);
        agenda.ended(1, failed(), now, 0.5);
        agenda.breaker().succeeded();
    }
    let parked = store(&mut agenda).rows.remove(&1).flatten();
    assert!(parked.is_some_and(|row| row.due.is_none() && row.attempts == 12));
    assert_eq!(begin(&mut agenda, now), [(Source::Retry, 2)]);
}

#[test]
fn a_slow_call_gets_a_row_and_does_not_hold_the_cursor() {
    let (mut agenda, now) = agenda(&[1, 2, 1]);
    assert_eq!(begin(&mut agenda, now).len(), 2);
    agenda.ended(2, Ended::Delivered, now, 0.5);
    assert_eq!(store(&mut agenda).first, Some(Cursor { position: 0, done: 0b10 }));
    assert_eq!(agenda.wakes_at(now), Some(now + SLOW));
    agenda.let_slow_calls_pass(now + SLOW);
    assert_eq!(begin(&mut agenda, now + SLOW), [], "the later event waits, too");
    let changes = store(&mut agenda);
    assert_eq!(changes.first, Some(Cursor::at(3)));
    assert!(changes.rows.values().flatten().all(|row| row.attempts == 0 && row.due.is_some()));
    agenda.ended(1, Ended::Delivered, now + 9 * SLOW, 0.5);
    assert_eq!(begin(&mut agenda, now + 9 * SLOW), [(Source::Retry, 3)]);
    assert!(matches!(store(&mut agenda).rows.get(&1), Some(None)), "the row is deleted");
}

#[test]
fn the_cursor_stands_with_too_many_open_failures_or_an_open_breaker() {
    let payments: Vec<u8> = (0..60).collect();
    let page: Vec<Facts> =
        (1..).zip(&payments).map(|(position, payment)| facts(position, *payment)).collect();
    let mut agenda = Agenda::with_room(Cursor::at(0), Vec::new(), Breaker::default(), ROOM);
    let now = Instant::now();
    agenda.read(Source::First, &page, 60);
    loop {
        let begun = begin(&mut agenda, now);
        if begun.is_empty() {
            break;
        }
        for (_, position) in begun {
            agenda.ended(position, failed(), now, 0.5);
            // It fails only now and then, so the breaker stays closed.
            agenda.breaker().succeeded();
        }
    }
    assert_eq!(agenda.failures.len(), ROOM);
    assert_eq!(store(&mut agenda).first, Some(Cursor::at(20)));

    let (mut agenda, now) = self::agenda(&payments);
    for (_, position) in begin(&mut agenda, now) {
        agenda.ended(position, failed(), now, 0.5);
    }
    assert_eq!(begin(&mut agenda, now), [], "eight failures in a row open the breaker");
    assert_eq!(store(&mut agenda).first, Some(Cursor::at(8)));
    let later = now + Duration::from_secs(5);
    assert_eq!(begin(&mut agenda, later), [(Source::Retry, 1)], "one call probes");
    agenda.ended(1, Ended::Delivered, later, 0.5);
    assert_eq!(begin(&mut agenda, later).len(), CALLS, "and closes the breaker");
}

#[test]
fn a_replay_sends_what_is_done_again_behind_first_attempts() {
    let mut agenda = Agenda::new(Cursor::at(5), Vec::new(), Breaker::default());
    let now = Instant::now();
    agenda.set_replay(Some((1, Cursor::at(1), 9)));
    assert_eq!(agenda.reads_after(Source::Replay), Some(1));
    let page: Vec<Facts> =
        (2..=9).zip(10..).map(|(position, payment)| facts(position, payment)).collect();
    agenda.read(Source::Replay, &page, 9);
    agenda.read(Source::First, &page, 6);
    let begun = begin(&mut agenda, now);
    let replayed: Vec<_> = (2..=5).map(|position| (Source::Replay, position)).collect();
    assert_eq!(begun, [&[(Source::First, 6)], replayed.as_slice()].concat());
    for (_, position) in begun {
        agenda.ended(position, Ended::Delivered, now, 0.5);
    }
    assert_eq!(begin(&mut agenda, now), [(Source::Replay, 6)]);
    agenda.ended(6, Ended::Delivered, now, 0.5);
    // What is beyond the first deliveries comes anyway.
    assert_eq!(begin(&mut agenda, now), []);
    assert_eq!(store(&mut agenda).replay, Some((1, Cursor::at(9))));
    assert_eq!(agenda.ended_replay(), Some(1));
}
