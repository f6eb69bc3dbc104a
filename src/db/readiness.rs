//! Checks that the database accepts a server's writes.

use sqlx::PgConnection;
use thiserror::Error;

use super::{Unmigrated, migrated};
use crate::idempotency;

/// A table, a column where the privilege is on a column, and the privilege.
type Privilege = (&'static str, Option<&'static str>, &'static str);

/// A server without these fails requests; deploy/server-role.sql grants them.
const NEEDED: [Privilege; 13] = [
    ("accounts", None, "SELECT"),
    ("api_keys", None, "SELECT"),
    ("api_key_changes", None, "SELECT"),
    ("idempotency_keys", None, "SELECT"),
    ("idempotency_keys", None, "INSERT"),
    ("idempotency_responses", None, "SELECT"),
    ("idempotency_responses", None, "INSERT"),
    ("payments", None, "SELECT"),
    ("payments", None, "INSERT"),
    ("payments", Some("refunded"), "UPDATE"),
    ("payments", Some("refund_count"), "UPDATE"),
    ("refunds", None, "SELECT"),
    ("refunds", None, "INSERT"),
];

/// Also needed if keys expire, because a request with an expired key deletes it.
const NEEDED_TO_FREE_KEYS: [Privilege; 2] =
    [("idempotency_keys", None, "DELETE"), ("idempotency_responses", None, "DELETE")];

/// Also needed with events, because each transaction is announced and sequenced.
const NEEDED_FOR_EVENTS: [Privilege; 5] = [
    ("announcements", None, "SELECT"),
    ("announcements", None, "INSERT"),
    ("announcements", None, "DELETE"),
    ("event_runs", None, "SELECT"),
    ("event_runs", None, "INSERT"),
];

/// Reasons why requests fail on a database that answers.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NotReady {
    /// PostgreSQL is in recovery.
    #[error("the database is a standby, which takes no writes")]
    Standby,
    /// A setting of the server, the database or the role.
    #[error("the database takes no writes, because default_transaction_read_only is on")]
    ReadOnly,
    /// A crash may lose acknowledged payments and their keys.
    #[error(
        "PostgreSQL runs with {0} = off, so a crash could lose acknowledged payments, and \
         ALLOW_ASYNCHRONOUS_COMMIT is not set"
    )]
    LosesCommits(&'static str),
    /// The schema is older than this program, or another one.
    #[error(transparent)]
    Unmigrated(#[from] Unmigrated),
    /// Dropped, renamed, or in a schema outside `search_path`.
    #[error("the table {0} does not exist for the server's database role")]
    NoTable(String),
    /// A grant is missing.
    #[error("the server's database role lacks {privilege} on {table}")]
    NoPrivilege {
        /// The privilege, as GRANT names it.
        privilege: String,
        /// The table.
        table: String,
    },
}

/// The settings that decide what a server needs of its database.
#[derive(Debug, Clone, Copy)]
pub struct Needs {
    /// Keys expire.
    pub frees_keys: bool,
    /// Executions are announced.
    pub announces: bool,
    /// The operator accepts that a crash may lose acknowledged payments.
    pub allow_asynchronous_commit: bool,
}

impl Needs {
    /// Checks that the connection's database would execute requests.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn check(self, conn: &mut PgConnection) -> Result<Result<(), NotReady>, sqlx::Error> {
        let (standby, read_only): (bool, bool) = sqlx::query_as(
            "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean",
        )
        .fetch_one(&mut *conn)
        .await?;
        if standby {
            return Ok(Err(NotReady::Standby));
        }
        if read_only {
            return Ok(Err(NotReady::ReadOnly));
        }
        if !self.allow_asynchronous_commit
            && let Some(setting) = idempotency::unsafe_setting(conn).await?
        {
            return Ok(Err(NotReady::LosesCommits(setting)));
        }
        if let Err(unmigrated) = migrated(conn).await? {
            return Ok(Err(unmigrated.into()));
        }
        let freeing = if self.frees_keys { &NEEDED_TO_FREE_KEYS[..] } else { &[] };
        let events = if self.announces { &NEEDED_FOR_EVENTS[..] } else { &[] };
        Ok(match lacking_privilege(conn, &[&NEEDED, freeing, events].concat()).await? {
            Some(lacking) => Err(lacking),
            None => Ok(()),
        })
    }
}

/// Returns the first privilege that the connection's role lacks.
async fn lacking_privilege(
    conn: &mut PgConnection,
    needed: &[Privilege],
) -> Result<Option<NotReady>, sqlx::Error> {
    let lacking: Option<(String, Option<String>, String, bool)> = sqlx::query_as(
        "SELECT name, of_column, privilege, relation IS NULL
         FROM (SELECT place, name, of_column, privilege, to_regclass(name) AS relation
               FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY
                    AS needed(name, of_column, privilege, place)) AS needed
         WHERE relation IS NULL
            OR NOT CASE WHEN of_column IS NULL THEN has_table_privilege(relation, privilege)
                        ELSE has_column_privilege(relation, of_column, privilege) END
         ORDER BY place LIMIT 1",
    )
    .bind(needed.iter().map(|(table, _, _)| *table).collect::<Vec<_>>())
    .bind(needed.iter().map(|(_, column, _)| *column).collect::<Vec<_>>())
    .bind(needed.iter().map(|(_, _, privilege)| *privilege).collect::<Vec<_>>())
    .fetch_optional(conn)
    .await?;
    Ok(lacking.map(|(table, column, privilege, missing)| match column {
        _ if missing => NotReady::NoTable(table),
        Some(column) => {
            NotReady::NoPrivilege { privilege: format!("{privilege} ({column})"), table }
        }
        None => NotReady::NoPrivilege { privilege, table },
    }))
}
