//! Locks of other sessions on whole tables, which prevent every execution.

use std::fmt;

use chrono::{DateTime, Utc};
use sqlx::{FromRow, PgConnection};

/// A table that another session has locked against writes, or waits to lock.
#[derive(Debug, FromRow)]
pub(crate) struct TableLock {
    table: String,
    mode: String,
    /// The session to blame; `None` for a prepared transaction.
    pid: Option<i32>,
    application_name: Option<String>,
    user: Option<String>,
    /// `None`, like the time, if this role may not see it.
    state: Option<String>,
    since: Option<DateTime<Utc>>,
}

/// Finds such a table among those that this role may write to. A session that waits for such a lock keeps out all
/// later ones: then the session that it waits for is to blame.
///
/// The runbook has the same statement.
pub(crate) async fn locked_table(
    conn: &mut PgConnection,
) -> Result<Option<TableLock>, sqlx::Error> {
    sqlx::query_as(
        "SELECT l.relation::regclass::text AS \"table\", l.mode, holder.pid, a.application_name,
                a.usename::text AS \"user\", a.state, a.xact_start AS since
         FROM pg_locks AS l
         JOIN pg_class AS c ON c.oid = l.relation AND c.relkind IN ('r', 'p')
         CROSS JOIN LATERAL unnest(CASE WHEN l.granted THEN ARRAY[l.pid]
                                        ELSE pg_blocking_pids(l.pid) END) AS holder(pid)
         LEFT JOIN pg_stat_activity AS a ON a.pid = holder.pid
         WHERE l.locktype = 'relation'
           AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
           AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
           AND l.pid IS DISTINCT FROM pg_backend_pid() AND holder.pid IS DISTINCT FROM pg_backend_pid()
           AND has_table_privilege(coalesce(pg_partition_root(c.oid), c.oid), 'INSERT, UPDATE')
         ORDER BY l.granted DESC, c.relispartition, a.xact_start LIMIT 1",
    )
    .fetch_optional(conn)
    .await
}

impl fmt::Display for TableLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, mode, .. } = self;
        let Some(pid) = self.pid else {
            return write!(f, "table {table} is locked by a prepared transaction ({mode})");
        };
        write!(f, "table {table} is locked by session {pid} ({mode}")?;
        for (name, value) in [
            ("application_name", &self.application_name),
            ("user", &self.user),
            ("state", &self.state),
        ] {
            if let Some(value) = value.as_deref().filter(|value| !value.is_empty()) {
                write!(f, ", {name} {value}")?;
            }
        }
        if let Some(since) = self.since {
            write!(f, ", since {since:?}")?;
        }
        f.write_str(")")
    }
}
