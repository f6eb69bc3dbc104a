//! The table of problems: one row for each kind.

use actix_web::http::StatusCode;
use serde::Serialize;

/// The request that a client may send next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Retry {
    /// The same request with the same key, after `Retry-After`.
    SameRequest,
    /// A corrected one, with the same key: this one executed nothing.
    CorrectedRequest,
    /// Another request with a new key: nothing was created with this one, nor will be.
    NewKey,
    /// Nothing: a retry gets the same response.
    None,
}

/// A row of the table.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The code for programs; also the end of the problem's `type`.
    pub code: &'static str,
    /// The HTTP status.
    pub status: StatusCode,
    /// The problem in a few words.
    pub title: &'static str,
    /// The request that a client may send next.
    pub retry: Retry,
    /// Advice for people.
    pub advice: &'static str,
}

/// Makes the kinds and their table of rows of status, code, retry, title and advice.
macro_rules! problems {
    ($($kind:ident: $status:ident $code:literal $retry:ident $title:literal $advice:literal)+) => {
        /// The kinds of problems.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = $title] $kind,)+
        }

        impl Kind {
            /// Every kind, in the order of their statuses.
            pub const ALL: [Self; [$($code),+].len()] = [$(Self::$kind),+];

            /// Its row of the table.
            #[must_use]
            pub fn entry(self) -> Entry {
                match self {
                    $(Self::$kind => Entry {
                        code: $code,
                        status: StatusCode::$status,
                        title: $title,
                        retry: Retry::$retry,
                        advice: $advice,
                    },)+
                }
            }
        }
    };
}

