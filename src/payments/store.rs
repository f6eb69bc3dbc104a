//! The statements of payments.

use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use super::{
    command::CreatePayment,
    list::{Listing, Page},
    payment::Payment,
    user_id::UserId,
};
use crate::{
    idempotency::{BatchEntry, Insert},
    ids::{AccountId, ExecutionId, PaymentId},
};

/// The refunds that a page of payments shows, but for those of its last payment: what a page costs, to read and
/// to send, is bounded by them more than by its payments.
const REFUNDS_OF_A_PAGE: i64 = 1000;

/// Reads payments `p` in one statement, so that the sum and the refunds agree. Refunds are looked for only where
/// there are any.
macro_rules! select_payments {
    ($($from:expr),+) => {
        concat!(
            "SELECT transaction_id, status, user_id, amount, currency, refunded, created_at,
                    ARRAY(SELECT ROW(r.refund_id, r.amount, r.created_at) FROM refunds AS r
                          WHERE p.refunded > 0 AND r.account_id = p.account_id AND r.transaction_id = p.transaction_id
                          ORDER BY r.refund_id) AS refunds",
            $($from),+
        )
    };
}

/// Reads a page of the payments that are selected, at most `$3` of them, in their order, which is that of their ids,
/// and whether more follow. A page ends early, after the payment that reaches `$4` refunds.
macro_rules! select_page {
    ($which:literal) => {
        select_payments!(
            ", more
             FROM (
                 SELECT *, row_number() OVER newest AS number, lead(true, 1, false) OVER newest AS more,
                        sum(refund_count) OVER newest - refund_count AS refunds_before
                 FROM (SELECT * FROM payments ",
            $which,
            " LIMIT $3 + 1) AS found
                 WINDOW newest AS (ORDER BY transaction_id DESC)
             ) AS p
             WHERE number <= $3 AND refunds_before < $4
             ORDER BY transaction_id DESC"
        )
    };
}

/// Inserts payments.
pub(super) fn insert(batch: &[BatchEntry<'_, CreatePayment>]) -> Insert {
    Insert::new(
        "INSERT INTO payments (transaction_id, account_id, user_id, amount, currency)
         SELECT execution_id, account_id, user_id, amount, currency FROM claimed",
    )
    .column("user_id", batch.iter().map(|one| one.command.user_id.as_str()).collect::<Vec<_>>())
    .column("amount", batch.iter().map(|one| one.command.amount.minor_units()).collect::<Vec<_>>())
    .column("currency", batch.iter().map(|one| one.command.currency.code()).collect::<Vec<_>>())
}

/// The payment that this execution of the account created.
///
/// # Errors
/// When the database fails.
pub async fn created_by(
    conn: &mut PgConnection,
    account_id: AccountId,
    execution_id: ExecutionId,
) -> Result<Option<PaymentId>, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT transaction_id FROM payments WHERE account_id = $1 AND transaction_id = $2",
    )
    .bind(account_id)
    .bind(execution_id)
    .fetch_optional(conn)
    .await
}

/// An account's payment of this id.
///
/// # Errors
/// When the database fails.
pub async fn find(
    conn: &mut PgConnection,
    account_id: AccountId,
    transaction_id: PaymentId,
) -> Result<Option<Payment>, sqlx::Error> {
    sqlx::query_as(select_payments!(
        " FROM payments AS p WHERE account_id = $1 AND transaction_id = $2"
    ))
    .bind(account_id)
    .bind(transaction_id)
    .fetch_optional(conn)
    .await
}

/// A page of payments.
///
/// # Errors
/// When the database fails.
pub async fn list(
    conn: &mut PgConnection,
    account_id: AccountId,
    listing: &Listing,
) -> Result<Page, sqlx::Error> {
    let before = listing.cursor.map_or(Uuid::max().into(), |cursor| cursor.0);
    let limit = i64::from(listing.limit);
    let rows = match &listing.user_id {
        None => list_all(conn, account_id, before, limit).await?,
        Some(user_id) => list_of_user(conn, account_id, user_id, before, limit).await?,
    };
    let more = rows.last().map_or(Ok(false), |last| last.try_get("more"))?;
    let payments = rows.iter().map(Payment::from_row).collect::<Result<_, _>>()?;
    Ok(Page::new(payments, more))
}

/// Ordered like the primary key, so that PostgreSQL uses no other index. [`list_of_user`] is ordered like its own index
/// for the same reason: docs/design/lists.md.
async fn list_all(
    conn: &mut PgConnection,
    account_id: AccountId,
    before: PaymentId,
    limit: i64,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(select_page!(
        "WHERE (account_id, transaction_id) < ($1, $2) AND account_id >= $1
         ORDER BY account_id DESC, transaction_id DESC"
    ))
    .bind(account_id)
    .bind(before)
    .bind(limit)
    .bind(REFUNDS_OF_A_PAGE)
    .fetch_all(conn)
    .await
}

/// Compares the indexed hash of account and user, and also both themselves, because hashes collide.
async fn list_of_user(
    conn: &mut PgConnection,
    account_id: AccountId,
    user_id: &UserId,
    before: PaymentId,
    limit: i64,
) -> Result<Vec<PgRow>, sqlx::Error> {
    sqlx::query(select_page!(
        "WHERE (uuid_hash_extended(account_id, hashtextextended(user_id, 0)), transaction_id)
               < (uuid_hash_extended($1, hashtextextended($5, 0)), $2)
           AND uuid_hash_extended(account_id, hashtextextended(user_id, 0))
               >= uuid_hash_extended($1, hashtextextended($5, 0))
           AND account_id = $1 AND user_id = $5
         ORDER BY uuid_hash_extended(account_id, hashtextextended(user_id, 0)) DESC,
                  transaction_id DESC"
    ))
    .bind(account_id)
    .bind(before)
    .bind(limit)
    .bind(REFUNDS_OF_A_PAGE)
    .bind(user_id.as_str())
    .fetch_all(conn)
    .await
}
