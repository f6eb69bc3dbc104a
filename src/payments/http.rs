//! The endpoints of payments.

use std::str::FromStr;

use actix_web::{HttpRequest, HttpResponse, http::header, web};
use serde::Serialize;

use super::{
    command::{CreatePayment, location},
    currency::Currency,
    list::Listing,
    money::{self, Amount},
    store,
    user_id::UserId,
};
use crate::{
    accounts::Caller,
    http::{
        idempotent::IdempotentRequest,
        json::Fields,
        problem::{Kind, Problem},
    },
    ids::PaymentId,
    state::AppState,
};

/// The body of a payment, as errors describe it.
pub const EXPECTED: &str = "a JSON object with user_id, amount and, optionally, currency";

/// `POST /payment`: creates a payment, once.
///
/// # Errors
/// The problems of an idempotent request; `invalid-payment`.
pub async fn create(
    request: IdempotentRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    request
        .execute(&state, |body| read(body, state.default_currency), |id| location(id.into()))
        .await
}

/// Reads a payment from a body.
///
/// # Errors
/// `malformed-json` or `invalid-payment`.
pub fn read(body: &[u8], default: Currency) -> Result<CreatePayment, Problem> {
    let mut fields = Fields::read(body, Kind::InvalidPayment, EXPECTED)?;
    let user_id = fields.required(
        "user_id",
        "a string of 1 to 255 characters, at least one of them visible, without control characters",
        |json| serde_json::from_str(json).ok().and_then(UserId::parse),
    );
    let amount = fields.required("amount", money::EXPECTED, Amount::from_json);
    let named_currency =
        fields.optional("currency", "an ISO 4217 currency code in upper case", |json| {
            let code: String = serde_json::from_str(json).ok()?;
            Currency::from_code(&code)
        });
    let payment =
        user_id.zip(amount).zip(named_currency).map(|((user_id, amount), named_currency)| {
            let currency = named_currency.unwrap_or(default);
            CreatePayment { user_id, amount, named_currency, currency }
        });
    fields.finish(payment)
}

/// `GET /payment/{transaction_id}`: one payment, with its refunds.
///
/// # Errors
/// `not-found`, also for an id that is not a UUID; `database-unavailable`.
pub async fn show(
    Caller { account_id }: Caller,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let transaction_id = PaymentId::from_str(&path).map_err(|_| Kind::NotFound)?;
    let payment = state
        .reads
        .run_for(account_id, async |conn| store::find(conn, account_id, transaction_id).await)
        .await?
        .ok_or(Kind::NotFound)?;
    Ok(fresh(payment))
}

/// `GET /payment`: a page of payments, the newest first.
///
/// # Errors
/// `invalid-query`; `database-unavailable`.
pub async fn list(
    Caller { account_id }: Caller,
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let listing = Listing::read(request.query_string())?;
    let page = state
        .reads
        .run_for(account_id, async |conn| store::list(conn, account_id, &listing).await)
        .await?;
    Ok(fresh(page))
}

/// A response that caches do not store.
fn fresh(read: impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(read)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn usd() -> Currency {
        Currency::from_code("USD").unwrap()
    }

    proptest! {
        #[test]
        fn what_is_a_payment_is_read_as_it_was_written(
            user in "[^\\p{Cc}]{0,60}[a-zé€]", amount in 1..=Amount::MAX, code in prop::option::of("(EUR|JPY|USD)")
        ) {
            let mut body = json!({ "user_id": user, "amount": amount });
            if let Some(code) = &code {
                body["currency"] = json!(code);
            }
            let named_currency = code.as_deref().and_then(Currency::from_code);
            let expected = CreatePayment {
                user_id: UserId::parse(user).unwrap(),
                amount: Amount::from_minor_units(amount).unwrap(),
                named_currency,
                currency: named_currency.unwrap_or(usd()),
            };
            prop_assert_eq!(read(body.to_string().as_bytes(), usd()), Ok(expected));
        }

        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = read(&body, usd());
        }
    }
}
