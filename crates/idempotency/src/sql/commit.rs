//! The statement that is a whole transaction: it claims keys, executes the commands, stores the responses, and commits.

use chrono::{DateTime, Utc};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Row, postgres::PgArguments};
use uuid::Uuid;

use super::{Claim, SUCCESS, UNLOCKED, add_claims, add_responses, claim_sql, store_sql};
use crate::{EventCode, announcement::one_if_equal, insert::Insert, response::Response};

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
/// With an `event`, executions with success are announced in the same statement.
///
/// There is no ON CONFLICT, which adds a record to the write-ahead log for each inserted row.
pub(crate) async fn commit(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
    insert: Insert,
    event: Option<EventCode>,
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
    let (announced, unannounced) = add_announcement(&mut arguments, event, claims)?;
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
         ), stored AS (
             {store} FROM batch RETURNING 3 AS part
         ){announced}, counts AS (
             SELECT coalesce((SELECT array_agg(execution_id) FROM batch), ARRAY[]::uuid[]) AS ids,
                    count(*) FILTER (WHERE part = 1) AS keyed,
                    count(*) FILTER (WHERE part = 2) AS inserted,
                    count(*) FILTER (WHERE part = 3) AS stored
             FROM (SELECT part FROM keyed UNION ALL SELECT part FROM inserted
                   UNION ALL SELECT part FROM stored) AS made
         )
         SELECT CASE WHEN keyed <> cardinality(ids) OR inserted <> cardinality(ids) OR stored <> cardinality(ids)
                THEN idempotency_incomplete_batch(cardinality(ids), keyed, inserted, stored)
                {unannounced}
                ELSE ids
                END AS new,
                now() AS first_used_at, now() + make_interval(secs => ${seconds}) AS replayable_until
         FROM counts",
        claim = claim_sql(&format!("${operation}")),
        store = store_sql(seconds),
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

/// The two parts of the statement that announce the commands that are new and of success: an INSERT, and a check that
/// no trigger dropped its row. Without an event both are empty.
fn add_announcement(
    arguments: &mut PgArguments,
    event: Option<EventCode>,
    claims: &[Claim<'_>],
) -> Result<(String, String), sqlx::Error> {
    let Some(event) = event else { return Ok(Default::default()) };
    let accounts = one_if_equal(claims.iter().map(|claim| claim.scope.account_id).collect());
    let account = (accounts.len() == 1).then_some(accounts);
    arguments.add(account).map_err(sqlx::Error::Encode)?;
    let account = arguments.len();
    arguments.add(event.get()).map_err(sqlx::Error::Encode)?;
    let event = arguments.len();
    let insert = format!(
        ", announced AS (
             INSERT INTO announcements (account_ids, execution_ids, types)
             SELECT coalesce(${account}, array_agg(account_id)), array_agg(execution_id), ARRAY[${event}]
             FROM batch WHERE {SUCCESS} HAVING count(*) > 0 RETURNING 1
         )"
    );
    let check = format!(
        "WHEN EXISTS (SELECT FROM batch WHERE {SUCCESS}) <> EXISTS (SELECT FROM announced)
                THEN idempotency_unannounced_batch()"
    );
    Ok((insert, check))
}
