//! The statements of refunds.

use std::collections::HashMap;

use sqlx::PgConnection;
use uuid::Uuid;

use super::refund::{GiveBack, Given, Refundable};
use crate::idempotency::BatchEntry;

/// An account, and the id of a payment of it.
type PaymentOf = (Uuid, Uuid);

/// Takes these payments' rows, for the transaction, and reads what they say once they are had: under READ
/// COMMITTED that is what whoever had them before has committed.
///
/// In the order of their ids at every server: so two batches wait for each other in one direction only. Only payments of
/// the account that asks: or whoever knows an id could hold up its owner. One at a time, by the primary key:
/// a plan that joins the tables would do while they are small, and be kept.
///
/// Without LIMIT, each look to its end: where PostgreSQL breaks one off it remembers in which partition it
/// had looked for a row that was waited for, looks for the next one there too, and doesn't find it.
pub(super) async fn lock(
    conn: &mut PgConnection,
    batch: &[BatchEntry<'_, GiveBack>],
) -> Result<HashMap<PaymentOf, Refundable>, sqlx::Error> {
    let payments: Vec<Refundable> = sqlx::query_as(
        "SELECT payment.*
         FROM (SELECT DISTINCT * FROM unnest($1::uuid[], $2::uuid[]) AS asked(account_id, transaction_id)
               ORDER BY transaction_id, account_id) AS wanted
         CROSS JOIN LATERAL (
             SELECT transaction_id, account_id, amount, currency, refunded, refund_count FROM payments
             WHERE account_id = wanted.account_id AND transaction_id = wanted.transaction_id
             FOR NO KEY UPDATE
         ) AS payment",
    )
    .bind(batch.iter().map(|one| one.execution.account_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|one| one.command.transaction_id).collect::<Vec<_>>())
    .fetch_all(conn)
    .await?;
    let keyed =
        payments.into_iter().map(|payment| ((payment.account_id, payment.transaction_id), payment));
    Ok(keyed.collect())
}

/// Inserts refunds, and adds them to what their payments say.
///
/// Adds, and doesn't set: where a row had been read before somebody else changed it, the constraint on it
/// would still see the true sum.
pub(super) async fn insert(conn: &mut PgConnection, given: &[Given]) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH refund AS (
             INSERT INTO refunds (refund_id, transaction_id, account_id, amount)
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[])
             RETURNING account_id, transaction_id, amount
         )
         UPDATE payments AS p
         SET refunded = p.refunded + given.amount, refund_count = p.refund_count + given.count
         FROM (SELECT account_id, transaction_id, sum(amount)::bigint AS amount, count(*)::smallint AS count
               FROM refund GROUP BY account_id, transaction_id) AS given
         WHERE p.account_id = given.account_id AND p.transaction_id = given.transaction_id",
    )
    // Planned anew each time: a plan made for small tables would join them by reading all of them.
    .persistent(false)
    .bind(given.iter().map(|given| given.refund_id).collect::<Vec<_>>())
    .bind(given.iter().map(|given| given.transaction_id).collect::<Vec<_>>())
    .bind(given.iter().map(|given| given.account_id).collect::<Vec<_>>())
    .bind(given.iter().map(|given| given.amount.minor_units()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The payment of which this execution gave something back, if it did, of this account's.
///
/// # Errors
/// When the database fails.
pub async fn given_back_of(
    conn: &mut PgConnection,
    account_id: Uuid,
    execution_id: Uuid,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT transaction_id FROM refunds WHERE account_id = $1 AND refund_id = $2",
    )
    .bind(account_id)
    .bind(execution_id)
    .fetch_optional(conn)
    .await
}
