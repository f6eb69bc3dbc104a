//! The statements of payments.

use sqlx::PgConnection;
use uuid::Uuid;

use super::payment::{Payment, TakePayment};
use crate::idempotency::{Execution, Insert};

/// Inserts payments.
pub(super) fn insert(batch: &[Execution<'_, TakePayment>]) -> Insert {
    Insert::new(
        "INSERT INTO payments (transaction_id, account_id, user_id, amount)
         SELECT execution_id, account_id, user_id, amount
         FROM claimed JOIN unnest($1::uuid[], $2::uuid[], $3::text[], $4::bigint[])
              AS payment(execution_id, account_id, user_id, amount) USING (execution_id)",
    )
    .bind(batch.iter().map(|execution| execution.execution_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.account_id).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.command.user_id.as_str()).collect::<Vec<_>>())
    .bind(batch.iter().map(|execution| execution.command.amount.minor_units()).collect::<Vec<_>>())
}

/// An account's payment of this id.
pub(super) async fn find(
    conn: &mut PgConnection,
    account_id: Uuid,
    transaction_id: Uuid,
) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as(
        "SELECT transaction_id, status, user_id, amount, created_at
         FROM payments WHERE transaction_id = $1 AND account_id = $2",
    )
    .bind(transaction_id)
    .bind(account_id)
    .fetch_optional(conn)
    .await
}
