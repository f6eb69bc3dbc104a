//! The database, apart from what commits: migrations, and a small pool to read with.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, LazyLock},
    time::Duration,
};

use log::{info, warn};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool,
    migrate::{MigrateError, Migration, Migrator},
    postgres::{PgConnectOptions, PgPoolOptions},
};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

pub use pooler::{SharedSessions, refuse_shared_sessions};
pub use readiness::{Needs, NotReady};

use self::connect_error::at;
use crate::{
    db::turns::Places,
    http::problem::{Kind, Problem},
    idempotency::{is_of_outdated_statement, loggable},
};

mod connect_error;
mod pooler;
mod readiness;
pub mod sweep;
pub mod timestamp;
pub(crate) mod turns;

/// The migrations of this binary. A database that has more, since a newer binary has been there, is
/// fine: an upgrade replaces servers one by one.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    migrations.set_ignore_missing(true);
    migrations
});

/// How long connecting may take.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// How long a statement may take that nobody waits for.
pub const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// How long a statement outside the committers waits for a lock; a migration's above all: while it
/// does, whoever needs the table waits behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a connection may take to show that it is at rest.
const RELEASE_LIMIT: Duration = Duration::from_secs(1);

/// How long a connection lives that must see the settings of new ones.
const LIFETIME: Duration = Duration::from_secs(2);

/// How long to try again, when another server is migrating or a table is in use.
const MIGRATION_PATIENCE: Duration = Duration::from_mins(1);

/// For the session, whatever a later reload says: a revoked API key must not be valid again after a crash.
const COMMIT_SYNCHRONOUSLY: &str = "SELECT set_config('synchronous_commit', \
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, \
    false)";

/// Why the database could not be migrated.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// No connection, or one that was lost.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// A migration failed, or one that was applied has been changed since.
    #[error("{}", describe(.0))]
    Migration(#[from] MigrateError),
    /// The database has migrations of something else.
    #[error(transparent)]
    Unmigrated(#[from] Unmigrated),
}

fn describe(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => loggable(error),
        other => other.to_string(),
    }
}

/// A connection for what happens besides requests: it doesn't wait for ever for a server, nor for a lock. A
/// statement may take its time, whatever the role or the database has as `statement_timeout`: an index is built in
/// one.
///
/// # Errors
/// When the server can't be reached, or doesn't answer.
pub async fn connect(options: &PgConnectOptions) -> Result<PgConnection, sqlx::Error> {
    let connecting = async {
        let mut conn = PgConnection::connect_with(&named(options.clone(), "payonce"))
            .await
            .map_err(|error| at(options, error))?;
        let settings = format!(
            "SET statement_timeout = 0; SET lock_timeout = {}; SET plan_cache_mode = force_custom_plan; \
             {COMMIT_SYNCHRONOUSLY}",
            LOCK_TIMEOUT.as_millis()
        );
        conn.execute(AssertSqlSafe(settings)).await?;
        Ok(conn)
    };
    timeout(CONNECT_LIMIT, connecting).await.map_err(|_| at(options, silent()))?
}

/// Sets the name by which PostgreSQL shows a connection, where the options do not name one.
pub(crate) fn named(options: PgConnectOptions, name: &str) -> PgConnectOptions {
    if options.get_application_name().is_some() { options } else { options.application_name(name) }
}

/// A server that doesn't answer.
#[must_use]
pub fn silent() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "PostgreSQL didn't answer in time"))
}

