//! The table of problems: for each kind its status, its code, its words and what may be sent next.

use actix_web::http::StatusCode;
use serde::Serialize;

/// What may be sent next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The very same request with the same key, after `Retry-After`.
    SameRequest,
    /// A corrected one, with the same key: this one executed nothing.
    CorrectedRequest,
    /// Another one with a new key: nothing was made with this one, nor will be.
    NewKey,
    /// Nothing: sending it again changes nothing.
    None,
}

/// What is the same whenever a problem occurs.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// What programs go by; also the end of the problem's `type`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// What is wrong.
    pub title: &'static str,
    /// What may be sent next.
    pub retry: Retry,
    /// What to do, for people.
    pub advice: &'static str,
}

/// The kinds of problems.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A keyed request without the header.
    KeyMissing,
    /// A header that is no key, or two of them.
    KeyInvalid,
    /// A body that is not JSON.
    MalformedJson,
    /// JSON that is not a payment.
    InvalidPayment,
    /// JSON that is not a refund.
    InvalidRefund,
    /// A query that is none of this path.
    InvalidQuery,
    /// A caller who shows no valid API key.
    Unauthorized,
    /// More than is left of a payment.
    RefundRefused,
    /// No such route, or no such thing.
    NotFound,
    /// A route that has other methods.
    MethodNotAllowed,
    /// A body that didn't come to its end.
    RequestTimeout,
    /// Another server is executing the key's request.
    KeyInFlight,
    /// The key's answer is kept no longer.
    KeyExpired,
    /// The key was used up on purpose, and nothing executed.
    KeyVoided,
    /// A body over the limit.
    BodyTooLarge,
    /// A body of another type, charset or encoding.
    UnsupportedMediaType,
    /// The key was used by another request.
    KeyReused,
    /// One account has more waiting than its share.
    TooManyRequests,
    /// A defect.
    Internal,
    /// More than can be done.
    Overloaded,
    /// A server that is being stopped isn't ready.
    ShuttingDown,
    /// No database, and nothing begun.
    DatabaseUnavailable,
    /// A database that did not execute the request, and nothing left of it.
    NotExecuted,
    /// No database, and something begun.
    OutcomeUnknown,
}

impl Kind {
    /// Every kind, in the order of their statuses.
    pub const ALL: [Self; 24] = [
        Self::KeyMissing,
        Self::KeyInvalid,
        Self::MalformedJson,
        Self::InvalidPayment,
        Self::InvalidRefund,
        Self::InvalidQuery,
        Self::Unauthorized,
        Self::RefundRefused,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::KeyInFlight,
        Self::KeyExpired,
        Self::KeyVoided,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::KeyReused,
        Self::TooManyRequests,
        Self::Internal,
        Self::Overloaded,
        Self::ShuttingDown,
        Self::DatabaseUnavailable,
        Self::NotExecuted,
        Self::OutcomeUnknown,
    ];

