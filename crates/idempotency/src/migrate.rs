//! The layer's tables.

use sqlx::{PgConnection, migrate::Migrator};

use super::Error;

static MIGRATIONS: Migrator = sqlx::migrate!();

/// The applied migrations; an application's own migrations have another table.
const APPLIED: &str = "_idempotency_migrations";

/// Creates the layer's tables, or brings them up to date. Several programs may do so at once.
///
/// An application that keeps all its migrations in one folder copies those of this crate there, and does not call
/// this.
///
/// # Errors
/// When the database fails, or has the tables from another source.
pub async fn migrate(conn: &mut PgConnection) -> Result<(), Error> {
    let mut migrations = Migrator::with_migrations(MIGRATIONS.migrations.to_vec());
    migrations.dangerous_set_table_name(APPLIED);
    migrations.run(conn).await.map_err(Error::other)
}
