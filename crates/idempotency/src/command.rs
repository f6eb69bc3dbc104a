//! What an application gives to be executed exactly once.

use std::any::Any;

use futures_util::future::BoxFuture;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{fingerprint::Fingerprint, insert::Insert, response::Response};

/// A validated request whose effect must happen exactly once.
///
/// What it does, it says in one of two ways: as the INSERT that it comes to, which is the quickest,
/// or as an execution with as many statements, and as much thought between them, as it takes.
pub trait Command: Send + Sync + Sized + 'static {
    /// The operation's name, for ever: it is stored with every key and is part of the fingerprint.
    /// `void` is taken.
    const OPERATION: &'static str;

    /// What makes a request the same as this one: its operation and every validated member, path
    /// parameters included, always in the same order.
    fn fingerprint(&self) -> Fingerprint;

    /// What these commands come to, where that is one INSERT.
    ///
    /// # Errors
    /// As those of [`execute`](Self::execute).
    fn insert(batch: &[Execution<'_, Self>]) -> Result<Option<Insert>, sqlx::Error> {
        let _ = batch;
        Ok(None)
    }

    /// A row of others' that this command locks, where it locks one: what refunds of one payment have in
    /// common. Where such a row is found to be held for long, all that want it are put aside together,
    /// instead of being found one by one while everybody else waits.
    fn locks(&self) -> Option<Uuid> {
        None
    }

    /// Does what these commands ask for, in the transaction that also holds their keys and will hold
    /// their responses, and returns a response for each, in their order.
    ///
    /// The whole slice in as few statements as can be: that is where the speed comes from. Commands
    /// of several accounts come together, and none of them was seen before. It may be called again
    /// with the same ids when an earlier call was rolled back, so it has no effect outside `conn`: what
    /// a command notes of its own execution, the next one replaces.
    ///
    /// Statements are planned once for a connection, without a look at their arguments (`plan_cache_mode`), and
    /// without sequential scans: a plan must do for small tables and for large ones.
    ///
    /// Neither BEGIN nor COMMIT nor anything that outlives the transaction: whoever began it ends it.
    ///
    /// # Errors
    /// An `Err` means infrastructure: everything is rolled back and nothing remembered. Whatever a
    /// client can provoke is a [`Response`] instead (a refusal too: it is remembered and replayed),
    /// since an `Err` undoes other clients' work with this one. A statement's error must be passed
    /// on, never swallowed: after it PostgreSQL refuses the rest of the transaction.
    ///
    /// Of a command that says what it [inserts](Self::insert) it runs that: in a batch of several
    /// types of commands, for one.
    fn execute(
        batch: &[Execution<'_, Self>],
        conn: &mut PgConnection,
    ) -> impl Future<Output = Result<Vec<Response>, sqlx::Error>> + Send {
        async move {
            let (ids, accounts) =
                batch.iter().map(|one| (one.execution_id, one.account_id)).unzip();
            match Self::insert(batch)? {
                Some(insert) => insert.execute(conn, ids, accounts).await,
                None => Err(sqlx::Error::Encode(
                    format!("{}: neither an insert nor an execution", Self::OPERATION).into(),
                )),
            }
        }
    }
}

/// One command to execute.
#[derive(Debug)]
pub struct Execution<'a, C: ?Sized> {
    /// Names this execution (UUIDv7, so that rows with it as their primary key are inserted at the
    /// index's right-hand edge), and serves as the id of what it creates.
    pub execution_id: Uuid,
    /// Whose the key is; the nil UUID where there are no accounts.
    pub account_id: Uuid,
    /// What to do.
    pub command: &'a C,
}

/// A command of any type, as the committer holds it. What takes a batch takes commands that are all
/// of this one's type.
pub(super) trait AnyCommand: Any + Send + Sync {
    fn insert_all(
        &self,
        batch: Vec<Execution<'_, dyn AnyCommand>>,
    ) -> Result<Option<Insert>, sqlx::Error>;

    fn execute_all<'a>(
        &self,
        batch: Vec<Execution<'a, dyn AnyCommand>>,
        conn: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Vec<Response>, sqlx::Error>>;
}

impl<C: Command> AnyCommand for C {
    fn insert_all(
        &self,
        batch: Vec<Execution<'_, dyn AnyCommand>>,
    ) -> Result<Option<Insert>, sqlx::Error> {
        C::insert(&typed(batch))
    }

    fn execute_all<'a>(
        &self,
        batch: Vec<Execution<'a, dyn AnyCommand>>,
        conn: &'a mut PgConnection,
    ) -> BoxFuture<'a, Result<Vec<Response>, sqlx::Error>> {
        let typed = typed(batch);
        Box::pin(async move { C::execute(&typed, conn).await })
    }
}

/// One of another type would be missing here, and its missing response fails the batch.
fn typed<C: Command>(batch: Vec<Execution<'_, dyn AnyCommand>>) -> Vec<Execution<'_, C>> {
    let typed = batch.into_iter().filter_map(|Execution { execution_id, account_id, command }| {
        let command: &dyn Any = command;
        Some(Execution { execution_id, account_id, command: command.downcast_ref()? })
    });
    typed.collect()
}
