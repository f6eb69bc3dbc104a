//! The statements of payments.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{payment::TakePayment, recorded::Payment};
use crate::idempotency::Execution;

/// Inserts payments.
pub(super) async fn insert(
    conn: &mut PgConnection,
    batch: &[Execution<'_, TakePayment>],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO payments (transaction_id, account_id, user_id, amount, currency)
         SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[], $5::text[])",
    )
    .bind(batch.iter().map(|execution| execution.execution_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.account_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.command.user_id.as_str()).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.command.amount.minor_units()).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.command.currency.code()).collect::<Vec<_>>())
    .execute(conn)
    .await?;
    Ok(())
}

/// An account's payment of this id, in one statement, so that the sum and its refunds agree. Refunds are
/// looked for only where there are any.
pub(super) async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    transaction_id: Uuid,
) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as(
        "SELECT transaction_id, status, user_id, amount, currency, refunded, created_at,
                ARRAY(SELECT ROW(r.refund_id, r.amount, r.created_at) FROM refunds AS r
                      WHERE p.refunded > 0 AND r.transaction_id = p.transaction_id
                      ORDER BY r.refund_id) AS refunds
         FROM payments AS p WHERE transaction_id = $1 AND account_id = $2",
    )
    .bind(transaction_id)
    .bind(account_id)
    .fetch_optional(conn)
    .await
}
