//! Creating a payment, as a command that is executed exactly once.

use serde::Serialize;

use super::{currency::Currency, money::Amount, store, user_id::UserId};
use crate::{
    events::EventType,
    idempotency::{
        BatchCommand, BatchEntry, Error, EventCode, Fingerprint, Insert, Operation, Response,
    },
    ids::PaymentId,
};

/// The request to create a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePayment {
    /// The user that pays.
    pub user_id: UserId,
    /// The amount.
    pub amount: Amount,
    /// The currency that the request names. The fingerprint has this one: a retry is the same request after the
    /// default has changed.
    pub named_currency: Option<Currency>,
    /// The currency of the payment: the named one, or the default at the time of the request.
    pub currency: Currency,
}

/// The response.
#[derive(Serialize)]
struct Created<'a> {
    status: &'static str,
    transaction_id: PaymentId,
    user_id: &'a UserId,
    amount: Amount,
    #[serde(skip_serializing_if = "Option::is_none")]
    currency: Option<Currency>,
}

impl BatchCommand for CreatePayment {
    const OPERATION: Operation = Operation::new("pay");
    const EVENT: Option<EventCode> = Some(EventCode::new(EventType::PaymentCreated.code()));

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

fn response(entry: &BatchEntry<'_, CreatePayment>) -> Result<Response, Error> {
    let CreatePayment { user_id, amount, named_currency, .. } = entry.command;
    let transaction_id = PaymentId::from(entry.execution.id);
    let body = serde_json::to_vec(&Created {
        status: "success",
        transaction_id,
        user_id,
        amount: *amount,
        currency: *named_currency,
    })
    .map_err(Error::other)?;
    Ok(Response::new(201, body).with_header("location", location(transaction_id)))
}

/// The path of a payment.
#[must_use]
pub fn location(transaction_id: PaymentId) -> String {
    format!("/payment/{transaction_id}")
}
