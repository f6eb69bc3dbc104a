//! Every response besides success: one table, rendered as RFC 9457 problem details.

use std::{borrow::Cow, fmt};

use actix_web::{
    HttpResponse, ResponseError,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use serde::{Deserialize, Serialize, Serializer};
use uuid::Uuid;

use crate::idempotency::{Failure, Response};

mod kind;
pub(crate) mod openapi;
pub mod pages;

pub use kind::{Entry, Kind, Retry};

/// The media type of problems (RFC 9457 §3).
const MEDIA_TYPE: &str = "application/problem+json";

/// An error in a body or query.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// The field or parameter, as a JSON Pointer (RFC 6901); empty for the whole.
    pub pointer: String,
    /// The expected value.
    pub detail: String,
}

/// The state of an account's feed of events, for a consumer whose cursor leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FeedState {
    /// The oldest position that is kept after the cursor, if events were deleted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_position: Option<i64>,
    /// The position of the newest event.
    pub last_position: i64,
    /// The feed that has these positions.
    pub feed: String,
}

/// A problem that occurred.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    kind: Kind,
    retry: Retry,
    detail: Option<Cow<'static, str>>,
    errors: Vec<FieldError>,
    members: Vec<&'static str>,
    refundable: Option<i64>,
    /// Boxed, because few problems have one.
    feed: Option<Box<FeedState>>,
    headers: Vec<(header::HeaderName, HeaderValue)>,
    cause: Option<String>,
}

/// A problem for the log.
#[derive(Debug, Clone)]
pub struct Report {
    /// The problem's code.
    pub code: &'static str,
    /// The UUID in its `instance`.
    pub instance: Uuid,
    /// Its cause, which is not for the client.
    pub cause: Option<String>,
}

impl Report {
    /// The report of a stored response, where it is a problem.
    #[must_use]
    pub fn stored(response: &Response) -> Option<Self> {
        #[derive(Deserialize)]
        struct Stored<'a> {
            code: &'a str,
            instance: &'a str,
        }

        if response.status() < 400 {
            return None;
        }
        let Stored { code, instance } = serde_json::from_slice(response.body()).ok()?;
        let instance = Uuid::parse_str(instance).ok()?;
        Some(Self { code: Kind::of_code(code)?.entry().code, instance, cause: None })
    }
}

impl Problem {
    /// A problem with the texts of its kind.
    #[must_use]
    pub fn new(kind: Kind) -> Self {
        Self {
            kind,
            retry: kind.entry().retry,
            detail: None,
            errors: Vec::new(),
            members: Vec::new(),
            refundable: None,
            feed: None,
            headers: Vec::new(),
            cause: None,
        }
    }

