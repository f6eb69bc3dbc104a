//! The sequencer of a server: takes announcements and gives their events positions.

use std::fmt;

use super::{Announcement, Feed, Run, State};
use crate::Variant;
use crate::postgres::Snapshot;

/// The number of announcements that a pass takes at most.
const TAKE_LIMIT: usize = 2;

/// A server with its sequencer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    /// The snapshot of the last pass that took all it saw. The next pass looks for what this snapshot did not see.
    /// Without it, the next pass scans in full.
    pub(super) memory: Option<Snapshot>,
    pub(super) pass: Pass,
}

/// A pass: one transaction, READ COMMITTED.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Pass {
    None,
    /// The statement that will lock has its snapshot already. For `Variant::SnapshotBeforeLock` only.
    Seen(Take),
    /// The transaction holds the advisory lock.
    Locked,
    /// A later statement has read announcements.
    Taken(Take),
    /// The last positions are read, the runs inserted, the announcements deleted.
    Placed {
        take: Take,
        runs: Vec<Run>,
    },
}

/// The result of the statement that takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Take {
    pub(super) announcements: Vec<Announcement>,
    /// False if the limit left announcements behind.
    pub(super) is_complete: bool,
    /// The snapshot of this statement.
    snapshot: Snapshot,
}

/// A step of a sequencer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A statement that locks and takes gets its snapshot, before it has the lock.
    See,
    /// `pg_try_advisory_xact_lock` succeeds.
    Lock,
    /// The statement that takes.
    Take,
    /// The statements that read last positions, insert runs, and delete announcements.
    Place,
    /// `COMMIT`
    Commit,
    /// `COMMIT`, but the server does not hear it.
    CommitUnheard,
    /// PostgreSQL rolls the transaction back, as when the server freezes. The server survives.
    RollBack,
    /// The server dies, with its memory. PostgreSQL rolls the transaction back.
    Crash,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::See => "starts the statement that locks and takes",
            Self::Lock => "gets the advisory lock",
            Self::Take => "takes announcements",
            Self::Place => "inserts runs and deletes announcements",
            Self::Commit => "commits",
            Self::CommitUnheard => "commits, without hearing it",
            Self::RollBack => "is rolled back",
            Self::Crash => "crashes",
        })
    }
}

impl Server {
    pub(super) const NEW: Self = Self { memory: None, pass: Pass::None };

    /// The advisory lock belongs to the transaction.
    pub(super) fn holds_lock(&self) -> bool {
        matches!(self.pass, Pass::Locked | Pass::Taken(_) | Pass::Placed { .. })
    }

    /// The failures that can happen to a server now.
    pub(super) fn failures(&self) -> Vec<Step> {
        match self.pass {
            Pass::None if self.memory.is_none() => vec![],
            Pass::None => vec![Step::Crash],
            Pass::Placed { .. } => vec![Step::CommitUnheard, Step::RollBack, Step::Crash],
            _ => vec![Step::RollBack, Step::Crash],
        }
    }

    /// The finding rule: everything that the remembered snapshot did not see.
    pub(super) fn finds(&self, announcement: &Announcement) -> bool {
        self.memory.as_ref().is_none_or(|memory| !memory.sees(announcement.xid))
    }
}

impl Feed {
    pub(super) fn sequencer_step(&self, state: &State, number: usize) -> Option<Step> {
        let server = &state.servers[number];
        let is_free = !state.servers.iter().any(Server::holds_lock);
        match &server.pass {
            // A pass that would find nothing and learn nothing changes nothing.
            Pass::None if self.is_idle(state, server) => None,
            Pass::None if self.variant == Variant::SnapshotBeforeLock => Some(Step::See),
            Pass::None | Pass::Seen(_) => is_free.then_some(Step::Lock),
            Pass::Locked => Some(Step::Take),
            Pass::Taken(_) => Some(Step::Place),
            Pass::Placed { .. } => Some(Step::Commit),
        }
    }

    fn is_idle(&self, state: &State, server: &Server) -> bool {
        self.variant == Variant::PositionsBeforeCommit
            || server.memory.as_ref() == Some(&state.transactions.snapshot())
                && !state.announcements.iter().any(|announcement| server.finds(announcement))
    }

    pub(super) fn sequencer_does(&self, state: &mut State, number: usize, step: Step) {
        let mut server = std::mem::replace(&mut state.servers[number], Server::NEW);
        if matches!(step, Step::CommitUnheard | Step::RollBack | Step::Crash) {
            state.failures_left -= 1;
        }
        server.pass = match (step, server.pass.clone()) {
            (Step::See, _) => Pass::Seen(self.take(state, &server)),
            (Step::Lock, Pass::Seen(take)) => Pass::Taken(take),
            (Step::Lock, _) => Pass::Locked,
            (Step::Take, _) => {
                let take = self.take(state, &server);
                if self.variant == Variant::MemoryBeforeCommit && take.is_complete {
                    server.memory = Some(take.snapshot.clone());
                }
                Pass::Taken(take)
            }
            (Step::Place, Pass::Taken(take)) => match place(state, &take) {
                Some(runs) => Pass::Placed { take, runs },
                None => Pass::None,
            },
            (Step::Commit, Pass::Placed { take, runs }) => {
                commit(state, &take, runs);
                // The older memory stays right when this one must not be kept.
                if take.is_complete || self.variant == Variant::MemoryOfCutTake {
                    server.memory = Some(take.snapshot);
                }
                Pass::None
            }
            (Step::CommitUnheard, Pass::Placed { take, runs }) => {
                commit(state, &take, runs);
                Pass::None
            }
            (Step::Crash, _) => {
                server.memory = None;
                Pass::None
            }
            _ => Pass::None,
        };
        state.servers[number] = server;
    }

    /// The statement that takes: what is visible and not known from the memory, lowest id first.
    fn take(&self, state: &State, server: &Server) -> Take {
        let found = state.announcements.iter().filter(|announcement| server.finds(announcement));
        let mut announcements: Vec<_> = found.cloned().collect();
        announcements.sort_by_key(|announcement| match self.variant {
            Variant::OrderByXid => announcement.xid,
            Variant::OrderByExecutionId => announcement.execution_id,
            _ => announcement.id,
        });
        let is_complete = announcements.len() <= TAKE_LIMIT;
        announcements.truncate(TAKE_LIMIT);
        Take { announcements, is_complete, snapshot: state.transactions.snapshot() }
    }
}

/// The runs of a take, from the last position + 1. `None` if the primary key `(account_id, first_position)` refuses one.
fn place(state: &State, take: &Take) -> Option<Vec<Run>> {
    let mut runs: Vec<Run> = vec![];
    for announcement in &take.announcements {
        let placed = announcement.runs(|account| {
            let of_account = state.runs.iter().chain(&runs).filter(|run| run.account == account);
            of_account.map(Run::last_position).max().unwrap_or(0) + 1
        });
        runs.extend(placed);
    }
    let is_taken = |new: &Run| {
        state
            .runs
            .iter()
            .any(|run| (run.account, run.first_position) == (new.account, new.first_position))
    };
    (!runs.iter().any(is_taken)).then_some(runs)
}

/// Deleting an announcement that is gone already deletes nothing.
fn commit(state: &mut State, take: &Take, runs: Vec<Run>) {
    state.runs.extend(runs);
    state.announcements.retain(|one| !take.announcements.iter().any(|taken| taken.id == one.id));
}
