//! From commit to position: committers announce, one sequencer at a time gives positions, readers follow a cursor.

use std::fmt;

use stateright::{Model, Property};

use crate::Variant;
use crate::postgres::{Transactions, Xid};
use sequencer::{Pass, Server};
use writer::Writer;

pub mod properties;
pub mod sequencer;
pub mod writer;

/// The number of events that a page has at most.
const PAGE_LIMIT: usize = 2;
/// The reader follows the feed of this account.
const READ_ACCOUNT: usize = 0;

/// The model of the feed, with its bounds.
#[derive(Debug)]
pub struct Feed {
    variant: Variant,
    /// For each writer the payments that its batch refunds, in the order in which all writers lock them.
    batches: Vec<Vec<usize>>,
    servers: usize,
    /// The number of failures of sequencers. Writers may all fail.
    failures: usize,
}

impl Feed {
    /// Three batches and two servers. Two batches refund the same payment, and one is of two accounts.
    #[must_use]
    pub fn new(variant: Variant) -> Self {
        Self { variant, batches: vec![vec![0], vec![0, 2], vec![1]], servers: 2, failures: 1 }
    }

    /// The same with one server: no other server repairs its mistakes.
    #[must_use]
    pub fn with_one_server(variant: Variant) -> Self {
        Self { servers: 1, ..Self::new(variant) }
    }
}

/// Payments 0 and 1 are of one account, payment 2 is of another.
fn account_of(payment: usize) -> usize {
    payment / 2
}

/// The database, and the programs that use it. What a transaction has not committed is in the program's state, because
/// nobody else sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    transactions: Transactions,
    /// The last value of the sequence that gives ids to announcements.
    last_announcement: usize,
    announcements: Vec<Announcement>,
    runs: Vec<Run>,
    /// The last positions that writers drew, by account. For `Variant::PositionsBeforeCommit` only.
    drawn: [usize; 2],
    writers: Vec<Writer>,
    servers: Vec<Server>,
    reader: Reader,
    failures_left: usize,
}

/// A refund: the event.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Refund {
    payment: usize,
    /// The number of this refund among those of its payment, from 1.
    ordinal: usize,
}

/// A row of `announcements`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Announcement {
    id: usize,
    xid: Xid,
    execution_id: usize,
    refunds: Vec<Refund>,
}

/// A row of `event_runs`: consecutive positions of one account, from one announcement.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Run {
    account: usize,
    first_position: usize,
    refunds: Vec<Refund>,
    announcement: usize,
}

/// A client that reads pages.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
struct Reader {
    /// `next_after` of the last page.
    cursor: usize,
    received: Vec<Refund>,
}

impl Announcement {
    /// One run for each account.
    fn runs(&self, mut first_position: impl FnMut(usize) -> usize) -> Vec<Run> {
        let mut accounts: Vec<_> =
            self.refunds.iter().map(|refund| account_of(refund.payment)).collect();
        accounts.dedup();
        let run_of = |account| {
            let refunds =
                self.refunds.iter().filter(|refund| account_of(refund.payment) == account);
            let refunds = refunds.cloned().collect();
            Run { account, first_position: first_position(account), refunds, announcement: self.id }
        };
        accounts.into_iter().map(run_of).collect()
    }
}

impl Run {
    fn last_position(&self) -> usize {
        self.first_position + self.refunds.len() - 1
    }

    /// The events with their positions.
    fn events(&self) -> impl Iterator<Item = (usize, &Refund)> {
        (self.first_position..).zip(&self.refunds)
    }
}

impl State {
    /// The row of a payment is locked until the transaction ends.
    fn is_locked(&self, payment: usize) -> bool {
        let mut decided = self.writers.iter().flat_map(Writer::refunds);
        decided.any(|refund| refund.payment == payment)
    }

    /// The number of committed refunds.
    fn refunds_of(&self, payment: usize) -> usize {
        let announced = self.announcements.iter().flat_map(|announcement| &announcement.refunds);
        let placed = self.runs.iter().flat_map(|run| &run.refunds);
        announced.chain(placed).filter(|refund| refund.payment == payment).count()
    }

    fn draw_position(&mut self, account: usize) -> usize {
        self.drawn[account] += 1;
        self.drawn[account]
    }

