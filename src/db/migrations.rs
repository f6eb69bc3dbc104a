//! Applies the migrations of this program, and checks that they are applied.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use log::{info, warn};
use sqlx::{
    Connection, PgConnection,
    migrate::{MigrateError, Migration, Migrator},
    postgres::PgConnectOptions,
};
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout};

use super::{STATEMENT_LIMIT, connect, refuse_shared_sessions, silent};
use crate::idempotency::loggable;

/// The migrations of this binary. The database may have newer ones, because an upgrade replaces servers one by one.
static MIGRATIONS: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrations = sqlx::migrate!();
    migrations.set_ignore_missing(true);
    migrations
});

/// Time to retry while another server migrates or a table is in use.
const MIGRATION_PATIENCE: Duration = Duration::from_mins(1);

/// A migration that failed.
#[derive(Debug, Error)]
pub enum MigrationError {
    /// There is no connection, or it was lost.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// A migration failed.
    #[error("{}", describe(.0))]
    Migration(#[from] MigrateError),
    /// The database has another application's migrations.
    #[error(transparent)]
    Unmigrated(#[from] Unmigrated),
}

fn describe(error: &MigrateError) -> String {
    match error {
        MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _) => loggable(error),
        other => other.to_string(),
    }
}

/// Applies pending migrations. Several servers may do so at once.
///
/// # Errors
/// When the database is unreachable, or a migration fails.
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
                warn!("a migration waits for a lock; retrying");
                sleep(Duration::from_millis(200)).await;
            }
            Err(error) => return Err(error.into()),
        }
        // After a failed migration the connection may still hold sqlx's lock.
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
    /// The number of migrations that are not applied.
    #[error("the database lacks {0} migrations: run payonce migrate")]
    Lacking(usize),
    /// The same, where another schema has tables of these names. The schema.
    #[error(
        "the database lacks {0} migrations where this role looks for tables, and the schema {1} has tables of payonce: \
         add it to the role's search_path (ALTER ROLE … SET search_path = {1}) and GRANT USAGE on it, or run payonce \
         migrate to have another set of tables"
    )]
    Elsewhere(usize, String),
    /// The number of a migration that is applied with different content.
    #[error(
        "migration {0} of this database is not payonce's: another application or an unreleased version made it. \
         Use a new database"
    )]
    Foreign(i64),
}

/// Checks that all of this program's migrations are applied.
///
/// # Errors
/// When the database fails.
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

/// Finds a schema with payonce's tables that this role does not search or may not use.
async fn other_schema(conn: &mut PgConnection) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT relnamespace::regnamespace::text FROM pg_class
         WHERE relname = 'idempotency_keys' AND relkind IN ('r', 'p') AND to_regclass('idempotency_keys') IS NULL
         LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

/// Returns this program's migrations that are not applied, in order.
///
/// # Errors
/// When the database fails.
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