/// Applies the migrations that are pending. Two servers may do so at once.
///
/// # Errors
/// When the database can't be reached, or a migration fails.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), MigrationError> {
    refuse_shared_sessions(options).await?;
    let begun = Instant::now();
    let mut applied = 0;
    loop {
        let mut conn = connect(options).await?;
        let lacking =
            timeout(STATEMENT_LIMIT, lacking(&mut conn)).await.map_err(|_| silent())??;
        let pending = lacking?.len();
        if pending == 0 {
            match applied {
                0 => info!("database schema is up to date"),
                applied => info!("database migrated: {applied} migrations applied"),
            }
            return Ok(conn.close().await?);
        }
        match MIGRATIONS.run(&mut conn).await {
            Ok(()) => applied = pending,
            Err(error) if is_locked(&error) && begun.elapsed() < MIGRATION_PATIENCE => {
                warn!("a migration waits for a lock, trying again");
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
        // A connection to a server that has just waited for a lock may hold sqlx's own.
        conn.close().await?;
    }
}

fn is_locked(error: &MigrateError) -> bool {
    let (MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)) = error else {
        return false;
    };
    error
        .as_database_error()
        .and_then(sqlx::error::DatabaseError::code)
        .is_some_and(|code| matches!(&*code, "55P03" | "40P01"))
}

/// The database's schema is not the one that this program needs.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unmigrated {
    /// So many migrations are not applied.
    #[error("the database lacks {0} migrations: run payonce migrate")]
    Lacking(usize),
    /// So many are not applied in the schemas that this role searches. Another schema has tables of this name.
    #[error(
        "the database lacks {0} migrations where this role looks for tables, and the schema {1} has tables of payonce: \
         add it to the role's search_path (ALTER ROLE … SET search_path = {1}) and GRANT USAGE on it, or run payonce \
         migrate to have another set of tables"
    )]
    Elsewhere(usize, String),
    /// A migration of this number is applied, with other content.
    #[error(
        "migration {0} of this database is not payonce's: another application or an unreleased version made it. \
         Use a new database"
    )]
    Foreign(i64),
}

/// Checks that all of this program's migrations are applied.
///
/// # Errors
/// When the database can't be asked.
pub async fn migrated(conn: &mut PgConnection) -> Result<Result<(), Unmigrated>, sqlx::Error> {
    let lacking = match lacking(conn).await? {
        Ok(lacking) => lacking.len(),
        Err(foreign) => return Ok(Err(foreign)),
    };
    Ok(match lacking {
        0 => Ok(()),
        _ if lacking < MIGRATIONS.iter().len() => Err(Unmigrated::Lacking(lacking)),
        _ => Err(match other_schema(conn).await? {
            Some(schema) => Unmigrated::Elsewhere(lacking, schema),
            None => Unmigrated::Lacking(lacking),
        }),
    })
}

/// A schema with payonce's tables that this role does not search, or may not use.
async fn other_schema(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT relnamespace::regnamespace::text FROM pg_class
         WHERE relname = 'idempotency_keys' AND relkind IN ('r', 'p') AND to_regclass('idempotency_keys') IS NULL
         LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

/// This program's migrations that are not applied, in their order.
///
/// # Errors
/// When the database can't be asked.
pub async fn lacking(
    conn: &mut PgConnection,
) -> Result<Result<Vec<&'static Migration>, Unmigrated>, sqlx::Error> {
    let known: Option<String> = sqlx::query_scalar("SELECT to_regclass('_sqlx_migrations')::text")
        .fetch_one(&mut *conn)
        .await?;
    let applied: HashMap<i64, Vec<u8>> = match known {
        Some(_) => sqlx::query_as("SELECT version, checksum FROM _sqlx_migrations WHERE success")
            .fetch_all(conn)
            .await?
            .into_iter()
            .collect(),
        None => HashMap::new(),
    };
    let mut lacking = Vec::new();
    for migration in MIGRATIONS.iter() {
        match applied.get(&migration.version) {
            None => lacking.push(migration),
            Some(checksum) if **checksum == *migration.checksum => {}
            Some(_) => return Ok(Err(Unmigrated::Foreign(migration.version))),
        }
    }
    Ok(Ok(lacking))
}

