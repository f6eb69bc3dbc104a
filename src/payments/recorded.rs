//! Payments as they were recorded, and as they are shown.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

/// A payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
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
    /// When it was taken, by the database's clock.
    #[serde(serialize_with = "milliseconds")]
    pub created_at: DateTime<Utc>,
}

/// RFC 3339 in UTC, to the millisecond.
fn milliseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}
