//! The statements that read events.

use std::collections::HashMap;

use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::Position;
use crate::{
    db::timestamp::Timestamp,
    ids::{AccountId, ExecutionId, PaymentId, RefundId},
};

/// A run, with the last position of its account.
#[derive(Debug, FromRow)]
pub(super) struct Run {
    pub(super) first_position: Position,
    pub(super) version: i16,
    pub(super) types: Vec<i16>,
    pub(super) subjects: Vec<ExecutionId>,
    pub(super) at: Timestamp,
    pub(super) last_position: Position,
}

/// The facts of a payment that never change.
#[derive(Debug, FromRow)]
pub(super) struct PaymentFacts {
    pub(super) transaction_id: PaymentId,
    pub(super) user_id: String,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) created_at: Timestamp,
}

/// The facts of a refund, which never change.
#[derive(Debug, FromRow)]
pub(super) struct RefundFacts {
    pub(super) refund_id: RefundId,
    pub(super) transaction_id: PaymentId,
    pub(super) amount: i64,
    pub(super) currency: String,
    pub(super) refunded_after: i64,
    pub(super) created_at: Timestamp,
}

/// The runs from the one that has `from` up to `to`, at most `limit` of them. If `from` was deleted, they begin with the
/// next run; if it is beyond the end, with the newest. So there is none only for an account without events.
///
/// All are read in the order of the primary key, so that PostgreSQL uses it.
pub(super) async fn runs(
    conn: &mut PgConnection,
    account_id: AccountId,
    from: Position,
    to: Position,
    limit: i64,
) -> Result<Vec<Run>, sqlx::Error> {
    sqlx::query_as(
        "SELECT first_position, version, types, subjects, at,
                (SELECT first_position + cardinality(subjects) - 1 FROM event_runs WHERE account_id = $1
                 ORDER BY account_id DESC, first_position DESC LIMIT 1) AS last_position
         FROM event_runs,
              (SELECT coalesce(
                   (SELECT first_position
                    FROM (SELECT first_position, cardinality(subjects) AS events FROM event_runs
                          WHERE account_id = $1 AND first_position <= $2
                          ORDER BY account_id DESC, first_position DESC LIMIT 1) AS run
                    WHERE first_position + events > $2),
                   (SELECT first_position FROM event_runs WHERE account_id = $1 AND first_position > $2
                    ORDER BY account_id, first_position LIMIT 1),
                   (SELECT first_position FROM event_runs WHERE account_id = $1
                    ORDER BY account_id DESC, first_position DESC LIMIT 1)
               ) AS position) AS start
         WHERE account_id = $1 AND first_position >= start.position
           AND first_position <= greatest(start.position, $3)
         ORDER BY account_id, first_position LIMIT $4",
    )
    .bind(account_id)
    .bind(from)
    .bind(to)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// The position of the newest event of each of these accounts that has one.
pub(super) async fn last_positions(
    conn: &mut PgConnection,
    accounts: &[AccountId],
) -> Result<Vec<(AccountId, Position)>, sqlx::Error> {
    sqlx::query_as(
        "SELECT waiting.account_id, newest.position
         FROM unnest($1::uuid[]) AS waiting(account_id)
         CROSS JOIN LATERAL (
             SELECT first_position + cardinality(subjects) - 1 AS position FROM event_runs
             WHERE account_id = waiting.account_id
             ORDER BY account_id DESC, first_position DESC LIMIT 1
         ) AS newest",
    )
    .bind(accounts)
    .fetch_all(conn)
    .await
}

/// The facts of these payments of an account.
pub(super) async fn payments(
    conn: &mut PgConnection,
    account_id: AccountId,
    ids: &[ExecutionId],
) -> Result<HashMap<ExecutionId, PaymentFacts>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<PaymentFacts> = sqlx::query_as(
        "SELECT transaction_id, user_id, amount, currency, created_at FROM payments
         WHERE account_id = $1 AND transaction_id = ANY($2)",
    )
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().map(|one| (Uuid::from(one.transaction_id).into(), one)).collect())
}

/// The facts of these refunds of an account.
pub(super) async fn refunds(
    conn: &mut PgConnection,
    account_id: AccountId,
    ids: &[ExecutionId],
) -> Result<HashMap<ExecutionId, RefundFacts>, sqlx::Error> {
    if ids.is_empty() {
        return Ok(HashMap::new());
    }
    let found: Vec<RefundFacts> = sqlx::query_as(
        "SELECT r.refund_id, r.transaction_id, r.amount, p.currency, r.refunded_after, r.created_at
         FROM refunds AS r
         JOIN payments AS p ON p.account_id = r.account_id AND p.transaction_id = r.transaction_id
         WHERE r.account_id = $1 AND p.account_id = $1 AND r.refund_id = ANY($2)",
    )
    .bind(account_id)
    .bind(ids)
    .fetch_all(conn)
    .await?;
    Ok(found.into_iter().map(|one| (Uuid::from(one.refund_id).into(), one)).collect())
}
