//! The endpoint of refunds.

use actix_web::{HttpResponse, web};
use uuid::Uuid;

use super::refund::{GiveBack, Wanted};
use crate::{
    http::{
        idempotent::IdempotentRequest,
        json::Members,
        problem::{Kind, Problem, Retry},
    },
    payments::{
        money::{self, Amount},
        payment::location,
    },
    state::AppState,
};

/// What the body of a refund contains.
pub const EXPECTED: &str =
    "a JSON object with amount, or with remaining to refund everything that is left";

/// `POST /payment/{transaction_id}/refund`: refunds a payment, in part or everything that is left, once.
///
/// An id that is not a UUID names no payment, now or later: the request is refused before its key is used.
pub async fn give_back(
    request: IdempotentRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let Ok(transaction_id) = Uuid::parse_str(&path) else {
        return Err(Problem::new(Kind::NotFound)
            .with_retry(Retry::CorrectedRequest)
            .with_detail(
                "The id in the path is not a UUID, so no payment has it. This request has not used the key: send a \
                 corrected one with the same key.",
            ));
    };
    request.execute(&state, |body| read(transaction_id, body), |_| location(transaction_id)).await
}

/// Reads a refund from a body. The client says what to refund, by `amount` or by `remaining`: a body that got
/// lost on the way refunds nothing.
///
/// # Errors
/// `malformed-json` or `invalid-refund`.
pub fn read(transaction_id: Uuid, body: &[u8]) -> Result<GiveBack, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut members = Members::read(body, Kind::InvalidRefund, EXPECTED)?;
    let amount = members.optional("amount", money::EXPECTED, Amount::from_json);
    let remaining = members
        .optional("remaining", "true, or no such field", |json| (json == "true").then_some(()));
    let wanted = match (amount, remaining) {
        (Some(Some(amount)), Some(None)) => Some(Wanted::Amount(amount)),
        (Some(None), Some(Some(()))) => Some(Wanted::Remaining),
        (Some(None), Some(None)) => {
            members.refuse("is missing what to refund: expected amount, or remaining")
        }
        (Some(Some(_)), Some(Some(()))) => members.refuse("expected amount or remaining, not both"),
        _ => None,
    };
    members.finish(wanted.map(|wanted| GiveBack::new(transaction_id, wanted)))
}
