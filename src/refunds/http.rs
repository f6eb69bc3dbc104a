//! The endpoint of refunds.

use actix_web::{HttpResponse, web};
use uuid::Uuid;

use super::refund::GiveBack;
use crate::{
    body::Members,
    keyed::{Keyed, KeyedRequest},
    payments::{
        money::{self, Amount},
        payment::location,
    },
    problem::{Kind, Problem},
};

/// What a client is told when a body is no object.
const EXPECTED: &str = "an empty JSON object, one with amount, or no body at all";

/// `POST /payment/{transaction_id}/refund`: gives back all of a payment or a part of it, once.
///
/// An id that is not a UUID is `not-found` without the key being used up: no payment will ever have it.
pub async fn give_back(
    request: KeyedRequest,
    path: web::Path<String>,
    keyed: web::Data<Keyed>,
) -> HttpResponse {
    let Ok(transaction_id) = Uuid::parse_str(&path) else {
        return request.reply(Err(Kind::NotFound.into()));
    };
    request.answer(&keyed, |body| read(transaction_id, body), |_| location(transaction_id)).await
}

/// Reads from a body what to give back of this payment. No body is as good as an empty object.
///
/// # Errors
/// `malformed-json` or `invalid-refund`.
pub fn read(transaction_id: Uuid, body: &[u8]) -> Result<GiveBack, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let mut members = Members::read(body, Kind::InvalidRefund, EXPECTED)?;
    let amount = members.optional("amount", money::EXPECTED, Amount::from_json);
    members.finish(amount.map(|amount| GiveBack::new(transaction_id, amount)))
}
