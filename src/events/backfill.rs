//! Announces what has no event: what was executed before there were events, or with `EVENTS=off`.

use chrono::{DateTime, Utc};
use futures_util::TryStreamExt;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::EventType;
use crate::idempotency::{self, Announced, EventCode};

/// Executions that a transaction announces.
const PAGE: usize = 1000;

/// Takes the lock of backfills for the session, and returns whether it was free.
///
/// # Errors
/// When the database fails.
pub async fn try_lock(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT pg_try_advisory_lock(1885436271, 2)").fetch_one(conn).await
}

/// Announces every payment and refund that has no event, payments first, each in the order of ids, and returns their
/// number. `progress` is called with the number so far.
///
/// One statement finds them all on `reader`. It is exact: a payment is committed together with its announcement, and
/// the sequencer moves an announcement in one transaction. What has expired with `EVENT_TTL` is not announced again:
/// it is older than the oldest run of an account whose positions no longer begin at 1.
///
/// # Errors
/// When the database fails. What was announced stays so, and the next backfill continues.
pub async fn backfill(
    reader: &mut PgConnection,
    writer: &mut PgConnection,
    mut progress: impl FnMut(u64),
) -> Result<u64, idempotency::Error> {
    let began: DateTime<Utc> = sqlx::query_scalar("SELECT now()").fetch_one(&mut *reader).await?;
    let mut missing = sqlx::query_as::<_, (Uuid, Uuid, i16)>(
        "WITH announced AS (
             SELECT unnest(subjects) AS id FROM event_runs
             UNION ALL SELECT unnest(execution_ids) FROM announcements
         ), executed AS (
             SELECT account_id, transaction_id AS id, $1::smallint AS type, created_at FROM payments
             UNION ALL SELECT account_id, refund_id, $2, created_at FROM refunds
         ), expired AS (
             SELECT DISTINCT ON (account_id) account_id, first_position > 1 AS has_lost, at FROM event_runs
             ORDER BY account_id, first_position
         )
         SELECT account_id, id, type FROM executed
         WHERE NOT EXISTS (SELECT FROM announced WHERE announced.id = executed.id)
           AND NOT EXISTS (SELECT FROM expired
                           WHERE expired.account_id = executed.account_id AND has_lost AND created_at < at)
         ORDER BY type, id",
    )
    .bind(EventType::PaymentCreated.code())
    .bind(EventType::RefundCreated.code())
    .fetch(reader)
    .try_chunks(PAGE);
    let mut count: u64 = 0;
    while let Some(page) = missing.try_next().await.map_err(|error| error.1)? {
        announce(writer, &page).await?;
        count += u64::try_from(page.len()).unwrap_or(u64::MAX);
        progress(count);
    }
    sqlx::query(
        "UPDATE event_feed SET complete_since = NULL WHERE announcing AND complete_since <= $1",
    )
    .bind(began)
    .execute(writer)
    .await?;
    Ok(count)
}

/// Announces a page in one transaction.
#[expect(clippy::disallowed_methods, reason = "no request is executed in this transaction")]
async fn announce(
    conn: &mut PgConnection,
    page: &[(Uuid, Uuid, i16)],
) -> Result<(), idempotency::Error> {
    let announced: Vec<Announced> = page
        .iter()
        .map(|(account_id, execution_id, code)| Announced {
            account_id: (*account_id).into(),
            execution_id: *execution_id,
            event: EventCode::new(*code),
        })
        .collect();
    let refund = EventType::RefundCreated.code();
    let refunds = page.iter().filter(|one| one.2 == refund).map(|one| one.1).collect::<Vec<_>>();
    let mut transaction = conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    if !refunds.is_empty() {
        complete_refunds(&mut transaction, &refunds).await?;
    }
    idempotency::announce(&mut transaction, &announced).await?;
    transaction.commit().await?;
    Ok(())
}

/// Gives refunds that lack a place among those of their payment the free places in the order of their ids, and the sum
/// up to there.
async fn complete_refunds(conn: &mut PgConnection, refunds: &[Uuid]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH payment AS (
             SELECT DISTINCT account_id, transaction_id FROM refunds
             WHERE refund_id = ANY($1) AND (ordinal IS NULL OR refunded_after IS NULL)
         ), lacking AS (
             SELECT account_id, transaction_id, refund_id,
                    row_number() OVER (PARTITION BY account_id, transaction_id ORDER BY refund_id) AS number
             FROM refunds JOIN payment USING (account_id, transaction_id) WHERE ordinal IS NULL
         ), free AS (
             SELECT account_id, transaction_id, place,
                    row_number() OVER (PARTITION BY account_id, transaction_id ORDER BY place) AS number
             FROM payment, generate_series(1, 32767) AS place
             WHERE place <= (SELECT count(*) FROM refunds AS r
                             WHERE (r.account_id, r.transaction_id) = (payment.account_id, payment.transaction_id))
               AND NOT EXISTS (SELECT FROM refunds AS r
                               WHERE (r.account_id, r.transaction_id) = (payment.account_id, payment.transaction_id)
                                 AND r.ordinal = place)
         ), placed AS (
             SELECT account_id, refund_id, place,
                    sum(amount) OVER (PARTITION BY account_id, transaction_id ORDER BY place)::bigint AS refunded_after
             FROM (SELECT account_id, transaction_id, refund_id, amount, coalesce(ordinal, place) AS place
                   FROM refunds JOIN payment USING (account_id, transaction_id)
                   LEFT JOIN lacking USING (account_id, transaction_id, refund_id)
                   LEFT JOIN free USING (account_id, transaction_id, number)) AS all_refunds
         )
         UPDATE refunds SET ordinal = place, refunded_after = placed.refunded_after
         FROM placed
         WHERE (refunds.account_id, refunds.refund_id) = (placed.account_id, placed.refund_id)
           AND refunds.ordinal IS NULL",
    )
    .persistent(false)
    .bind(refunds)
    .execute(conn)
    .await
    .map(drop)
}

/// Gives the feed a new id: consumers learn that positions have begun anew.
///
/// # Errors
/// When the database fails.
pub async fn renew(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE event_feed SET feed_id = gen_random_uuid()").execute(conn).await.map(drop)
}
