//! The statements of refunds.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::{
    command::{CreateRefund, NewRefund},
    refundable::Refundable,
};
use crate::{
    idempotency::BatchEntry,
    ids::{AccountId, PaymentId, RefundId},
};

/// An account, and the id of a payment of it.
type PaymentOf = (AccountId, PaymentId);

/// Locks these payments' rows for the transaction, and reads them as they are then: under READ COMMITTED, with what
/// the previous holder of the lock has committed.
///
/// Every server locks in the order of ids, so two batches do not deadlock. Only payments of the requests' own accounts
/// are locked: nobody holds up another account's payment by its id. Rows are found one at a time by the primary key. A
/// plan that joins the tables would suit small ones, and be kept.
///
/// There is no LIMIT: after one, PostgreSQL looks for the next row in the partition in which it waited for the last
/// one, and misses rows of other partitions.
pub(super) async fn lock(
    conn: &mut PgConnection,
    batch: &[BatchEntry<'_, CreateRefund>],
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

/// Inserts refunds, and adds them to their payments' sums.
///
/// Sums are added to and not set: the constraint on the row sees the true sum, whatever was read before.
pub(super) async fn insert(
    conn: &mut PgConnection,
    refunds: &[NewRefund],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "WITH refund AS (
             INSERT INTO refunds (refund_id, transaction_id, account_id, amount, refunded_after, ordinal)
             SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[], $6::smallint[])
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
    .bind(refunds.iter().map(|refund| refund.refund_id).collect::<Vec<_>>())
    .bind(refunds.iter().map(|refund| refund.transaction_id).collect::<Vec<_>>())
    .bind(refunds.iter().map(|refund| refund.account_id).collect::<Vec<_>>())
    .bind(refunds.iter().map(|refund| refund.amount.minor_units()).collect::<Vec<_>>())
    .bind(refunds.iter().map(|refund| refund.refunded_after).collect::<Vec<_>>())
    .bind(refunds.iter().map(|refund| refund.ordinal).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// The payment that this execution of the account refunded.
///
/// # Errors
/// When the database fails.
pub async fn payment_of(
    conn: &mut PgConnection,
    account_id: AccountId,
    refund_id: RefundId,
) -> Result<Option<PaymentId>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT transaction_id FROM refunds WHERE account_id = $1 AND refund_id = $2",
    )
    .bind(account_id)
    .bind(refund_id)
    .fetch_optional(conn)
    .await
}
