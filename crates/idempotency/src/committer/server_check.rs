//! Checks that a PostgreSQL server can keep the promises of the layer.

use std::time::Duration;

use sqlx::{Decode, Executor, PgConnection, Postgres, Row, Type, postgres::PgRow};
use thiserror::Error;

use crate::{Settings, error::loggable};

/// A server that the layer can't keep its promises on, or can't be reached at all.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum UnfitServer {
    /// No connection.
    #[error("can't connect to PostgreSQL: {}", loggable(.0))]
    Unreachable(#[source] sqlx::Error),
    /// No connection, and no error either.
    #[error("PostgreSQL didn't answer within {0:?}")]
    Silent(Duration),
    /// A standby, or a database or role that is set to be read-only: for now.
    #[error(
        "the database takes no writes: it is a standby, or default_transaction_read_only is on"
    )]
    ReadOnly,
    /// Keys and bodies are stored as they came.
    #[error("the database's encoding is {0}; it must be UTF8")]
    Encoding(String),
    /// A crash of PostgreSQL could lose what was acknowledged, and a retry would execute it again.
    #[error(
        "PostgreSQL runs with {0} = off: a crash could lose acknowledged responses and their keys"
    )]
    LosesCommits(&'static str),
    /// A COMMIT of this process waits for a standby; what came after it would wait behind it, on one
    /// connection after the other.
    #[error("a COMMIT waits for a synchronous standby")]
    AwaitsStandby,
    /// PostgreSQL's shared lock table has no room for the locks of full batches.
    #[error(
        "{wanted} keys could be locked at once, and PostgreSQL's lock table has room for {locks}, half of which \
         is for others: lower max_batch or committers, or raise max_locks_per_transaction"
    )]
    LockTable {
        /// max_batch × committers.
        wanted: usize,
        /// max_locks_per_transaction × (max_connections + max_prepared_transactions).
        locks: usize,
    },
}

/// The settings of PostgreSQL that lose acknowledged transactions in a crash when they are off.
const DURABILITY: [&str; 3] = ["synchronous_commit", "fsync", "full_page_writes"];

/// No reload lowers a value that is set for the session: the one that is checked holds for every COMMIT on it.
const PIN_SYNCHRONOUS_COMMIT: &str =
    "SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false)";

/// The first setting that is off for this session and makes a crash lose what PostgreSQL has acknowledged.
///
/// # Errors
/// When the database can't be asked.
pub async fn unsafe_setting(conn: &mut PgConnection) -> Result<Option<&'static str>, sqlx::Error> {
    let settings: Vec<String> = sqlx::query_scalar(
        "SELECT current_setting(name) FROM unnest($1::text[]) WITH ORDINALITY AS s(name, place) ORDER BY place",
    )
    .bind(DURABILITY)
    .fetch_all(conn)
    .await?;
    Ok(DURABILITY
        .into_iter()
        .zip(settings)
        .find_map(|(name, value)| (value == "off").then_some(name)))
}

/// The requirements on a server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Requirements {
    max_locks: usize,
    allow_asynchronous_commit: bool,
}

/// A server that meets them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Server {
    /// The process that serves this connection.
    pub(crate) backend: i32,
    /// True if it waits for a standby before it acknowledges a COMMIT.
    pub(crate) synchronous_standby: bool,
}

impl Requirements {
    pub(crate) fn of(settings: &Settings) -> Self {
        Self {
            max_locks: settings.max_batch.saturating_mul(settings.committers),
            allow_asynchronous_commit: settings.allow_asynchronous_commit,
        }
    }

    /// Checks the server of this connection.
    pub(crate) async fn check(&self, conn: &mut PgConnection) -> Result<Server, UnfitServer> {
        let row = conn
            .fetch_one(
                "SELECT pg_backend_pid() AS backend,
                        current_setting('transaction_read_only')::boolean AS read_only,
                        current_setting('server_encoding') AS encoding,
                        current_setting('synchronous_standby_names') <> '' AS synchronous_standby,
                        current_setting('max_locks_per_transaction')::bigint
                      * (current_setting('max_connections')::bigint
                       + current_setting('max_prepared_transactions')::bigint) AS locks",
            )
            .await
            .map_err(UnfitServer::Unreachable)?;
        if column(&row, "read_only")? {
            return Err(UnfitServer::ReadOnly);
        }
        let encoding: String = column(&row, "encoding")?;
        if encoding != "UTF8" {
            return Err(UnfitServer::Encoding(encoding));
        }
        if !self.allow_asynchronous_commit {
            conn.execute(PIN_SYNCHRONOUS_COMMIT).await.map_err(UnfitServer::Unreachable)?;
            let setting = unsafe_setting(conn).await.map_err(UnfitServer::Unreachable)?;
            setting.map_or(Ok(()), |setting| Err(UnfitServer::LosesCommits(setting)))?;
        }
        let locks = usize::try_from(column::<i64>(&row, "locks")?).unwrap_or(0);
        // Other servers need locks, too.
        if self.max_locks > locks / 2 {
            return Err(UnfitServer::LockTable { wanted: self.max_locks, locks });
        }
        Ok(Server {
            backend: column(&row, "backend")?,
            synchronous_standby: column(&row, "synchronous_standby")?,
        })
    }
}

fn column<'r, T: Decode<'r, Postgres> + Type<Postgres>>(
    row: &'r PgRow,
    name: &str,
) -> Result<T, UnfitServer> {
    row.try_get(name).map_err(UnfitServer::Unreachable)
}
