//! Keys and outcomes in actix-web (feature `actix`).
//!
//! [`IdempotencyKey`] is an extractor, and a handler may return what [`Engine::submit`](crate::Engine::submit)
//! returns:
//!
//! ```
//! use actix_web::web;
//! use payonce_idempotency::{AccountId, Command, Engine, Failure, IdempotencyKey, Outcome};
//!
//! async fn handler<C: Command>(
//!     key: IdempotencyKey,
//!     command: web::ReqData<C>,
//!     engine: web::Data<Engine>,
//! ) -> Result<Outcome, Failure>
//! where
//!     C: Clone,
//! {
//!     engine.submit(AccountId::DEFAULT, key, command.into_inner()).await
//! }
//! ```

use std::{
    collections::BTreeMap,
    future::{Ready, ready},
    time::SystemTime,
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, Responder, ResponseError,
    body::BoxBody,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderName, HttpDate},
    },
};
use chrono::{DateTime, Utc};
use log::error;
use thiserror::Error;

use super::{Failure, IdempotencyKey, InvalidKey, Outcome, Response};

/// The header with the client's key.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// The header that says `true` on a replayed response.
pub const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// The header with the time until which a response can be replayed.
pub const IDEMPOTENCY_KEY_EXPIRES: HeaderName = HeaderName::from_static("idempotency-key-expires");

/// Seconds until a retry has a chance.
const RETRY_AFTER: &str = "1";

/// A request without a usable key; as a response, `400`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum KeyError {
    /// The header is missing.
    #[error("Idempotency-Key header is required")]
    Missing,
    /// There are several headers.
    #[error("send one Idempotency-Key header, not several")]
    Repeated,
    /// The value is not a key.
    #[error(transparent)]
    Invalid(#[from] InvalidKey),
}

impl ResponseError for KeyError {
    fn status_code(&self) -> StatusCode {
        StatusCode::BAD_REQUEST
    }

    fn error_response(&self) -> HttpResponse {
        problem(self.status_code(), &self.to_string())
    }
}

/// The one `Idempotency-Key` of a request.
impl FromRequest for IdempotencyKey {
    type Error = KeyError;
    type Future = Ready<Result<Self, KeyError>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(read(req))
    }
}

fn read(req: &HttpRequest) -> Result<IdempotencyKey, KeyError> {
    let mut values = req.headers().get_all(IDEMPOTENCY_KEY);
    let value = values.next().ok_or(KeyError::Missing)?;
    if values.next().is_some() {
        return Err(KeyError::Repeated);
    }
    Ok(IdempotencyKey::parse(value.as_bytes())?)
}

/// The stored response, or a problem document (RFC 9457): `409` in flight, `410` expired or voided, `422` reused.
impl From<Outcome> for HttpResponse {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::New { response, replayable_until, .. } => {
                stored(&response, replayable_until, false)
            }
            Outcome::Replay { response, replayable_until, .. } => {
                stored(&response, replayable_until, true)
            }
            Outcome::Reused { fields } => problem(
                StatusCode::UNPROCESSABLE_ENTITY,
                &format!(
                    "The key was used by another request; these differ: {}",
                    fields.join(", ")
                ),
            ),
            Outcome::Expired { execution_id } => problem(
                StatusCode::GONE,
                &format!(
                    "The request was executed as {execution_id}; its response is kept no longer"
                ),
            ),
            Outcome::Voided => problem(StatusCode::GONE, "The key is voided: use a new one"),
            Outcome::InFlight => retry(
                StatusCode::CONFLICT,
                "A request with this key is being executed: send the same request again",
            ),
        }
    }
}

impl Responder for Outcome {
    type Body = BoxBody;

    fn respond_to(self, _: &HttpRequest) -> HttpResponse {
        self.into()
    }
}

/// `429` or `503` where the same request may be sent again, and `500` for a defect, whose cause is logged.
impl ResponseError for Failure {
    fn status_code(&self) -> StatusCode {
        match self {
            Self::ShareExceeded => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    fn error_response(&self) -> HttpResponse {
        if let Self::Internal(cause) = self {
            error!("a command failed: {cause}");
            return problem(self.status_code(), "The request failed");
        }
        retry(self.status_code(), &format!("Send the same request again: {self}"))
    }
}

/// A stored response as it is sent. Its body is `application/json` unless it has another type.
#[must_use]
pub fn stored(
    response: &Response,
    replayable_until: Option<DateTime<Utc>>,
    replayed: bool,
) -> HttpResponse {
    // PostgreSQL stores no status that HTTP does not have.
    let status =
        StatusCode::from_u16(response.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut http = HttpResponse::build(status);
    http.insert_header((header::CONTENT_TYPE, "application/json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header((IDEMPOTENT_REPLAYED, if replayed { "true" } else { "false" }));
    if let Some(until) = replayable_until {
        // To the second, rounded down (RFC 9110 §5.6.7).
        http.insert_header((IDEMPOTENCY_KEY_EXPIRES, HttpDate::from(SystemTime::from(until))));
    }
    for header in response.headers() {
        http.insert_header(header);
    }
    http.body(response.body().clone())
}

fn retry(status: StatusCode, title: &str) -> HttpResponse {
    let mut response = problem(status, title);
    response
        .headers_mut()
        .insert(header::RETRY_AFTER, header::HeaderValue::from_static(RETRY_AFTER));
    response
}

fn problem(status: StatusCode, title: &str) -> HttpResponse {
    HttpResponse::build(status)
        .insert_header((header::CONTENT_TYPE, "application/problem+json"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(BTreeMap::from([("title", title)]))
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_request_has_exactly_one_key() {
        let key = |values: &[&str]| {
            let mut request = TestRequest::default();
            for value in values {
                request = request.append_header((IDEMPOTENCY_KEY, *value));
            }
            read(&request.to_http_request())
        };
        assert_eq!(key(&["\"k\""]).unwrap().as_str(), "k");
        assert_eq!(key(&[]), Err(KeyError::Missing));
        assert_eq!(key(&["k", "k"]), Err(KeyError::Repeated));
        assert_eq!(key(&[""]), Err(KeyError::Invalid(InvalidKey::Empty)));
    }

    #[test]
    fn a_stored_response_says_whether_it_is_replayed() {
        let response = Response::new(201, "{}").with_header("location", "/1");
        for (replayed, said) in [(false, "false"), (true, "true")] {
            let http = stored(&response, Some(DateTime::UNIX_EPOCH), replayed);
            assert_eq!(http.status(), 201);
            for (name, value) in [
                ("idempotent-replayed", said),
                ("location", "/1"),
                ("content-type", "application/json"),
                ("idempotency-key-expires", "Thu, 01 Jan 1970 00:00:00 GMT"),
            ] {
                assert_eq!(http.headers().get(name).unwrap(), value);
            }
        }
    }

    #[test]
    fn every_failure_but_a_defect_asks_for_the_same_request_again() {
        for (failure, status) in [
            (Failure::Overloaded, 503),
            (Failure::ShareExceeded, 429),
            (Failure::OutcomeUnknown, 503),
        ] {
            let http = failure.error_response();
            assert_eq!(http.status(), status);
            assert!(http.headers().contains_key(header::RETRY_AFTER));
        }
        let http = HttpResponse::from(Outcome::InFlight);
        assert!(http.status() == 409 && http.headers().contains_key(header::RETRY_AFTER));
        let defect = Failure::Internal(crate::Error::other("secret").into());
        assert_eq!(defect.error_response().status(), 500);
    }
}
