//! `POST /payment` of the servers that payonce is compared with, as far as new payments go: the same request, and an
//! answer with the same headers and members.

use std::time::{Duration, SystemTime};

use actix_web::{
    HttpRequest, HttpResponse,
    http::header::{self, HttpDate},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// How many bytes payonce's fingerprint of a payment has.
pub const FINGERPRINT: usize = 33;

/// How long an answer is kept.
pub const RESPONSE_TTL: Duration = Duration::from_hours(24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Payment {
    pub user_id: String,
    pub amount: i64,
}

#[derive(Serialize)]
pub struct Taken<'a> {
    status: &'a str,
    transaction_id: Uuid,
    user_id: &'a str,
    amount: i64,
}

impl Taken<'_> {
    pub fn body(transaction_id: Uuid, user_id: &str, amount: i64) -> String {
        let taken = Taken { status: "success", transaction_id, user_id, amount };
        serde_json::to_string(&taken).unwrap()
    }
}

/// The request's key; none where the payment is no payment.
pub fn key<'a>(request: &'a HttpRequest, payment: &Payment) -> Option<&'a str> {
    let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok());
    key.filter(|_| payment.amount > 0 && !payment.user_id.is_empty())
}

pub fn created(key: &str, transaction_id: Uuid, body: String) -> HttpResponse {
    HttpResponse::Created()
        .content_type("application/json")
        .insert_header(("idempotency-key", key))
        .insert_header(("idempotent-replayed", "false"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((
            "idempotency-key-expires",
            HttpDate::from(SystemTime::now() + RESPONSE_TTL),
        ))
        .insert_header((header::LOCATION, format!("/payment/{transaction_id}")))
        .body(body)
}
