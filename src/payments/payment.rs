//! Taking a payment, as a command to be executed exactly once.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};
use uuid::Uuid;

use super::{money::Amount, store};
use crate::idempotency::{Command, Execution, Fingerprint, Insert, Response};

/// Whom a payment is from: 1 to 255 characters, not blank, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Long enough for any id or e-mail address; short enough for an index entry.
    pub const MAX_CHARACTERS: usize = 255;

    /// The id in this text, as it stands; `None` where it isn't one.
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        let valid = !text.trim().is_empty()
            && text.chars().count() <= Self::MAX_CHARACTERS
            && !text.contains(char::is_control);
        valid.then_some(Self(text))
    }

    /// As it came.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The request to take a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TakePayment {
    /// Whom it is from.
    pub user_id: UserId,
    /// How much.
    pub amount: Amount,
}

/// The answer to a payment that was taken.
#[derive(Serialize)]
struct Taken<'a> {
    status: &'static str,
    transaction_id: Uuid,
    user_id: &'a UserId,
    amount: Amount,
}

impl Command for TakePayment {
    const OPERATION: &'static str = "pay";

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
            .member("user_id", self.user_id.as_str().as_bytes())
            .member("amount", &self.amount.minor_units().to_be_bytes())
    }

    fn insert(batch: &[Execution<'_, Self>]) -> Result<Option<Insert>, sqlx::Error> {
        let responses = batch.iter().map(response).collect::<Result<_, _>>()?;
        Ok(Some(store::insert(batch).respond(responses)))
    }
}

fn response(execution: &Execution<'_, TakePayment>) -> Result<Response, sqlx::Error> {
    let TakePayment { user_id, amount } = execution.command;
    let transaction_id = execution.execution_id;
    let body =
        serde_json::to_vec(&Taken { status: "success", transaction_id, user_id, amount: *amount })
            .map_err(|error| sqlx::Error::Encode(error.into()))?;
    Ok(Response::new(201, body).with_header("location", location(transaction_id)))
}

/// Where a payment can be read.
#[must_use]
pub fn location(transaction_id: Uuid) -> String {
    format!("/payment/{transaction_id}")
}

/// A payment as it was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, sqlx::FromRow)]
pub struct Payment {
    /// Its id, and that of the execution that took it.
    pub transaction_id: Uuid,
    /// `success`.
    pub status: String,
    /// Whom it is from.
    pub user_id: String,
    /// In minor units.
    pub amount: i64,
    /// When it was taken, by the database's clock.
    #[serde(serialize_with = "milliseconds")]
    pub created_at: DateTime<Utc>,
}

/// RFC 3339 in UTC, to the millisecond.
fn milliseconds<S: Serializer>(time: &DateTime<Utc>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&time.to_rfc3339_opts(SecondsFormat::Millis, true))
}

#[cfg(test)]
mod tests {
    use super::UserId;

    #[test]
    fn a_user_id_has_something_to_read_in_it() {
        for valid in ["u", "user_1", " padded ", "é", &"é".repeat(255), "a\u{a0}b"] {
            assert!(UserId::parse(valid.to_owned()).is_some(), "{valid:?}");
        }
        for invalid in ["", " ", "\u{a0}", "a\0", "a\nb", "\u{7f}", "\u{85}", &"é".repeat(256)] {
            assert!(UserId::parse(invalid.to_owned()).is_none(), "{invalid:?}");
        }
    }
}
