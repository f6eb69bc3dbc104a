//! Taking a payment, as a command to be executed exactly once.

use serde::Serialize;
use uuid::Uuid;

use super::{currency::Currency, money::Amount, store};
use crate::{
    idempotency::{BatchCommand, BatchEntry, Error, Fingerprint, Insert, Operation, Response},
    text::is_blank,
};

/// The user that a payment is from: 1 to 255 characters, at least one of them visible, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Long enough for any id or e-mail address; short enough for an index entry.
    pub const MAX_CHARACTERS: usize = 255;

    /// What to say where one was expected.
    pub const EXPECTED: &str =
        "1 to 255 characters, at least one of them visible, without control characters";

    /// The id in this text, as it stands; `None` where it isn't one.
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        let valid = !is_blank(&text)
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
    /// In what currency, where the request says so. That is what makes it the same request as another: not
    /// what the default was when it came.
    pub named_currency: Option<Currency>,
    /// In what currency it is taken: the one that was named, or the default of when the request was read.
    pub currency: Currency,
}

/// The answer to a payment that was taken.
#[derive(Serialize)]
struct Taken<'a> {
    status: &'static str,
    transaction_id: Uuid,
    user_id: &'a UserId,
    amount: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl BatchCommand for TakePayment {
    const OPERATION: Operation = Operation::new("pay");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
            .field("user_id", self.user_id.as_str().as_bytes())
            .field("amount", &self.amount.minor_units().to_be_bytes())
            .optional("currency", self.named_currency.map(|named| named.code().as_bytes()))
    }

    fn insert(batch: &[BatchEntry<'_, Self>]) -> Result<Option<Insert>, Error> {
        let responses = batch.iter().map(response).collect::<Result<_, _>>()?;
        Ok(Some(store::insert(batch).respond(responses)))
    }
}

fn response(entry: &BatchEntry<'_, TakePayment>) -> Result<Response, Error> {
    let TakePayment { user_id, amount, named_currency, .. } = entry.command;
    let transaction_id = entry.execution.id;
    let body = serde_json::to_vec(&Taken {
        status: "success",
        transaction_id,
        user_id,
        amount: *amount,
        currency: *named_currency,
    })
    .map_err(Error::other)?;
    Ok(Response::new(201, body).with_header("location", location(transaction_id)))
}

/// Where a payment can be read.
#[must_use]
pub fn location(transaction_id: Uuid) -> String {
    format!("/payment/{transaction_id}")
}

#[cfg(test)]
mod tests {
    use super::UserId;

    #[test]
    fn a_user_id_has_something_to_read_in_it() {
        for valid in ["u", "user_1", " padded ", "é", &"é".repeat(255), "a\u{a0}b"] {
            assert!(UserId::parse(valid.to_owned()).is_some(), "{valid:?}");
        }
        for invalid in [
            "",
            " ",
            "\u{a0}",
            "\u{200b}",
            " \u{2060}\u{feff}",
            "a\0",
            "a\nb",
            "\u{7f}",
            "\u{85}",
            &"é".repeat(256),
        ] {
            assert!(UserId::parse(invalid.to_owned()).is_none(), "{invalid:?}");
        }
    }
}