    /// The table.
    #[must_use]
    #[expect(clippy::too_many_lines, reason = "a table, an entry for each kind")]
    pub fn entry(self) -> Entry {
        use Retry::{CorrectedRequest, SameRequest};
        let entry =
            |status, code, retry, title, advice| Entry { code, status, title, retry, advice };
        match self {
            Self::KeyMissing => entry(
                StatusCode::BAD_REQUEST,
                "idempotency-key-missing",
                CorrectedRequest,
                "Idempotency-Key header is required",
                "Make a random key (a UUID, say) for each payment that you intend, keep it with the payment, and \
                 send it in the Idempotency-Key header: the same key again whenever you send the same request again. To \
                 ask what became of a request, or to void its key, send that key.",
            ),
            Self::KeyInvalid => entry(
                StatusCode::BAD_REQUEST,
                "idempotency-key-invalid",
                CorrectedRequest,
                "Idempotency-Key header is not a valid key",
                "Send one Idempotency-Key header with 1 to 255 printable ASCII characters: in double quotes, or bare \
                 without space, comma, semicolon and double quote.",
            ),
            Self::MalformedJson => entry(
                StatusCode::BAD_REQUEST,
                "malformed-json",
                CorrectedRequest,
                "The body is not valid JSON",
                "Correct the body. This request has not used the key: send the corrected one with the same key.",
            ),
            Self::InvalidPayment => entry(
                StatusCode::BAD_REQUEST,
                "invalid-payment",
                CorrectedRequest,
                "The body is not a valid payment",
                "Correct the members that `errors` names. This request has not used the key: send the corrected one \
                 with the same key.",
            ),
            Self::InvalidRefund => entry(
                StatusCode::BAD_REQUEST,
                "invalid-refund",
                CorrectedRequest,
                "The body is not a valid refund",
                "Correct the members that `errors` names. This request has not used the key: send the corrected one \
                 with the same key.",
            ),
            Self::InvalidQuery => entry(
                StatusCode::BAD_REQUEST,
                "invalid-query",
                CorrectedRequest,
                "The query is not valid here",
                "Correct the parameters that errors names. A request with an Idempotency-Key has not used it: send the \
                 corrected one with the same key.",
            ),
            Self::Unauthorized => entry(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                CorrectedRequest,
                "It is not known who is calling",
                "Send a valid API key: Authorization: Bearer payonce_… This request executed nothing. If an earlier one \
                 with the same Idempotency-Key may have been executed, use a key of the same account.",
            ),
            Self::RefundRefused => entry(
                StatusCode::PAYMENT_REQUIRED,
                "refund-refused",
                Retry::NewKey,
                "This can't be refunded",
                "No more is refunded than was paid, and `refundable` is what was left. Nothing was refunded with this \
                 key, and nothing will be: it stays refused. To refund what is left, make another request with a new key.",
            ),
            Self::NotFound => entry(
                StatusCode::NOT_FOUND,
                "not-found",
                Retry::None,
                "There is nothing here",
                "Check the path, and the id in it. A request with an Idempotency-Key has not used it.",
            ),
            Self::MethodNotAllowed => entry(
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                Retry::None,
                "This path doesn't take that method",
                "The Allow header names the methods that it takes.",
            ),
            Self::RequestTimeout => entry(
                StatusCode::REQUEST_TIMEOUT,
                "request-timeout",
                SameRequest,
                "The body did not arrive in time",
                "This request executed nothing. Send it again as it was, with the same key.",
            ),
            Self::KeyInFlight => entry(
                StatusCode::CONFLICT,
                "idempotency-key-in-flight",
                SameRequest,
                "A request with this key is being executed",
                "Send the same request again, with the same key, after Retry-After: it will be answered with what \
                 the first one made.",
            ),
            Self::KeyExpired => entry(
                StatusCode::GONE,
                "idempotency-key-expired",
                Retry::None,
                "The answer to this key is not kept any longer",
                "The request was executed, once, and is not executed again. Location names what it made.",
            ),
            Self::KeyVoided => entry(
                StatusCode::GONE,
                "idempotency-key-voided",
                Retry::NewKey,
                "This key was voided",
                "Somebody used this key up so that nothing is executed with it, and nothing was. If the request is still \
                 wanted, send it with a new key.",
            ),
            Self::BodyTooLarge => entry(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                CorrectedRequest,
                "The body is too large",
                "Send less: BODY_LIMIT of the server says how much it reads, 16 KiB where nothing else was set. This \
                 request has not used the key.",
            ),
            Self::UnsupportedMediaType => entry(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                CorrectedRequest,
                "The body is of a type that is not read here",
                "Send JSON in UTF-8 with Content-Type: application/json and no Content-Encoding. This request has not \
                 used the key.",
            ),
            Self::KeyReused => entry(
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                Retry::None,
                "This key was used by another request",
                "A key stands for one request. To repeat that request, send it as it was: `members` names \
                 what differs. To make another, take another key; and find out why this one was used twice.",
            ),
            Self::TooManyRequests => entry(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-requests",
                SameRequest,
                "This account has as many requests waiting as it may",
                "This request executed nothing. Send it again as it was, with the same key if it has one, after \
                 Retry-After; and fewer at the same time.",
            ),
            Self::Internal => entry(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                SameRequest,
                "Something is wrong with the server",
                "Sending the same request again, with the same key if it has one, is safe. If it persists, report the \
                 instance: it stands in the server's log, with the cause.",
            ),
            Self::Overloaded => entry(
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                SameRequest,
                "The server has more work than it can do",
                "This request executed nothing. Send it again as it was, with the same key, after Retry-After.",
            ),
            Self::ShuttingDown => entry(
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting-down",
                SameRequest,
                "The server is being shut down",
                "It answers what reaches it a little longer, and closes each connection with its answer. Send what is \
                 next to another server.",
            ),
            Self::DatabaseUnavailable => entry(
                StatusCode::SERVICE_UNAVAILABLE,
                "database-unavailable",
                SameRequest,
                "The database can't be reached",
                "This request executed nothing. Send it again as it was, with the same key if it has one, after \
                 Retry-After: where an earlier one with that key was executed, its answer comes then.",
            ),
            Self::NotExecuted => entry(
                StatusCode::SERVICE_UNAVAILABLE,
                "not-executed",
                SameRequest,
                "The database did not execute this request",
                "This request executed nothing. Send it again as it was, with the same key, after Retry-After.",
            ),
            Self::OutcomeUnknown => entry(
                StatusCode::SERVICE_UNAVAILABLE,
                "outcome-unknown",
                SameRequest,
                "It is not known yet whether the request was executed",
                "Send the same request again, with the same key, after Retry-After: it is executed if it was not, and \
                 answered with what it made if it was.",
            ),
        }
    }

    /// The kind with this code.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.entry().code == code)
    }
}