problems! {
    KeyMissing: BAD_REQUEST "idempotency-key-missing" CorrectedRequest
        "Idempotency-Key header is required"
        "Create a random key, such as a UUID, for each payment or refund that you intend, and store it with the \
         payment. Send it in the Idempotency-Key header, and send the same key with every retry. To look up or void a \
         key, send that key."

    KeyInvalid: BAD_REQUEST "idempotency-key-invalid" CorrectedRequest
        "Idempotency-Key header is not valid"
        "Send one Idempotency-Key header with 1 to 255 printable ASCII characters: in double quotes, or bare without \
         space, comma, semicolon and double quote."

    MalformedJson: BAD_REQUEST "malformed-json" CorrectedRequest
        "Body is not valid JSON"
        "Correct the body. This request has not used the key: send the corrected one with the same key."

    InvalidPayment: BAD_REQUEST "invalid-payment" CorrectedRequest
        "Body is not a valid payment"
        "Correct the fields that errors lists. This request has not used the key: send the corrected one with the same \
         key."

    InvalidRefund: BAD_REQUEST "invalid-refund" CorrectedRequest
        "Body is not a valid refund"
        "Correct the fields that errors lists. This request has not used the key: send the corrected one with the same \
         key."

    InvalidWebhookEndpoint: BAD_REQUEST "invalid-webhook-endpoint" CorrectedRequest
        "Body is not valid for a webhook endpoint"
        "Correct the fields that errors lists. This request changed nothing, and has not used its key if it has one: send \
         the corrected one with the same key."

    InvalidQuery: BAD_REQUEST "invalid-query" CorrectedRequest
        "Query parameters are not valid"
        "Correct the parameters that errors lists. A request with an Idempotency-Key has not used the key: send the \
         corrected one with the same key."

    Unauthorized: UNAUTHORIZED "unauthorized" CorrectedRequest
        "Authentication required"
        "Send a valid API key: Authorization: Bearer payonce_… This request executed nothing. If an earlier one with \
         the same Idempotency-Key may have been executed, use an API key of the same account."

    RefundRefused: PAYMENT_REQUIRED "refund-refused" NewKey
        "Refund refused"
        "A payment is never refunded beyond its amount; refundable is what was left. This refusal is stored: nothing is \
         ever refunded with this key. To refund what is left, send another request with a new key."

    TooManyWebhookEndpoints: PAYMENT_REQUIRED "too-many-webhook-endpoints" NewKey
        "Too many webhook endpoints"
        "An account has at most 50 webhook endpoints. This refusal is stored: nothing is ever created with this key. \
         Delete an endpoint that is not needed (DELETE /webhook-endpoint/{id}), and send the request with a new key."

    NotFound: NOT_FOUND "not-found" None
        "Not found"
        "Check the path, and the id in it. A request with an Idempotency-Key has not used the key."

    MethodNotAllowed: METHOD_NOT_ALLOWED "method-not-allowed" None
        "Method not allowed"
        "The Allow header lists the methods of this path."

    RequestTimeout: REQUEST_TIMEOUT "request-timeout" SameRequest
        "Body did not arrive in time"
        "This request executed nothing. Send it again with the same key."

    KeyInFlight: CONFLICT "idempotency-key-in-flight" SameRequest
        "A request with this key is being executed"
        "Send the same request again with the same key after Retry-After. It gets the response of the first one."

    KeyExpired: GONE "idempotency-key-expired" None
        "Stored response has expired"
        "The request was executed once, and is never executed again. Location is where its result can be read."

    KeyVoided: GONE "idempotency-key-voided" NewKey
        "Idempotency key was voided"
        "The key was voided before a request with it was executed, so none was and none will be. If the request is still \
         wanted, send it with a new key."

    EventsExpired: GONE "events-expired" CorrectedRequest
        "Events after this position were deleted"
        "Read the payments of the missed time with GET /payment. Then continue with oldest_position - 1 as after."

    EventsRewound: GONE "events-rewound" CorrectedRequest
        "Positions of events have begun anew"
        "The database was restored or replaced, or lost commits. Read again from an earlier position, at most \
         last_position, and send the feed of this problem. Skip events whose event_id you have processed."

    BodyTooLarge: PAYLOAD_TOO_LARGE "body-too-large" CorrectedRequest
        "Body is too large"
        "Send a smaller body: the server's BODY_LIMIT is 16 KiB by default. This request has not used the key."

    UnsupportedMediaType: UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" CorrectedRequest
        "Unsupported media type"
        "Send JSON in UTF-8 with Content-Type: application/json and no Content-Encoding. This request has not used the \
         key."

    KeyReused: UNPROCESSABLE_ENTITY "idempotency-key-reused" None
        "Idempotency key was used by a different request"
        "A key stands for one request. To retry that request, send it unchanged: members lists the fields that differ. \
         A different request needs a key of its own; find out why this one was used twice."

    TooManyRequests: TOO_MANY_REQUESTS "too-many-requests" SameRequest
        "Too many requests of this account are waiting"
        "This request executed nothing. Send it again, with the same key if it has one, after Retry-After; and send \
         fewer at the same time."

    Internal: INTERNAL_SERVER_ERROR "internal" SameRequest
        "Internal server error"
        "It is safe to send the same request again, with the same key if it has one. If the problem persists, report the \
         instance: the server's log has it with the cause."

    Overloaded: SERVICE_UNAVAILABLE "overloaded" SameRequest
        "Server is overloaded"
        "This request executed nothing. Send it again with the same key after Retry-After."

    ShuttingDown: SERVICE_UNAVAILABLE "shutting-down" SameRequest
        "Server is shutting down"
        "The server responds for a moment longer, and closes each connection with its response. Send further requests to \
         another server."

    WebhooksNotConfigured: SERVICE_UNAVAILABLE "webhooks-not-configured" SameRequest
        "Webhooks are not configured"
        "Signing secrets are stored encrypted, and this server has no key for that. Its operator makes one with openssl \
         rand -base64 32, and sets WEBHOOK_SECRET at every server. This request executed nothing: send it again \
         afterwards, with the same key."

    DatabaseUnavailable: SERVICE_UNAVAILABLE "database-unavailable" SameRequest
        "Database is unavailable"
        "This request executed nothing. Send it again, with the same key if it has one, after Retry-After. If an earlier \
         request with that key was executed, the retry gets its response."

    NotExecuted: SERVICE_UNAVAILABLE "not-executed" SameRequest
        "Database did not execute this request"
        "This request executed nothing. Send it again with the same key after Retry-After."

    OutcomeUnknown: SERVICE_UNAVAILABLE "outcome-unknown" SameRequest
        "Outcome is not known yet"
        "Send the same request again with the same key after Retry-After. It is executed if it was not, and gets the \
         stored response if it was."
}

impl Kind {
    /// The kind with this code.
    #[must_use]
    pub fn of_code(code: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.entry().code == code)
    }
}
