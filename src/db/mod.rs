//! PostgreSQL, apart from what commits: connections, migrations, reads and the sweeper's loop.

use std::{io, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use self::connect_error::at;

mod connect_error;
mod migrations;
mod pooler;
mod readiness;
mod reads;
pub mod sweep;
pub mod timestamp;
pub(crate) mod turns;

pub use migrations::{MigrationError, Unmigrated, lacking, migrate, migrated};
pub use pooler::{SharedSessions, refuse_shared_sessions};
pub use readiness::{Needs, NotReady};
pub(crate) use reads::is_unavailable;
pub use reads::{Reads, prepare_to_read};

/// Time to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Time for a statement that no request waits for.
pub const STATEMENT_LIMIT: Duration = Duration::from_secs(30);

/// Time a statement outside the committers waits for a lock. While a migration waits, every request that needs the
/// table waits behind it.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

/// Pins the setting for the session against a later reload: a revoked API key must not be valid again after a crash.
const COMMIT_SYNCHRONOUSLY: &str = "SELECT set_config('synchronous_commit', \
    CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, \
    false)";

/// Connects for work outside requests. Waiting for the server and for locks is bounded. Statements are not, whatever
/// `statement_timeout` the role has, because one may build an index.
///
/// # Errors
/// When the server is unreachable or does not answer.
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

/// The error of a server that does not answer.
#[must_use]
pub fn silent() -> sqlx::Error {
    sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, "PostgreSQL didn't answer in time"))
}
