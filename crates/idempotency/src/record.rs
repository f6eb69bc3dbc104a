//! The record of a used key, and voiding a key.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AccountId, Command, Error, Execution, Fingerprint, IdempotencyKey, Operation, Outcome,
    Response, key::ScopedKey, sql,
};

/// The record of a used key.
///
/// That there is no record is no promise: the request may be under way, in a queue or on the network.
/// [`Engine::void`](super::Engine::void) makes it one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The id of the execution, and of what it created.
    pub execution_id: Uuid,
    /// The executed command's [`Operation`].
    pub operation: String,
    /// When the key was used, by the database's clock.
    pub first_used_at: DateTime<Utc>,
    /// The state of the execution and its response.
    pub state: RecordState,
    /// Of the request that used the key.
    pub(crate) fingerprint: Vec<u8>,
}

/// The state of a used key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RecordState {
    /// A command was executed, and its response can be replayed.
    Stored {
        /// The response.
        response: Response,
        /// Until when it can be replayed; `None`: as long as its key.
        replayable_until: Option<DateTime<Utc>>,
    },
    /// A command was executed with success, and its response has been deleted or has expired.
    Expired,
    /// Nothing was executed, and nothing ever will be.
    Voided,
}

impl Record {
    /// Returns the record of a key if it was used; one older than `key_ttl` counts as unused. Ask
    /// the primary: a standby may not know of it yet.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn find(
        conn: &mut PgConnection,
        account_id: AccountId,
        key: IdempotencyKey,
        key_ttl: Option<Duration>,
    ) -> Result<Option<Self>, Error> {
        let scope = ScopedKey { key, account_id };
        let key_ttl = key_ttl.map(|ttl| ttl.as_secs_f64());
        let used = sql::used(conn, &[&scope], key_ttl).await?.pop().transpose()?;
        Ok(used.map(|(_, record)| record))
    }

    /// Returns the outcome of a request with this fingerprint if its key has this record of another execution.
    pub(crate) fn outcome_for(&self, fingerprint: &Fingerprint) -> Result<Outcome, Error> {
        let execution_id = self.execution_id;
        let fields = fingerprint.differing(&self.fingerprint).map_err(|error| {
            Error::other(format!("idempotency_keys.fingerprint of {execution_id}: {error}"))
        })?;
        let voided = self.operation == Operation::VOID.as_str()
            && fingerprint.operation() != Operation::VOID;
        Ok(match &self.state {
            _ if voided => Outcome::Voided,
            _ if !fields.is_empty() => Outcome::Reused { fields },
            RecordState::Stored { response, replayable_until } => Outcome::Replay {
                execution_id,
                response: response.clone(),
                replayable_until: *replayable_until,
            },
            RecordState::Expired => Outcome::Expired { execution_id },
            RecordState::Voided => Outcome::Voided,
        })
    }
}

/// Uses a key up, and does nothing else. A command as any other, so that exactly one of it and the request
/// that it is to prevent happens.
pub(super) struct Void;

impl Command for Void {
    const OPERATION: Operation = Operation::VOID;

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
    }

    async fn execute(&self, _: Execution, _: &mut PgConnection) -> Result<Response, Error> {
        Ok(Response::new(204, ""))
    }
}
