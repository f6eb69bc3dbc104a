//! A committer: creates refunds and announces them in one transaction.

use std::fmt;

use super::{Announcement, Feed, Refund, Run, State};
use crate::Variant;
use crate::postgres::Xid;

/// The state of a committer with its batch. Its number is the execution id: requests arrived in that order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Writer {
    /// The batch waits in the queue.
    Queued,
    /// The transaction has an xid, because it has claimed its keys. It holds the rows of these refunds' payments.
    Deciding { xid: Xid, refunds: Vec<Refund> },
    /// All locks are held, and the announcement has its id. The runs are for `Variant::PositionsBeforeCommit` only.
    Announced { xid: Xid, announcement: Announcement, runs: Vec<Run> },
    /// Committed or rolled back.
    Ended,
}

/// A step of a writer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// `BEGIN`, and the first INSERT.
    Begin,
    /// `SELECT … FOR UPDATE` of the next payment. The ordinal of the refund is decided under this lock.
    Decide,
    /// The last statement: the announcement draws its id from a sequence, which no rollback resets.
    Announce,
    /// `COMMIT`
    Commit,
    /// `ROLLBACK`, or the server or its connection dies.
    RollBack,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Begin => "begins a transaction and gets an xid",
            Self::Decide => "locks a payment and decides its refund",
            Self::Announce => "inserts the announcement",
            Self::Commit => "commits",
            Self::RollBack => "is rolled back",
        })
    }
}

impl Writer {
    /// A transaction can be rolled back at any time.
    pub(super) fn is_running(&self) -> bool {
        matches!(self, Self::Deciding { .. } | Self::Announced { .. })
    }

    pub(super) fn refunds(&self) -> &[Refund] {
        match self {
            Self::Queued | Self::Ended => &[],
            Self::Deciding { refunds, .. } => refunds,
            Self::Announced { announcement, .. } => &announcement.refunds,
        }
    }
}

impl Feed {
    pub(super) fn writer_step(&self, state: &State, number: usize) -> Option<Step> {
        match &state.writers[number] {
            Writer::Queued => Some(Step::Begin),
            Writer::Deciding { refunds, .. } => match self.batches[number].get(refunds.len()) {
                Some(payment) => (!state.is_locked(*payment)).then_some(Step::Decide),
                None => Some(Step::Announce),
            },
            Writer::Announced { .. } => Some(Step::Commit),
            Writer::Ended => None,
        }
    }

    pub(super) fn writer_does(&self, state: &mut State, number: usize, step: Step) {
        let writer = std::mem::replace(&mut state.writers[number], Writer::Ended);
        state.writers[number] = match (step, writer) {
            (Step::Begin, Writer::Queued) => {
                Writer::Deciding { xid: state.transactions.begin(), refunds: vec![] }
            }
            (Step::Decide, Writer::Deciding { xid, mut refunds }) => {
                let payment = self.batches[number][refunds.len()];
                refunds.push(Refund { payment, ordinal: state.refunds_of(payment) + 1 });
                Writer::Deciding { xid, refunds }
            }
            (Step::Announce, Writer::Deciding { xid, refunds }) => {
                state.last_announcement += 1;
                let id = state.last_announcement;
                let announcement = Announcement { id, xid, execution_id: number, refunds };
                let runs = match self.variant {
                    Variant::PositionsBeforeCommit => {
                        announcement.runs(|account| state.draw_position(account))
                    }
                    _ => vec![],
                };
                Writer::Announced { xid, announcement, runs }
            }
            (Step::Commit, Writer::Announced { xid, announcement, runs }) => {
                state.transactions.end(xid);
                if runs.is_empty() {
                    state.announcements.push(announcement);
                } else {
                    state.runs.extend(runs);
                }
                Writer::Ended
            }
            (Step::RollBack, Writer::Deciding { xid, .. } | Writer::Announced { xid, .. }) => {
                state.transactions.end(xid);
                Writer::Ended
            }
            (_, writer) => writer,
        };
    }
}
