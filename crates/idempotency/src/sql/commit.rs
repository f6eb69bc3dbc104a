//! The statement that is a whole transaction: it claims keys, executes the commands, stores the responses, and commits.

use chrono::{DateTime, Utc};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::{Claim, UNLOCKED, add_claims, add_responses, claim_sql, remember_sql};
use crate::{insert::Insert, response::Response};

/// The result of the statement.
pub(crate) struct Committed {
    /// The responses of the commands whose keys were new, in the batch's order.
    pub(crate) responses: Vec<Option<Response>>,
    pub(crate) first_used_at: DateTime<Utc>,
    /// Until when they can be replayed, where they are of success; `None`: as long as their keys.
    pub(crate) replayable_until: Option<DateTime<Utc>>,
}

/// Claims keys, sorted, runs an INSERT for those that were new, stores their responses, and commits.
///
/// The INSERT is of the commands that `claims` are for, in their order; their operations are the same. Used keys, and those that another
/// server is executing, are passed by: they are looked for in the index, key by key, whatever the table's size.
/// A key that is committed elsewhere meanwhile breaks the unique constraint, and PostgreSQL rolls everything back.
///
/// There is no ON CONFLICT, which adds a record to the write-ahead log for each inserted row.
pub(crate) async fn commit(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
    insert: Insert,
    ttl: Option<f64>,
) -> Result<Committed, sqlx::Error> {
    let Insert { sql: insert, mut columns, responses, .. } = insert;
    let command = [&["execution_id", "account_id"], &*columns.names()].concat().join(", ");
    add_claims(&mut columns, claims);
    add_responses(&mut columns, &responses)?;
    let all = columns.select(&columns.names());
    let mut arguments = columns.into_arguments()?;
    arguments.add(claims.first().map(|claim| claim.operation)).map_err(sqlx::Error::Encode)?;
    let operation = arguments.len();
    arguments.add(ttl).map_err(sqlx::Error::Encode)?;
    let seconds = arguments.len();
    let sql = format!(
        "WITH batch AS MATERIALIZED (
             SELECT * FROM ({all}) AS command
             WHERE {UNLOCKED} AND (SELECT true FROM idempotency_keys AS k
                                   WHERE k.account_id = command.account_id
                                     AND k.key = command._key COLLATE \"C\") IS NULL
         ), keyed AS (
             {claim} FROM batch RETURNING 1 AS part
         ), claimed AS (
             SELECT {command} FROM batch
         ), inserted AS (
             {insert} RETURNING 2 AS part
         ), remembered AS (
             {remember} FROM batch RETURNING 3 AS part
         ), counts AS (
             SELECT coalesce((SELECT array_agg(execution_id) FROM batch), ARRAY[]::uuid[]) AS ids,
                    count(*) FILTER (WHERE part = 1) AS keyed,
                    count(*) FILTER (WHERE part = 2) AS inserted,
                    count(*) FILTER (WHERE part = 3) AS remembered
             FROM (SELECT part FROM keyed UNION ALL SELECT part FROM inserted
                   UNION ALL SELECT part FROM remembered) AS made
         )
         SELECT CASE WHEN keyed = cardinality(ids) AND inserted = cardinality(ids)
                      AND remembered = cardinality(ids)
                THEN ids
                ELSE idempotency_incomplete_batch(cardinality(ids), keyed, inserted, remembered)
                END AS new,
                now() AS first_used_at, now() + make_interval(secs => ${seconds}) AS replayable_until
         FROM counts",
        claim = claim_sql(&format!("${operation}")),
        remember = remember_sql(seconds),
    );
    // fetch_one would not wait for the end, where PostgreSQL reports whether it committed.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(conn).await?;
    let row = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let mut new = row.try_get::<Vec<Uuid>, _>("new")?.into_iter().peekable();
    let responses = claims
        .iter()
        .zip(responses)
        .map(|(claim, response)| new.next_if_eq(&claim.execution_id).map(|_| response));
    Ok(Committed {
        responses: responses.collect(),
        first_used_at: row.try_get("first_used_at")?,
        replayable_until: row.try_get("replayable_until")?,
    })
}
