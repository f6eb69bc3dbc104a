//! The sweeper's statements: each reads a page of rows. The page size is a literal, because PostgreSQL would plan
//! for a tenth of the table if it were an argument.

use chrono::{DateTime, Utc};
use sqlx::{AssertSqlSafe, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

/// A page of rows that was swept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SweptPage<Position> {
    pub(crate) deleted: u64,
    /// The position at which the next page begins; `None` when this was the last.
    pub(crate) next: Option<Position>,
}

/// Deletes the expired among the `limit` responses after `after` that are older than `before`.
///
/// As a range up to the page's last id, which takes half as long as a look-up of each row.
pub(crate) async fn sweep_responses(
    conn: &mut PgConnection,
    after: Uuid,
    before: Uuid,
    limit: i64,
) -> Result<SweptPage<Uuid>, sqlx::Error> {
    let sql = format!(
        "WITH page AS MATERIALIZED (
             SELECT execution_id FROM idempotency_responses
             WHERE execution_id > $1 AND execution_id < $2
             ORDER BY execution_id LIMIT {limit}
         ), last AS MATERIALIZED (
             SELECT execution_id FROM page ORDER BY execution_id DESC LIMIT 1
         ), deleted AS (
             DELETE FROM idempotency_responses
             WHERE execution_id > $1 AND execution_id <= (SELECT execution_id FROM last)
               AND replayable_until <= now()
             RETURNING 1
         )
         SELECT (SELECT count(*) FROM deleted) AS deleted, (SELECT count(*) FROM page) AS seen,
                (SELECT execution_id FROM last) AS last",
    );
    let row = sqlx::query(AssertSqlSafe(sql)).bind(after).bind(before).fetch_one(conn).await?;
    Ok(SweptPage {
        deleted: count(&row, "deleted")?,
        next: next(&row, limit, row.try_get("last")?)?,
    })
}

/// When the first of the `limit` responses after `after` expires or expired; `None`: never.
pub(crate) async fn first_to_expire(
    conn: &mut PgConnection,
    after: Uuid,
    limit: i64,
) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let sql = format!(
        "SELECT min(replayable_until)
         FROM (SELECT replayable_until FROM idempotency_responses
               WHERE execution_id > $1 ORDER BY execution_id LIMIT {limit}) AS page",
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).bind(after).fetch_one(conn).await
}

/// Deletes those of the `limit` keys after `after` that are older than `kept` (seconds), with their responses, and
/// returns when the oldest of the others was created.
pub(crate) async fn sweep_keys(
    conn: &mut PgConnection,
    after: &(String, Uuid),
    kept: f64,
    limit: i64,
) -> Result<(SweptPage<(String, Uuid)>, Option<DateTime<Utc>>), sqlx::Error> {
    let sql = format!(
        "WITH page AS MATERIALIZED (
             SELECT key, account_id, created_at FROM idempotency_keys
             WHERE (key, account_id) > ($1 COLLATE \"C\", $2)
             ORDER BY key, account_id LIMIT {limit}
         ), old AS (
             DELETE FROM idempotency_keys AS k USING page
             WHERE k.account_id = page.account_id AND k.key = page.key
               AND page.created_at <= now() - make_interval(secs => $3)
               AND k.created_at <= now() - make_interval(secs => $3)
             RETURNING k.account_id, k.execution_id
         ), deleted AS (
             DELETE FROM idempotency_responses AS r USING old
             WHERE r.execution_id = old.execution_id AND r.account_id = old.account_id
         ), last AS (
             SELECT key, account_id FROM page ORDER BY key DESC, account_id DESC LIMIT 1
         )
         SELECT (SELECT count(*) FROM old) AS deleted, (SELECT count(*) FROM page) AS seen,
                (SELECT key FROM last) AS last_key, (SELECT account_id FROM last) AS last_account,
                (SELECT min(created_at) FROM page
                 WHERE created_at > now() - make_interval(secs => $3)) AS oldest_left",
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(&after.0)
        .bind(after.1)
        .bind(kept)
        .fetch_one(conn)
        .await?;
    let key: Option<String> = row.try_get("last_key")?;
    let last = key.zip(row.try_get("last_account")?);
    let page = SweptPage { deleted: count(&row, "deleted")?, next: next(&row, limit, last)? };
    Ok((page, row.try_get("oldest_left")?))
}

fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

/// A page that was not full was the last.
fn next<Position>(
    row: &PgRow,
    limit: i64,
    last: Option<Position>,
) -> Result<Option<Position>, sqlx::Error> {
    let full = row.try_get::<i64, _>("seen")? >= limit;
    Ok(last.filter(|_| full))
}
