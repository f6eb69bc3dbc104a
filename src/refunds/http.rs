//! The endpoint of refunds.

use std::str::FromStr;

use actix_web::{HttpResponse, web};

use super::{command::CreateRefund, refundable::Wanted};
use crate::{
    http::{
        idempotent::IdempotentRequest,
        json::Fields,
        problem::{Kind, Problem, Retry},
    },
    ids::PaymentId,
    payments::{
        command::location,
        money::{self, Amount},
    },
    state::AppState,
};

/// The body of a refund, as errors describe it.
pub const EXPECTED: &str =
    "a JSON object with amount, or with remaining to refund everything that is left";

/// `POST /payment/{transaction_id}/refund`: refunds a payment, in part or everything that is left, once.
///
/// An id that is not a UUID names no payment, now or later: the request is refused before its key is used.
///
/// # Errors
/// The problems of an idempotent request; `invalid-refund`, `not-found`.
pub async fn create(
    request: IdempotentRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let Ok(transaction_id) = PaymentId::from_str(&path) else {
        return Err(Problem::new(Kind::NotFound)
            .with_retry(Retry::CorrectedRequest)
            .with_detail(
                "The id in the path is not a UUID, so no payment has it. This request has not used the key: send a \
                 corrected one with the same key.",
            ));
    };
    request.execute(&state, |body| read(transaction_id, body), |_| location(transaction_id)).await
}

/// Reads a refund from a body. One of `amount` and `remaining` is required, so a body that was lost on the way
/// refunds nothing.
///
/// # Errors
/// `malformed-json` or `invalid-refund`.
pub fn read(transaction_id: PaymentId, body: &[u8]) -> Result<CreateRefund, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut fields = Fields::read(body, Kind::InvalidRefund, EXPECTED)?;
    let amount = fields.optional("amount", money::EXPECTED, Amount::from_json);
    let remaining =
        fields.optional("remaining", "true; omit the field to refund an amount", |json| {
            (json == "true").then_some(())
        });
    let wanted = match (amount, remaining) {
        (Some(Some(amount)), Some(None)) => Some(Wanted::Amount(amount)),
        (Some(None), Some(Some(()))) => Some(Wanted::Remaining),
        (Some(None), Some(None)) => fields.refuse("expected amount or remaining"),
        (Some(Some(_)), Some(Some(()))) => fields.refuse("expected amount or remaining, not both"),
        _ => None,
    };
    fields.finish(wanted.map(|wanted| CreateRefund { transaction_id, wanted }))
}
