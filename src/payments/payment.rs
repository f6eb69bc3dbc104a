//! A payment as it is shown.

use serde::Serialize;
use sqlx::{FromRow, Row, postgres::PgRow};

use crate::{
    db::timestamp::Timestamp,
    ids::{PaymentId, RefundId},
};

/// A payment with its refunds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payment {
    /// The id.
    pub transaction_id: PaymentId,
    /// `success`.
    pub status: String,
    /// The user that paid.
    pub user_id: String,
    /// The amount in minor units.
    pub amount: i64,
    /// The currency's code (ISO 4217).
    pub currency: String,
    /// The sum of its refunds.
    pub refunded: i64,
    /// Its refunds, the oldest first.
    pub refunds: Vec<Refund>,
    /// The time of its creation, by the database's clock.
    pub created_at: Timestamp,
}

/// A refund of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refund {
    /// The id.
    pub refund_id: RefundId,
    /// The amount in minor units of the payment's currency.
    pub amount: i64,
    /// The time of its creation, by the database's clock.
    pub created_at: Timestamp,
}

impl FromRow<'_, PgRow> for Payment {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let refunds: Vec<(RefundId, i64, Timestamp)> = row.try_get("refunds")?;
        let refund = |(refund_id, amount, created_at)| Refund { refund_id, amount, created_at };
        Ok(Self {
            transaction_id: row.try_get("transaction_id")?,
            status: row.try_get("status")?,
            user_id: row.try_get("user_id")?,
            amount: row.try_get("amount")?,
            currency: row.try_get("currency")?,
            refunded: row.try_get("refunded")?,
            refunds: refunds.into_iter().map(refund).collect(),
            created_at: row.try_get("created_at")?,
        })
    }
}
