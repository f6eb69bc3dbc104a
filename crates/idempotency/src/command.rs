//! An application's commands, each executed exactly once.

use std::any::Any;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    AccountId, Error, EventCode, fingerprint::Fingerprint, insert::Insert, operation::Operation,
    response::Response,
};

/// A validated request whose effect must happen exactly once.
///
/// This is the trait to begin with. Where one INSERT can have the effect of many commands, [`BatchCommand`] is
/// several times as fast.
pub trait Command: Send + Sync + Sized + 'static {
    /// The operation's name.
    const OPERATION: Operation;

    /// The type of the event of an execution with success, where [`Settings::announce`](super::Settings::announce)
    /// is set; `None`: it is not announced.
    const EVENT: Option<EventCode> = None;

    /// Identifies the request: the operation and every validated field, path parameters
    /// included, always in the same order.
    fn fingerprint(&self) -> Fingerprint;

    /// Has the effect on `conn`, in the transaction that holds the key and stores the response.
    ///
    /// It is called again, with the same ids, after PostgreSQL rolled an earlier call back. So it has no effect
    /// outside `conn`. It neither begins nor ends a transaction.
    ///
    /// # Errors
    /// An error rolls everything back, stores nothing, and the same request may be sent again. Whatever a client
    /// can provoke, a refusal for one, is a [`Response`] instead, which is stored and replayed. Pass the error of
    /// a statement on: PostgreSQL refuses the rest of its transaction.
    fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<Response, Error>> + Send;
}

/// A command of which a whole batch is executed in a few statements. Every [`Command`] is one, and executes its
/// batch one by one.
///
/// A type implements either of the two, and here either [`insert`](Self::insert) or [`execute`](Self::execute).
pub trait BatchCommand: Send + Sync + Sized + 'static {
    /// As [`Command::OPERATION`].
    const OPERATION: Operation;

    /// As [`Command::EVENT`].
    const EVENT: Option<EventCode> = None;

    /// As [`Command::fingerprint`].
    fn fingerprint(&self) -> Fingerprint;

    /// The one INSERT of a batch, where that is all of its effect. The layer makes it part of the statement that
    /// claims the keys and stores the responses: one round trip, which is its own transaction.
    ///
    /// # Errors
    /// As those of [`execute`](Self::execute).
    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let _ = batch;
        Ok(None)
    }

    /// The id of a row that this command locks and others may lock too. Where another session holds such a row,
    /// all commands that wait for it are quarantined together.
    fn locks(&self) -> Option<Uuid> {
        None
    }

    /// Has the effect of the whole batch, and returns a response for each command, in their order. The commands
    /// belong to several accounts, and none of them was executed before. For the rest see [`Command::execute`].
    ///
    /// PostgreSQL plans each statement once for a connection, without sequential scans and without a look at its
    /// arguments: a plan must suit small tables and large ones.
    ///
    /// # Errors
    /// As those of [`Command::execute`]; an error rolls back the other commands with this one.
    fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<Vec<Response>, Error>> + Send {
        async move {
            let ids = batch.iter().map(|one| one.execution.id).collect();
            let accounts = batch.iter().map(|one| one.execution.account_id).collect();
            match Self::insert(batch)? {
                Some(insert) => Ok(insert.execute(conn, ids, accounts).await?),
                None => {
                    Err(Error::other(format!("{}: neither insert nor execute", Self::OPERATION)))
                }
            }
        }
    }
}

impl<C: Command> BatchCommand for C {
    const OPERATION: Operation = C::OPERATION;
    const EVENT: Option<EventCode> = C::EVENT;

    fn fingerprint(&self) -> Fingerprint {
        Command::fingerprint(self)
    }

    async fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> Result<Vec<Response>, Error> {
        let mut responses = Vec::with_capacity(batch.len());
        for BatchEntry { execution, command } in batch {
            responses.push(command.execute(*execution, &mut *conn).await?);
        }
        Ok(responses)
    }
}

/// One execution of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execution {
    /// A UUIDv7: the id of what the execution creates. Rows that have it as their primary key are inserted at the
    /// right-hand edge of the index.
    pub id: Uuid,
    /// The account of the key.
    pub account_id: AccountId,
}

/// A command in a batch, with its execution.
#[derive(Debug)]
pub struct BatchEntry<'a, C: ?Sized> {
    /// The execution.
    pub execution: Execution,
    /// The command.
    pub command: &'a C,
}

/// A command of any type. The entries of a batch are all of its type.
pub(super) trait AnyCommand: Any + Send + Sync {
    fn event(&self) -> Option<EventCode>;

    fn insert_all(
        &self,
        batch: Vec<BatchEntry<'_, dyn AnyCommand>>,
    ) -> Result<Option<Insert>, sqlx::Error>;

    fn execute_all<'a>(
        &self,
        batch: Vec<BatchEntry<'a, dyn AnyCommand>>,
        conn: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Vec<Response>, sqlx::Error>>;
}

impl<C: BatchCommand> AnyCommand for C {
    fn event(&self) -> Option<EventCode> {
        C::EVENT
    }

    fn insert_all(
        &self,
        batch: Vec<BatchEntry<'_, dyn AnyCommand>>,
    ) -> Result<Option<Insert>, sqlx::Error> {
        Ok(C::insert(&typed(batch))?)
    }

    fn execute_all<'a>(
        &self,
        batch: Vec<BatchEntry<'a, dyn AnyCommand>>,
        conn: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Vec<Response>, sqlx::Error>> {
        let typed = typed(batch);
        Box::pin(async move { Ok(C::execute(&typed, conn).await?) })
    }
}

/// An entry of another type would be missing here, and its missing response fails the batch.
fn typed<C: BatchCommand>(batch: Vec<BatchEntry<'_, dyn AnyCommand>>) -> Vec<BatchEntry<'_, C>> {
    let typed = batch.into_iter().filter_map(|BatchEntry { execution, command }| {
        let command: &dyn Any = command;
        Some(BatchEntry { execution, command: command.downcast_ref()? })
    });
    typed.collect()
}