/// Makes a connection one to read with. A statement takes no longer than `limit`.
///
/// # Errors
/// When the database fails.
pub async fn prepare_to_read(conn: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    // By an index and in its order, or not at all: where PostgreSQL takes a user for one of few payments,
    // a bitmap or the whole table looks cheap, and all of them would be read and sorted for one page. Or
    // all of an account's, for a user of whom there is next to nothing.
    // Nor is a page worth compiling, or starting workers for: by the cost that it is thought to have, a large
    // table's would be, and wait for them fifty times longer than it reads.
    let settings = format!(
        "SET statement_timeout = {}; SET plan_cache_mode = force_custom_plan; SET enable_seqscan = off; \
         SET enable_bitmapscan = off; SET enable_sort = off; SET jit = off; \
         SET max_parallel_workers_per_gather = 0",
        limit.as_millis()
    );
    conn.execute(AssertSqlSafe(settings)).await.map(drop)
}

/// Reads of one account that may wait for a connection: more than a well-behaved client has at a time, and as
/// many as can be served within their time limit.
const WAITING_LIMIT: usize = 256;

/// Connections to read with. Accounts take turns at them.
#[derive(Debug, Clone)]
pub struct Reads {
    pool: PgPool,
    places: Arc<Places>,
    limit: Duration,
}

impl Reads {
    /// A pool of up to `connections`, opened as they are needed. A read takes no longer than `limit`.
    #[must_use]
    pub fn new(options: &PgConnectOptions, connections: u32, limit: Duration) -> Self {
        Self::of(PgPoolOptions::new().max_connections(connections), options, limit)
    }

    /// One connection, which is made anew every few seconds: it sees what a role, a database or a pooler gives
    /// to new ones.
    #[must_use]
    pub fn short_lived(options: &PgConnectOptions, limit: Duration) -> Self {
        Self::of(PgPoolOptions::new().max_connections(1).max_lifetime(LIFETIME), options, limit)
    }

    fn of(pool: PgPoolOptions, options: &PgConnectOptions, limit: Duration) -> Self {
        let connections = usize::try_from(pool.get_max_connections()).unwrap_or(usize::MAX);
        let pool = pool
            .acquire_timeout(limit)
            .after_connect(move |conn, _| Box::pin(prepare_to_read(conn, limit)))
            // A read that was given up leaves its connection in whatever state, and the pool would wait
            // for it without end.
            .after_release(|conn, _| {
                Box::pin(async {
                    timeout(RELEASE_LIMIT, conn.ping()).await.map_err(|_| silent())?.map(|()| true)
                })
            })
            .connect_lazy_with(named(options.clone(), "payonce reads"));
        Self { pool, places: Places::new(connections, WAITING_LIMIT), limit }
    }

    /// Runs a read of this account's when it is its turn.
    ///
    /// # Errors
    /// `too-many-requests` when as many reads of this account wait as may, and those of [`run`](Self::run).
    pub async fn run_for<T>(
        &self,
        account_id: Uuid,
        read: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, Problem> {
        let in_turn = async {
            let _place = self.places.take(account_id).await.map_err(|_| Kind::TooManyRequests)?;
            self.run(read).await
        };
        timeout(self.limit, in_turn).await.unwrap_or_else(|_elapsed| Err(too_late()))
    }

    /// Runs a read on a connection of the pool; twice, if a migration has outdated what was prepared there.
    ///
    /// # Errors
    /// `database-unavailable` when there is none, or no answer in time; `internal` when the statement
    /// is at fault.
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
            Ok(Err(error)) => Err(Problem::new(kind_of(&error)).caused_by(loggable(&error))),
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

/// Whether it is the database that can't be had, or the statement that is wrong.
fn kind_of(error: &sqlx::Error) -> Kind {
    let sqlx::Error::Database(database) = error else {
        return match error {
            sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnNotFound(_) => Kind::Internal,
            _ => Kind::DatabaseUnavailable,
        };
    };
    match database.code().as_deref().and_then(|code| code.get(..2)) {
        Some("08" | "25" | "53" | "55" | "57") => Kind::DatabaseUnavailable,
        _ => Kind::Internal,
    }
}
