//! A key's command as a committer works on it.

use uuid::Uuid;

use super::request::{Reply, Request};
use crate::{Failure, Outcome, command::AnyCommand};

/// A key that a committer has taken: the request that leads, and the history of its attempts.
pub(crate) struct Job {
    pub(crate) leader: Request,
    /// The number of times that the connection was lost while a transaction had it.
    pub(crate) losses: u32,
    /// A COMMIT with this leader was sent and not acknowledged.
    pub(crate) in_doubt: bool,
    /// Earlier leaders of which the same is true.
    pub(crate) left_in_doubt: Vec<LeftInDoubt>,
    /// The number of times that its transaction conflicted with others.
    pub(crate) conflicts: u32,
    /// The number of times that it was delayed.
    pub(crate) delays: u32,
    /// The obstacle to its execution, as far as is known.
    pub(crate) obstacle: Obstacle,
}

/// A reason why a command is not executed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// There is no database that takes writes, or the reason is unknown.
    #[default]
    NoDatabase,
    /// The connection is lost each time.
    ConnectionLost,
    /// Another server is executing its key, or another session has locked its key's row.
    KeyInFlight,
    /// Another session has locked a table, or another row.
    Locked,
    /// Its transaction conflicts with others.
    Conflict,
}

impl Obstacle {
    /// The reply to a caller whose wait is over.
    pub(crate) fn reply(self) -> Reply {
        match self {
            Self::NoDatabase => Err(Failure::DatabaseUnavailable),
            Self::ConnectionLost => Err(Failure::ConnectionLost),
            Self::KeyInFlight => Ok(Outcome::InFlight),
            Self::Locked => Err(Failure::Locked),
            Self::Conflict => Err(Failure::Conflict),
        }
    }

    /// Returns whether another session has to release a lock.
    pub(crate) fn is_lock(self) -> bool {
        matches!(self, Self::KeyInFlight | Self::Locked)
    }
}

/// An earlier leader whose caller is gone, and which may have been executed.
pub(crate) struct LeftInDoubt {
    pub(crate) execution_id: Uuid,
    pub(crate) command: Box<dyn AnyCommand>,
}

impl Job {
    pub(crate) fn new(leader: Request) -> Self {
        Self {
            leader,
            losses: 0,
            in_doubt: false,
            left_in_doubt: Vec::new(),
            conflicts: 0,
            delays: 0,
            obstacle: Obstacle::default(),
        }
    }

    /// Makes another request the leader. The caller of the former one gets this reply.
    pub(crate) fn hand_over(&mut self, next: Request, reply: Reply) {
        let Request { execution_id, command, reply: caller, .. } =
            std::mem::replace(&mut self.leader, next);
        let _ = caller.send(reply);
        if std::mem::take(&mut self.in_doubt) {
            self.left_in_doubt.push(LeftInDoubt { execution_id, command });
        }
    }

    /// Returns whether its key may have been committed, by this leader or an earlier one.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.in_doubt || !self.left_in_doubt.is_empty()
    }
}

/// The stage of a key's execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// No transaction that could still commit has it, for this reason.
    Waiting(Obstacle),
    /// A transaction has it, or had it and may have committed.
    Begun,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::request::tests::request;

    #[test]
    fn an_earlier_leader_is_kept_only_if_its_own_commit_is_in_doubt() {
        let request = || request(0, "k").0;
        let (first, reply) = (request(), || Err(Failure::OutcomeUnknown));
        let id = first.execution_id;
        let mut job = Job::new(first);
        job.hand_over(request(), reply());
        assert!(!job.is_in_doubt());

        let in_doubt = job.leader.execution_id;
        job.in_doubt = true;
        for _ in 0..3 {
            job.hand_over(request(), reply());
            assert!(job.is_in_doubt(), "the key is in doubt, whichever request leads");
        }
        let left: Vec<Uuid> = job.left_in_doubt.iter().map(|left| left.execution_id).collect();
        assert_eq!(left, [in_doubt], "neither {id} nor a later leader");
    }
}