    /// Replaces the detail.
    #[must_use]
    pub fn with_detail(self, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// Replaces the advice on retries.
    #[must_use]
    pub fn with_retry(self, retry: Retry) -> Self {
        Self { retry, ..self }
    }

    /// Uses an error's message as the detail, as a sentence.
    #[must_use]
    pub fn with_message(self, error: &impl fmt::Display) -> Self {
        let message = error.to_string();
        let mut rest = message.chars();
        let first = rest.next().map(|first| first.to_ascii_uppercase());
        self.with_detail(first.into_iter().chain(rest).chain(['.']).collect::<String>())
    }

    /// Lists the errors in the body or query.
    #[must_use]
    pub fn with_errors(self, errors: Vec<FieldError>) -> Self {
        Self { errors, ..self }
    }

    /// Lists the fields that differ.
    #[must_use]
    pub fn with_members(self, members: Vec<&'static str>) -> Self {
        Self { members, ..self }
    }

    /// States the refundable amount, in minor units.
    #[must_use]
    pub fn with_refundable(self, minor_units: i64) -> Self {
        Self { refundable: Some(minor_units), ..self }
    }

    /// States where the feed of events is.
    #[must_use]
    pub fn with_feed(self, feed: FeedState) -> Self {
        Self { feed: Some(Box::new(feed)), ..self }
    }

    /// Adds a header to the response.
    #[must_use]
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Says for the log what caused it.
    #[must_use]
    pub fn caused_by(self, cause: impl fmt::Display) -> Self {
        Self { cause: Some(cause.to_string()), ..self }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The refusal of a command, to be stored with its key and replayed to the byte. Its `instance` is the
    /// execution that was refused.
    ///
    /// # Errors
    /// None that a problem could cause.
    pub fn stored(&self, execution_id: Uuid) -> Result<Response, serde_json::Error> {
        let body = serde_json::to_vec(&self.body(execution_id))?;
        Ok(Response::new(self.status_code().as_u16(), body)
            .with_header(header::CONTENT_TYPE.as_str(), MEDIA_TYPE))
    }

    /// The response to the request of this id.
    pub(super) fn response(&self, instance: Uuid) -> HttpResponse {
        let mut response = HttpResponse::build(self.status_code());
        response
            .insert_header((header::CONTENT_TYPE, MEDIA_TYPE))
            .insert_header((header::CACHE_CONTROL, "no-store"));
        if self.retry == Retry::SameRequest {
            response.insert_header((
                header::RETRY_AFTER,
                HeaderValue::from(seconds_to_wait(self.kind)),
            ));
        }
        for (name, value) in &self.headers {
            response.insert_header((name.clone(), value.clone()));
        }
        response.json(self.body(instance))
    }

    /// The report of it in the response to the request of this id.
    pub(super) fn report(&self, instance: Uuid) -> Report {
        Report { code: self.kind.entry().code, instance, cause: self.cause.clone() }
    }

    fn body(&self, instance: Uuid) -> Body<'_> {
        let Entry { code, status, title, advice, .. } = self.kind.entry();
        Body {
            r#type: format!("/problems/{code}"),
            title,
            status,
            detail: self.detail.as_deref().unwrap_or(advice),
            instance: instance.urn(),
            code,
            error: title,
            retry: self.retry,
            errors: &self.errors,
            members: &self.members,
            refundable: self.refundable,
            feed: self.feed.as_deref(),
        }
    }
}

impl From<Kind> for Problem {
    fn from(kind: Kind) -> Self {
        Self::new(kind)
    }
}

impl From<Failure> for Problem {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Overloaded => Self::new(Kind::Overloaded),
            Failure::ShareExceeded => Self::new(Kind::TooManyRequests),
            Failure::DatabaseUnavailable => Self::new(Kind::DatabaseUnavailable),
            Failure::Locked => not_executed(
                "Another database session holds a lock on a table or row that this request needs.",
            ),
            Failure::Conflict => {
                not_executed("Its transaction conflicted with others each time that it was tried.")
            }
            Failure::ConnectionLost => not_executed(
                "The connection to the database was lost, or took no writes, each time that it was tried.",
            ),
            Failure::TimedOut => {
                not_executed("PostgreSQL stopped its statement because it took too long.")
            }
            Failure::OutOfResources => Self::new(Kind::Overloaded).with_detail(
                "The database has run out of disk space, memory or another resource. This request executed \
                 nothing. Send it again as it was, with the same key, after Retry-After.",
            ),
            Failure::OutcomeUnknown => Self::new(Kind::OutcomeUnknown),
            Failure::Internal(cause) => Self::new(Kind::Internal).caused_by(cause),
        }
    }
}

/// A request that was tried, with the reason why it was not executed.
fn not_executed(why: &str) -> Problem {
    let advice = Kind::NotExecuted.entry().advice;
    Problem::new(Kind::NotExecuted).with_detail(format!("{why} {advice}"))
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.entry().title)
    }
}

/// The body: the fields of RFC 9457 in its order, then our own.
#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    #[serde(serialize_with = "status_number")]
    status: StatusCode,
    detail: &'a str,
    instance: uuid::fmt::Urn,
    code: &'a str,
    error: &'a str,
    retry: Retry,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldError],
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    members: &'a [&'static str],
    #[serde(skip_serializing_if = "Option::is_none")]
    refundable: Option<i64>,
    #[serde(flatten)]
    feed: Option<&'a FeedState>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn status_number<S: Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.kind.entry().status
    }

    /// Empty: the [middleware](super::middleware) renders a problem, with the id of its request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.status_code())
    }
}

/// After how many seconds to come back: at once where only another server's transaction is waited
/// for, else spread, so that a storm doesn't come back as one.
fn seconds_to_wait(kind: Kind) -> u16 {
    match kind {
        Kind::KeyInFlight | Kind::RequestTimeout => 1,
        _ => fastrand::u16(1..=10),
    }
}
