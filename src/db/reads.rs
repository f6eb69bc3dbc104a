//! Connections to read with.

use std::{sync::Arc, time::Duration};

use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::time::timeout;

use super::{COMMIT_SYNCHRONOUSLY, named, silent, turns::Places};
use crate::{
    http::problem::{Kind, Problem},
    idempotency::{is_of_outdated_statement, loggable},
    ids::AccountId,
};

/// Time for a released connection to answer a ping.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// Lifetime of a connection that has to see the settings of new ones.
const LIFETIME: Duration = Duration::from_secs(2);

/// Prepares a connection for reading, with `limit` as time-out of its statements.
///
/// # Errors
/// When the database fails.
pub async fn prepare_to_read(conn: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    // Pages are read in the order of an index. If PostgreSQL underestimates a user's payments, a bitmap or the whole
    // table looks cheaper, and it would read and sort all of them for one page. JIT and parallel workers would take
    // fifty times longer to start than a page takes to read.
    let settings = format!(
        "SET statement_timeout = {}; SET plan_cache_mode = force_custom_plan; SET enable_seqscan = off; \
         SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off; \
         SET max_parallel_workers_per_gather = 0",
        limit.as_millis()
    );
    conn.execute(AssertSqlSafe(settings)).await.map(drop)
}

/// Reads of one account that may wait for a connection: more than a well-behaved client sends at once, and as many
/// as the server can answer within their time-out.
const WAITING_LIMIT: usize = 256;

/// Connections to read with, and for changes of one statement that need no idempotency key. Accounts take turns.
#[derive(Debug, Clone)]
pub struct Reads {
    pool: PgPool,
    places: Arc<Places>,
    limit: Duration,
}

impl Reads {
    /// Creates a pool of at most `connections`, opened when needed. `limit` is the time-out of a read.
    #[must_use]
    pub fn new(options: &PgConnectOptions, connections: u32, limit: Duration) -> Self {
        let pool = PgPoolOptions::new().max_connections(connections);
        Self::of(pool, options, limit, COMMIT_SYNCHRONOUSLY)
    }

    /// Creates a pool of one connection with a lifetime of seconds, so that it has the settings of new connections. It is
    /// for reads only.
    #[must_use]
    pub fn short_lived(options: &PgConnectOptions, limit: Duration) -> Self {
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(LIFETIME);
        Self::of(pool, options, limit, "")
    }

    /// `session` is run on each new connection.
    fn of(
        pool: PgPoolOptions,
        options: &PgConnectOptions,
        limit: Duration,
        session: &'static str,
    ) -> Self {
        let connections = usize::try_from(pool.get_max_connections()).unwrap_or(usize::MAX);
        let pool = pool
            .acquire_timeout(limit)
            .after_connect(move |conn, _| {
                Box::pin(async move {
                    prepare_to_read(conn, limit).await?;
                    conn.execute(session).await.map(drop)
                })
            })
            // A cancelled read leaves its connection in any state. The pool itself would wait for it without a limit.
            .after_release(|conn, _| {
                Box::pin(async {
                    timeout(RELEASE_LIMIT, conn.ping()).await.map_err(|_| silent())?.map(|()| true)
                })
            })
            .connect_lazy_with(named(options.clone(), "payonce reads"));
        Self { pool, places: Places::new(connections, WAITING_LIMIT), limit }
    }

    /// Runs a read for an account when it is the account's turn.
    ///
    /// # Errors
    /// `too-many-requests` when too many reads of the account wait, and those of [`run`](Self::run).
    pub async fn run_for<T>(
        &self,
        account_id: AccountId,
        read: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Problem> {
        let in_turn = async {
            let _place = self.places.take(account_id).await.map_err(|_| Kind::TooManyRequests)?;
            self.run(read).await
        };
        timeout(self.limit, in_turn).await.unwrap_or_else(|_elapsed| Err(too_late()))
    }

    /// Runs a read on a connection of the pool, and once more if a migration has outdated its prepared statements.
    ///
    /// # Errors
    /// `database-unavailable` when there is no connection or no answer in time; `internal` when the statement is wrong.
    pub async fn run<T>(
        &self,
        read: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Problem> {
        let reading = async {
            let mut conn = self.pool.acquire().await?;
            match read(&mut conn).await {
                Err(error) if is_of_outdated_statement(&error) => {
                    conn.clear_cached_statements().await?;
                    read(&mut conn).await
                }
                ended => ended,
            }
        };
        match timeout(self.limit, reading).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                let unavailable = is_unavailable(&error);
                let kind = if unavailable { Kind::DatabaseUnavailable } else { Kind::Internal };
                Err(Problem::new(kind).caused_by(loggable(&error)))
            }
            Err(_elapsed) => Err(too_late()),
        }
    }

    /// Closes the connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

fn too_late() -> Problem {
    Problem::new(Kind::DatabaseUnavailable).caused_by("no answer in time")
}

/// Tells a database that may work again later from a wrong statement.
pub(crate) fn is_unavailable(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return !matches!(
            error,
            sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::ColumnNotFound(_)
        );
    };
    let class = database.code().and_then(|code| code.get(..2).map(str::to_owned));
    matches!(class.as_deref(), Some("08" | "25" | "53" | "55" | "57"))
}