    /// The committed events of an account with their positions, in this order.
    fn feed(&self, account: usize) -> Vec<(usize, &Refund)> {
        let runs = self.runs.iter().filter(|run| run.account == account);
        let mut events: Vec<_> = runs.flat_map(Run::events).collect();
        events.sort_by_key(|(position, _)| *position);
        events
    }
}

/// A step of one of the programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A writer.
    Writer(usize, writer::Step),
    /// A server's sequencer.
    Server(usize, sequencer::Step),
    /// The reader gets a page.
    Read,
}

impl Model for Feed {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            transactions: Transactions::default(),
            last_announcement: 0,
            announcements: vec![],
            runs: vec![],
            drawn: [0; 2],
            writers: vec![Writer::Queued; self.batches.len()],
            servers: vec![Server::NEW; self.servers],
            reader: Reader::default(),
            failures_left: self.failures,
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(self.progress(state));
        let running = (0..).zip(&state.writers).filter(|(_, writer)| writer.is_running());
        actions.extend(running.map(|(number, _)| Action::Writer(number, writer::Step::RollBack)));
        if state.failures_left > 0 {
            let failures = (0..).zip(&state.servers).flat_map(|(number, server)| {
                server.failures().into_iter().map(move |step| Action::Server(number, step))
            });
            actions.extend(failures);
        }
    }

    fn next_state(&self, state: &State, action: Action) -> Option<State> {
        let mut next = state.clone();
        match action {
            Action::Writer(number, step) => self.writer_does(&mut next, number, step),
            Action::Server(number, step) => self.sequencer_does(&mut next, number, step),
            Action::Read => {
                for (cursor, refund) in self.page(state) {
                    next.reader.cursor = cursor;
                    next.reader.received.push(refund.clone());
                }
            }
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}

impl Feed {
    /// `GET /events` after the reader's cursor: the events, each with the cursor that stands behind it.
    fn page<'a>(&self, state: &'a State) -> Vec<(usize, &'a Refund)> {
        let mut events = self.readable(state);
        events.retain(|(cursor, _)| *cursor > state.reader.cursor);
        events.truncate(PAGE_LIMIT);
        events
    }

    /// All events of the reader's account, in the order of its cursor.
    fn readable<'a>(&self, state: &'a State) -> Vec<(usize, &'a Refund)> {
        if self.variant != Variant::CursorOnAnnouncements {
            return state.feed(READ_ACCOUNT);
        }
        let runs = state.runs.iter().filter(|run| run.account == READ_ACCOUNT);
        let mut events: Vec<_> = runs
            .flat_map(|run| run.refunds.iter().map(|refund| (run.announcement, refund)))
            .collect();
        events.sort_by_key(|(id, _)| *id);
        events
    }

    /// The steps that are not failures.
    fn progress<'a>(&'a self, state: &'a State) -> impl Iterator<Item = Action> + 'a {
        let writers = (0..self.batches.len()).filter_map(|number| {
            self.writer_step(state, number).map(|step| Action::Writer(number, step))
        });
        let servers = (0..self.servers).filter_map(|number| {
            self.sequencer_step(state, number).map(|step| Action::Server(number, step))
        });
        let reader = (!self.page(state).is_empty()).then_some(Action::Read);
        writers.chain(servers).chain(reader)
    }

    /// Nothing more happens without a failure.
    fn is_quiet(&self, state: &State) -> bool {
        self.progress(state).next().is_none()
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Writer(number, step) => write!(f, "writer {number} {step}"),
            Self::Server(number, step) => write!(f, "server {number} {step}"),
            Self::Read => f.write_str("the reader gets a page"),
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for announcement in &self.announcements {
            let Announcement { id, xid, execution_id, refunds } = announcement;
            writeln!(
                f,
                "announcement {id} of writer {execution_id}, xid {xid}: {}",
                Events(refunds)
            )?;
        }
        for run in &self.runs {
            let Run { account, first_position, refunds, announcement } = run;
            writeln!(
                f,
                "run {first_position} of account {account}, announcement {announcement}: {}",
                Events(refunds)
            )?;
        }
        writeln!(
            f,
            "received, up to cursor {}: {}",
            self.reader.cursor,
            Events(&self.reader.received)
        )
    }
}

struct Events<'a>(&'a [Refund]);

impl fmt::Display for Events<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, Refund { payment, ordinal }) in self.0.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}refund {ordinal} of payment {payment}")?;
        }
        Ok(())
    }
}
