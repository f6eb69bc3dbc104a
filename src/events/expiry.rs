//! Deletes runs of events that are older than `EVENT_TTL`.
//!
//! Each account loses its oldest runs, and never its newest, or its positions would begin at 1 again.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

/// Runs that a statement deletes at most, and accounts that one looks at.
const PAGE: i64 = 1000;

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired {
    /// The number of deleted events.
    pub events: i64,
    /// The account with which the next step begins; `None` after the last one.
    pub next: Option<Uuid>,
}

/// Deletes a page of the runs older than this that an account from `from` on has, or looks at a page of accounts that
/// have none.
///
/// # Errors
/// When the database fails.
pub async fn expire_once(
    conn: &mut PgConnection,
    ttl: Duration,
    from: Uuid,
) -> Result<Expired, sqlx::Error> {
    let Some((account_id, expired)) = next_account(conn, ttl, from).await? else {
        return Ok(Expired { events: 0, next: None });
    };
    let following = account_id.as_u128().checked_add(1).map(Uuid::from_u128);
    if !expired {
        return Ok(Expired { events: 0, next: following });
    }
    let (runs, events) = delete(conn, account_id, ttl).await?;
    let next = if runs == PAGE { Some(account_id) } else { following };
    Ok(Expired { events, next })
}

/// The next account whose oldest run has expired, or the last one of a page of accounts that have none.
async fn next_account(
    conn: &mut PgConnection,
    ttl: Duration,
    from: Uuid,
) -> Result<Option<(Uuid, bool)>, sqlx::Error> {
    sqlx::query_as(
        "WITH RECURSIVE account AS (
             (SELECT account_id, at, 1 AS number FROM event_runs WHERE account_id >= $1
              ORDER BY account_id, first_position LIMIT 1)
             UNION ALL
             SELECT next.account_id, next.at, number + 1
             FROM account, LATERAL (
                 SELECT run.account_id, run.at FROM event_runs AS run WHERE run.account_id > account.account_id
                 ORDER BY run.account_id, run.first_position LIMIT 1
             ) AS next
             WHERE account.at >= now() - make_interval(secs => $2) AND number < $3
         )
         SELECT account_id, at < now() - make_interval(secs => $2) FROM account ORDER BY number DESC LIMIT 1",
    )
    .bind(from)
    .bind(ttl.as_secs_f64())
    .bind(PAGE)
    .fetch_optional(conn)
    .await
}

/// Deletes the oldest runs of an account up to the first one that is young or its newest.
async fn delete(
    conn: &mut PgConnection,
    account_id: Uuid,
    ttl: Duration,
) -> Result<(i64, i64), sqlx::Error> {
    sqlx::query_as(
        "WITH deleted AS (
             DELETE FROM event_runs AS run
             USING (SELECT first_position,
                           bool_and(at < now() - make_interval(secs => $2)) OVER positions
                               AND lead(first_position) OVER positions IS NOT NULL AS expired
                    FROM (SELECT first_position, at FROM event_runs WHERE account_id = $1
                          ORDER BY account_id, first_position LIMIT $3 + 1) AS oldest
                    WINDOW positions AS (ORDER BY first_position)) AS page
             WHERE run.account_id = $1 AND run.first_position = page.first_position AND page.expired
             RETURNING cardinality(subjects) AS events
         )
         SELECT count(*), coalesce(sum(events), 0)::bigint FROM deleted",
    )
    .bind(account_id)
    .bind(ttl.as_secs_f64())
    .bind(PAGE)
    .fetch_one(conn)
    .await
}
