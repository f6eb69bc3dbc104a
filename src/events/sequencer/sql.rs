//! The sequencer's statements.

use std::collections::HashMap;

use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};

use super::{
    Seen,
    runs::{Announcement, Run},
};
use crate::{
    events::{Position, VERSION, render::unreadable},
    ids::AccountId,
};

/// Takes the lock of the sequencer until the transaction ends, and returns whether it was free. The committers' locks
/// have one number; this one has two, the first of which is "payo".
pub(super) async fn try_lock(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_xact_lock(1885436271, 1)").fetch_one(conn).await
}

/// The announcements of one look.
#[derive(Debug)]
pub(super) struct Looked {
    pub(super) announcements: Vec<Announcement>,
    /// The snapshot of the look.
    pub(super) snapshot: Seen,
    /// True if a limit left announcements out.
    pub(super) more: bool,
}

/// Reads the first announcements that `seen` had not seen: at most `limit`, and none after the one that reaches
/// `event_limit`.
pub(super) async fn look(
    conn: &mut PgConnection,
    seen: &Seen,
    limit: i64,
    event_limit: i64,
) -> Result<Looked, sqlx::Error> {
    let rows = sqlx::query(
        "SELECT snapshot, id, xid::text, at, account_ids, execution_ids, types, more,
                extract(epoch FROM clock_timestamp() - at)::float8 AS age
         FROM (SELECT pg_current_snapshot()::text AS snapshot) AS look LEFT JOIN (
             SELECT *, row_number() OVER ids AS number, lead(true, 1, false) OVER ids AS more,
                    sum(cardinality(execution_ids)) OVER ids - cardinality(execution_ids) AS events_before
             FROM (SELECT * FROM announcements
                   WHERE xid >= pg_snapshot_xmax($1::pg_snapshot)
                      OR xid = ANY(ARRAY(SELECT pg_snapshot_xip($1::pg_snapshot)))
                   ORDER BY id LIMIT $2 + 1) AS first
             WINDOW ids AS (ORDER BY id)
         ) AS announced ON number <= $2 AND events_before < $3
         ORDER BY id",
    )
    .bind(&seen.0)
    .bind(limit)
    .bind(event_limit)
    .fetch_all(conn)
    .await?;
    let snapshot = rows.first().map_or(Err(sqlx::Error::RowNotFound), |row| row.try_get(0))?;
    let is_one = |row: &&PgRow| row.try_get::<Option<i64>, _>("id").is_ok_and(|id| id.is_some());
    let found: Vec<&PgRow> = rows.iter().filter(is_one).collect();
    Ok(Looked {
        more: found.last().map_or(Ok(false), |last| last.try_get("more"))?,
        announcements: found.into_iter().map(Announcement::from_row).collect::<Result<_, _>>()?,
        snapshot: Seen(snapshot),
    })
}

/// The number of announced events.
pub(super) async fn waiting(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT coalesce(sum(cardinality(execution_ids)), 0)::bigint FROM announcements",
    )
    .fetch_one(conn)
    .await
}

/// The last position of each of these accounts that has one.
pub(super) async fn last_positions(
    conn: &mut PgConnection,
    accounts: &[AccountId],
) -> Result<HashMap<AccountId, Position>, sqlx::Error> {
    // In the order of the primary key, so that PostgreSQL reads one run of each account.
    let last: Vec<(AccountId, Position)> = sqlx::query_as(
        "SELECT id, last_position
         FROM unnest($1::uuid[]) AS account(id), LATERAL (
             SELECT first_position + cardinality(subjects) - 1 AS last_position FROM event_runs
             WHERE account_id = id ORDER BY account_id DESC, first_position DESC LIMIT 1
         ) AS run",
    )
    .bind(accounts)
    .fetch_all(conn)
    .await?;
    Ok(last.into_iter().collect())
}

/// Inserts runs.
pub(super) async fn insert(conn: &mut PgConnection, runs: &[Run]) -> Result<(), sqlx::Error> {
    let subjects = Slices::of(runs.iter().map(|run| run.subjects.as_slice()))?;
    let types = Slices::of(runs.iter().map(|run| run.types.as_slice()))?;
    let inserted = sqlx::query(
        "INSERT INTO event_runs (account_id, first_position, at, version, subjects, types)
         SELECT account_id, first_position, at, $4, ($5::uuid[])[subjects_from : subjects_to],
                ($6::smallint[])[types_from : types_to]
         FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $7::int[], $8::int[], $9::int[], $10::int[])
              AS run(account_id, first_position, at, subjects_from, subjects_to, types_from, types_to)",
    )
    .bind(runs.iter().map(|run| run.account_id).collect::<Vec<_>>())
    .bind(runs.iter().map(|run| run.first_position).collect::<Vec<_>>())
    .bind(runs.iter().map(|run| run.at).collect::<Vec<_>>())
    .bind(VERSION)
    .bind(subjects.values)
    .bind(types.values)
    .bind(subjects.from)
    .bind(subjects.to)
    .bind(types.from)
    .bind(types.to)
    .execute(conn)
    .await?;
    counted(inserted.rows_affected(), runs.len(), "runs inserted")
}

/// Arrays of different lengths, which PostgreSQL's arrays cannot hold: all values in one array, and the bounds of each.
struct Slices<T> {
    values: Vec<T>,
    from: Vec<i32>,
    to: Vec<i32>,
}

impl<T: Copy> Slices<T> {
    fn of<'a>(arrays: impl Iterator<Item = &'a [T]>) -> Result<Self, sqlx::Error>
    where
        T: 'a,
    {
        let (mut values, mut from, mut to) = (Vec::new(), Vec::new(), Vec::new());
        for array in arrays {
            from.push(i32::try_from(values.len() + 1).map_err(unreadable)?);
            values.extend_from_slice(array);
            to.push(i32::try_from(values.len()).map_err(unreadable)?);
        }
        Ok(Self { values, from, to })
    }
}

/// Deletes announcements.
pub(super) async fn delete(
    conn: &mut PgConnection,
    announcements: &[Announcement],
) -> Result<(), sqlx::Error> {
    let deleted = sqlx::query(
        "DELETE FROM announcements WHERE xid = ANY($1::text[]::xid8[]) AND id = ANY($2)",
    )
    .bind(announcements.iter().map(|one| one.xid.as_str()).collect::<Vec<_>>())
    .bind(announcements.iter().map(|one| one.id).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    counted(deleted.rows_affected(), announcements.len(), "announcements deleted")
}

/// Refuses to go on if a trigger or a rule dropped rows: events would be lost, or sequenced again.
fn counted(rows: u64, expected: usize, what: &str) -> Result<(), sqlx::Error> {
    if usize::try_from(rows) == Ok(expected) {
        Ok(())
    } else {
        Err(unreadable(format!("{rows} {what} instead of {expected}")))
    }
}
