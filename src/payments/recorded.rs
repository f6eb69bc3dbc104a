//! Payments as they were recorded, and as they are shown.

use serde::Serialize;
use sqlx::{FromRow, Row, postgres::PgRow};
use uuid::Uuid;

use crate::db::timestamp::Timestamp;

/// A payment, with what was given back of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Payment {
    /// Its id, and that of the execution that took it.
    pub transaction_id: Uuid,
    /// `success`.
    pub status: String,
    /// Whom it is from.
    pub user_id: String,
    /// In minor units of its currency.
    pub amount: i64,
    /// ISO 4217.
    pub currency: String,
    /// The sum of its refunds.
    pub refunded: i64,
    /// Its refunds, the oldest first.
    pub refunds: Vec<Refund>,
    /// When it was taken, by the database's clock.
    pub created_at: Timestamp,
}

/// A refund of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refund {
    /// Its id, and that of the execution that gave it back.
    pub refund_id: Uuid,
    /// In minor units of the payment's currency.
    pub amount: i64,
    /// When it was given back, by the database's clock.
    pub created_at: Timestamp,
}

impl FromRow<'_, PgRow> for Payment {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let refunds: Vec<(Uuid, i64, Timestamp)> = row.try_get("refunds")?;
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
