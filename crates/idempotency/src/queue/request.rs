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
pub(crate) struct Request {
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

impl Request {
    /// Commands of one kind are executed together.
    pub(crate) fn kind(&self) -> (&'static str, TypeId) {
        let command: &dyn Any = &*self.command;
        (self.operation, command.type_id())
    }

    /// Its execution, if it is the one that executes its command.
    pub(crate) fn execution(&self) -> Execution {
        Execution { id: self.execution_id, account_id: self.scope.account_id }
    }

    pub(crate) fn entry(&self) -> BatchEntry<'_, dyn AnyCommand> {
        BatchEntry { execution: self.execution(), command: &*self.command }
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

#[cfg(test)]
pub(super) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{IdempotencyKey, Operation, command::Command, record::Void};

    /// A request to void this key, and its caller.
    pub(crate) fn request(account: u128, key: &str) -> (Request, oneshot::Receiver<Reply>) {
        let key = IdempotencyKey::parse(key.as_bytes()).unwrap();
        let (reply, caller) = oneshot::channel();
        let request = Request {
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
        (request, caller)
    }
}
