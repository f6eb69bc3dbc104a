//! The endpoints of payments.

use actix_web::{HttpResponse, http::header, web};
use uuid::Uuid;

use super::{
    money::Amount,
    payment::{TakePayment, UserId, location},
    store,
};
use crate::{
    accounts::Caller,
    body::Members,
    database::Reads,
    keyed::{Keyed, KeyedRequest},
    problem::{Kind, Problem},
};

/// `POST /payment`: takes a payment, once.
pub async fn take(request: KeyedRequest, keyed: web::Data<Keyed>) -> HttpResponse {
    request.answer(&keyed, read, location).await
}

/// Reads a payment from a body.
///
/// # Errors
/// `malformed-json` or `invalid-payment`.
pub fn read(body: &[u8]) -> Result<TakePayment, Problem> {
    let mut members = Members::read(body, Kind::InvalidPayment)?;
    let user_id = members.required(
        "user_id",
        "a string of 1 to 255 characters, not blank, without control characters",
        |json| serde_json::from_str(json).ok().and_then(UserId::parse),
    );
    let amount = members.required(
        "amount",
        "a whole number of minor units, 1 to 9007199254740991, without fraction, exponent or quotes",
        |json| json.parse().ok().and_then(Amount::from_minor_units),
    );
    members.finish(user_id.zip(amount).map(|(user_id, amount)| TakePayment { user_id, amount }))
}

/// `GET /payment/{transaction_id}`: one payment.
///
/// # Errors
/// `not-found`, also for an id that is not a UUID; `database-unavailable`.
pub async fn show(
    Caller { account_id }: Caller,
    path: web::Path<String>,
    reads: web::Data<Reads>,
) -> Result<HttpResponse, Problem> {
    let transaction_id = Uuid::parse_str(&path).map_err(|_| Kind::NotFound)?;
    let payment = reads
        .run(async |conn| store::find(conn, account_id, transaction_id).await)
        .await?
        .ok_or(Kind::NotFound)?;
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(payment))
}
