//! A call of `submit`: its command, and the caller that waits for the outcome.

use std::any::{Any, TypeId};

use chrono::{DateTime, Utc};
use tokio::{sync::oneshot, time::Instant};
use uuid::Uuid;

use crate::{
    Failure, Outcome, Record, RecordState, Response,
    command::{AnyCommand, BatchEntry, Execution},
    fingerprint::Fingerprint,
    key::ScopedKey,
};

/// The reply to a caller.
pub(crate) type Reply = Result<Outcome, Failure>;

/// One call of `submit`.
pub(crate) struct Submission {
    pub(crate) scope: ScopedKey,
    pub(crate) lock_number: i64,
    pub(crate) execution_id: Uuid,
    pub(crate) operation: &'static str,
    pub(crate) fingerprint: Fingerprint,
    /// See [`BatchCommand::locks`](crate::BatchCommand::locks).
    pub(crate) row: Option<Uuid>,
    pub(crate) command: Box<dyn AnyCommand>,
    pub(crate) arrived: Instant,
    pub(crate) deadline: Instant,
    pub(crate) reply: oneshot::Sender<Reply>,
}

impl Submission {
    /// Commands of one kind are executed together.
    pub(crate) fn kind(&self) -> (&'static str, TypeId) {
        let command: &dyn Any = &*self.command;
        (self.operation, command.type_id())
    }

    pub(crate) fn execution(&self) -> BatchEntry<'_, dyn AnyCommand> {
        let account_id = self.scope.account_id;
        BatchEntry {
            execution: Execution { id: self.execution_id, account_id },
            command: &*self.command,
        }
    }

    /// Does nothing if the caller is gone.
    pub(crate) fn answer(self, reply: Reply) {
        let _ = self.reply.send(reply);
    }

    /// The record of its execution, which is committed.
    pub(crate) fn record(
        &self,
        response: Response,
        first_used_at: DateTime<Utc>,
        replayable_until: Option<DateTime<Utc>>,
    ) -> Record {
        Record {
            execution_id: self.execution_id,
            operation: self.operation.to_owned(),
            fingerprint: self.fingerprint.as_bytes().to_vec(),
            first_used_at,
            state: RecordState::Stored { response, replayable_until },
        }
    }

    /// The reply if its key has this record of another execution.
    pub(crate) fn reply(&self, record: &Record) -> Reply {
        record.outcome_for(&self.fingerprint).map_err(|error| Failure::Internal(error.into()))
    }
}

/// A leader that was taken out of the queue to be executed.
pub(crate) struct Running {
    pub(crate) leader: Submission,
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

impl Running {
    pub(crate) fn new(leader: Submission) -> Self {
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
    pub(crate) fn hand_over(&mut self, next: Submission, reply: Reply) {
        let Submission { execution_id, command, reply: caller, .. } =
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
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{IdempotencyKey, Operation, command::Command, record::Void};

    /// A request to void this key, and its caller.
    pub(crate) fn submission(account: u128, key: &str) -> (Submission, oneshot::Receiver<Reply>) {
        let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
        let (reply, caller) = oneshot::channel();
        let submission = Submission {
            scope: ScopedKey { account_id: Uuid::from_u128(account).into(), key },
            lock_number: 0,
            execution_id: Uuid::now_v7(),
            operation: Operation::VOID.as_str(),
            fingerprint: Void.fingerprint(),
            row: None,
            command: Box::new(Void),
            arrived: Instant::now(),
            deadline: Instant::now() + Duration::from_hours(1),
            reply,
        };
        (submission, caller)
    }

    #[test]
    fn an_earlier_leader_is_kept_only_if_its_own_commit_is_in_doubt() {
        let submission = || submission(0, "k").0;
        let (first, reply) = (submission(), || Err(Failure::OutcomeUnknown));
        let id = first.execution_id;
        let mut running = Running::new(first);
        running.hand_over(submission(), reply());
        assert!(!running.is_in_doubt());

        let in_doubt = running.leader.execution_id;
        running.in_doubt = true;
        for _ in 0..3 {
            running.hand_over(submission(), reply());
            assert!(running.is_in_doubt(), "the key is in doubt, whichever request leads");
        }
        let left: Vec<Uuid> = running.left_in_doubt.iter().map(|left| left.execution_id).collect();
        assert_eq!(left, [in_doubt], "neither {id} nor a later leader");
    }
}
