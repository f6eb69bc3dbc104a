//! Creating a refund, as a command that is executed exactly once.

use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    refundable::{Refusal, Wanted},
    store,
};
use crate::{
    events::EventType,
    http::problem::{Kind, Problem, Retry},
    idempotency::{BatchCommand, BatchEntry, Error, EventCode, Fingerprint, Operation, Response},
    ids::{AccountId, PaymentId, RefundId},
    payments::{command::location, money::Amount},
};

/// The request to refund a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CreateRefund {
    /// The payment.
    pub transaction_id: PaymentId,
    /// The part of it to refund.
    pub wanted: Wanted,
}

/// A refund to insert.
#[derive(Debug, Clone)]
pub(super) struct NewRefund {
    pub(super) refund_id: RefundId,
    pub(super) transaction_id: PaymentId,
    pub(super) account_id: AccountId,
    pub(super) amount: Amount,
    pub(super) currency: String,
    /// The sum of the payment's refunds, with this one.
    pub(super) refunded_after: i64,
    /// The number of this refund among those of its payment, from 1.
    pub(super) ordinal: i16,
}

/// The response.
#[derive(Serialize)]
struct Created<'a> {
    status: &'static str,
    refund_id: RefundId,
    transaction_id: PaymentId,
    amount: Amount,
    currency: &'a str,
}

/// The money in a response.
#[derive(Debug, Deserialize)]
pub struct Refunded {
    /// The amount in minor units.
    pub amount: i64,
    /// The payment's currency.
    pub currency: String,
}

impl Refunded {
    /// Reads what a response says was refunded; `None` if it is a refusal.
    #[must_use]
    pub fn read(response: &Response) -> Option<Self> {
        let success = (200..300).contains(&response.status());
        success.then(|| serde_json::from_slice(response.body()).ok())?
    }
}

impl BatchCommand for CreateRefund {
    const OPERATION: Operation = Operation::new("refund");
    const EVENT: Option<EventCode> = Some(EventCode::new(EventType::RefundCreated.code()));

    fn fingerprint(&self) -> Fingerprint {
        let (amount, remaining) = match self.wanted {
            Wanted::Amount(amount) => (Some(amount.minor_units().to_be_bytes()), None),
            Wanted::Remaining => (None, Some(b"true".as_slice())),
        };
        Fingerprint::of(Self::OPERATION)
            .field("transaction_id", Uuid::from(self.transaction_id).as_bytes())
            .optional("amount", amount.as_ref().map(<[u8; 8]>::as_slice))
            .optional("remaining", remaining)
    }

    fn locks(&self) -> Option<Uuid> {
        Some(self.transaction_id.into())
    }

    /// One by one, each on what the ones before have left of its payment. One statement over all of them would not
    /// see what the others refund.
    async fn execute(
        batch: &[BatchEntry<'_, Self>],
        conn: &mut PgConnection,
    ) -> Result<Vec<Response>, Error> {
        let mut payments = store::lock(conn, batch).await?;
        let mut refunds = Vec::with_capacity(batch.len());
        let mut responses = Vec::with_capacity(batch.len());
        for BatchEntry { execution, command } in batch {
            let CreateRefund { transaction_id, wanted } = **command;
            let account_id = execution.account_id;
            let payment = payments.get_mut(&(account_id, transaction_id));
            let refund = payment.ok_or_else(no_such_payment).and_then(|payment| {
                let amount = payment.refund(wanted).map_err(Refusal::problem)?;
                Ok(NewRefund {
                    refund_id: execution.id.into(),
                    transaction_id,
                    account_id,
                    amount,
                    currency: payment.currency.clone(),
                    refunded_after: payment.refunded,
                    ordinal: payment.refund_count,
                })
            });
            let response = match &refund {
                Ok(refund) => response(refund),
                Err(refusal) => refusal.stored(execution.id),
            };
            responses.push(response.map_err(Error::other)?);
            refunds.extend(refund);
        }
        if !refunds.is_empty() {
            store::insert(conn, &refunds).await?;
        }
        Ok(responses)
    }
}

/// Stored: the payment may be created later, and this key stays refused.
pub(crate) fn no_such_payment() -> Problem {
    Problem::new(Kind::NotFound).with_retry(Retry::NewKey).with_detail(
        "This account has no payment with this id. Nothing was refunded with this key, and nothing will be: it stays \
         refused. Send a corrected request with a new key.",
    )
}

fn response(refund: &NewRefund) -> Result<Response, serde_json::Error> {
    let NewRefund { refund_id, transaction_id, amount, currency, .. } = refund;
    let body = serde_json::to_vec(&Created {
        status: "success",
        refund_id: *refund_id,
        transaction_id: *transaction_id,
        amount: *amount,
        currency,
    })?;
    Ok(Response::new(201, body).with_header("location", location(*transaction_id)))
}
