//! The described responses: their headers, and the problems from their table.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{part::example_of as example_of_schema, schemas};
use crate::{
    events,
    http::{
        json,
        problem::{Entry, FeedState, FieldError, Kind, Problem, Retry},
    },
    payments, refunds, webhooks,
};

/// Examples of a stored `not-found`.
const UNKNOWN_PAYMENT: &str = "refund-of-unknown-payment";
const UNKNOWN_ENDPOINT: &str = "change-of-unknown-webhook-endpoint";

/// A response besides problems.
pub(crate) struct Success {
    pub(crate) status: u16,
    pub(crate) means: &'static str,
    pub(crate) content: Content,
    /// By their names in [`headers`].
    pub(crate) headers: &'static [&'static str],
}

/// The body of a response.
pub(crate) enum Content {
    /// JSON of the schema of this name, which has an example.
    Json(&'static str),
    /// Text of one of these media types.
    Text(&'static [&'static str]),
    /// No body.
    Nothing,
}

impl Success {
    pub(super) fn described(&self) -> Value {
        let content = match self.content {
            Content::Json(schema) => json(schema),
            Content::Text(types) => types
                .iter()
                .map(|text| (*text, json!({ "schema": { "type": "string" } })))
                .collect(),
            Content::Nothing => json!({}),
        };
        described(self.means, self.headers, &content)
    }
}

/// A body of JSON.
pub(super) fn json(schema: &str) -> Value {
    json!({ "application/json": {
        "schema": schemas::reference(schema), "example": example_of_schema(schema)
    } })
}

fn described(means: &str, names: &[&str], content: &Value) -> Value {
    let always = ["Cache-Control", "X-Request-Id?"];
    let headers: Map<String, Value> = always.iter().chain(names).map(|name| header(name)).collect();
    json!({ "description": means, "headers": headers, "content": content })
}

/// A header by its name, which ends with `?` if the header is optional.
fn header(name: &str) -> (String, Value) {
    let component = name.replace('?', "-where-there-is-one");
    let reference = json!({ "$ref": format!("#/components/headers/{component}") });
    (name.trim_end_matches('?').to_owned(), reference)
}

/// Every response header with a meaning for clients of this API.
pub(super) fn headers() -> Value {
    let text = json!({ "type": "string" });
    let key = schemas::idempotency_key();
    let id = json!({ "type": "string", "pattern": "^[A-Za-z0-9._-]{1,64}$" });
    let location = json!({ "type": "string", "format": "uri-reference", "pattern": "^/(payment|webhook-endpoint)/[0-9a-f-]{36}$" });
    let seconds = json!({ "type": "integer", "minimum": 1, "maximum": 10 });
    let replayed = json!({ "type": "string", "enum": ["true", "false"] });
    let described = [
        ("Allow", &text, "The methods of this path."),
        (
            "Cache-Control",
            &text,
            "Permission to cache the response: `no-store` for everything that can change.",
        ),
        ("Content-Security-Policy", &text, "Allows the page its own files only."),
        ("Idempotency-Key", &key, "The key as it was sent."),
        ("Idempotency-Key?", &key, "The key as it was sent, if it is valid."),
        (
            "Idempotency-Key-Expires?",
            &text,
            "The time until which this response can be replayed, as an HTTP date; absent if it never expires.",
        ),
        (
            "Idempotent-Replayed",
            &replayed,
            "`true` if this is a stored response, `false` otherwise.",
        ),
        ("Idempotent-Replayed?", &replayed, "The same, on a stored refusal."),
        ("Location", &location, "The path of the payment or webhook endpoint."),
        (
            "Location?",
            &location,
            "The path of the payment or webhook endpoint that the key created or changed, if any.",
        ),
        (
            "Retry-After",
            &seconds,
            "The number of seconds to wait before the same request is sent again.",
        ),
        (
            "WWW-Authenticate",
            &text,
            "`Bearer`, with `error=\"invalid_token\"` if the API key is not valid (RFC 6750).",
        ),
        ("X-Request-Id?", &id, "The request's own id, if it is valid."),
    ];
    let component = |(name, schema, means): (&str, &Value, &str)| {
        let required = !name.ends_with('?');
        let described = json!({ "description": means, "required": required, "schema": schema });
        (name.replace('?', "-where-there-is-one"), described)
    };
    described.into_iter().map(component).collect()
}

/// The problems of an operation, by status. `keyed` operations echo a key.
pub(super) fn problems(
    tag: &str,
    kinds: impl Iterator<Item = Kind>,
    keyed: bool,
) -> Map<String, Value> {
    let mut by_status = BTreeMap::<u16, Vec<Kind>>::new();
    for kind in kinds {
        by_status.entry(kind.entry().status.as_u16()).or_default().push(kind);
    }
    let described =
        |(status, kinds): (u16, Vec<Kind>)| (status.to_string(), problem(tag, &kinds, keyed));
    by_status.into_iter().map(described).collect()
}

/// The response to the other methods of a path.
pub(super) fn method_not_allowed() -> Value {
    json!({ "$ref": "#/components/responses/MethodNotAllowed" })
}

/// Responses that every path has.
pub(super) fn shared() -> Value {
    let mut other_methods = problem("about", &[Kind::MethodNotAllowed], false);
    if let Some(description) = other_methods.get_mut("description") {
        *description =
            json!("`method-not-allowed`: the response to the other methods of this path.");
    }
    json!({ "MethodNotAllowed": other_methods })
}

fn problem(tag: &str, kinds: &[Kind], keyed: bool) -> Value {
    let entries = || kinds.iter().map(|kind| kind.entry());
    let means: Vec<String> =
        entries().map(|Entry { code, title, .. }| format!("`{code}`: {title}.")).collect();
    let codes: Vec<&str> = entries().map(|entry| entry.code).collect();
    let examples: Map<String, Value> = codes
        .iter()
        .map(|code| {
            let example = match (*code, tag) {
                ("not-found", "payments") if keyed => UNKNOWN_PAYMENT,
                ("not-found", "webhooks") if keyed => UNKNOWN_ENDPOINT,
                _ => code,
            };
            ((*code).to_owned(), json!({ "$ref": format!("#/components/examples/{example}") }))
        })
        .collect();
    let mut headers: Vec<&str> = kinds.iter().flat_map(|kind| headers_of(*kind, keyed)).collect();
    headers.dedup();
    let narrowed = json!({ "properties": { "code": { "enum": codes } } });
    let content = json!({ "application/problem+json": {
        "schema": { "allOf": [schemas::reference("Problem"), narrowed] }, "examples": examples
    } });
    described(&means.join("\n\n"), &headers, &content)
}

fn headers_of(kind: Kind, keyed: bool) -> Vec<&'static str> {
    let mut headers = Vec::new();
    if keyed {
        headers.push("Idempotency-Key?");
    }
    headers.extend(match kind {
        _ if kind.entry().retry == Retry::SameRequest => &["Retry-After"][..],
        Kind::Unauthorized => &["WWW-Authenticate"],
        Kind::MethodNotAllowed => &["Allow"],
        Kind::KeyExpired => &["Location?"],
        Kind::RefundRefused | Kind::TooManyWebhookEndpoints => &["Idempotent-Replayed"],
        Kind::NotFound if keyed => &["Idempotent-Replayed?"],
        _ => &[],
    });
    headers
}

/// An example of every problem.
pub(super) fn problem_examples() -> Value {
    let example = |name: &'static str, problem: Problem| {
        let stored = problem.stored(Uuid::nil());
        let body: Value =
            stored.and_then(|stored| serde_json::from_slice(stored.body())).unwrap_or_default();
        (name, json!({ "summary": problem.kind().entry().title, "value": body }))
    };
    let kinds = Kind::ALL.into_iter().map(|kind| example(kind.entry().code, example_of(kind)));
    let stored = [
        example(UNKNOWN_PAYMENT, refunds::command::no_such_payment()),
        example(UNKNOWN_ENDPOINT, webhooks::command::no_such_endpoint()),
    ];
    kinds.chain(stored).collect()
}

fn example_of(kind: Kind) -> Problem {
    let wrong = |pointer: &str, detail: &str| {
        let error = FieldError { pointer: pointer.to_owned(), detail: detail.to_owned() };
        Problem::new(kind).with_errors(vec![error])
    };
    match kind {
        Kind::MalformedJson => json::malformed(
            "EOF while parsing an object at line 1 column 21",
            payments::http::EXPECTED,
        ),
        Kind::InvalidPayment => {
            wrong("/ammount", "unknown field; expected user_id, amount, currency")
        }
        Kind::InvalidRefund => wrong("", "expected amount or remaining"),
        Kind::InvalidWebhookEndpoint => wrong(
            "/event_types",
            "unknown event type \"payment.deleted\"; expected a list of one or more of payment.created, refund.created, \
             each once; or null for all types",
        ),
        Kind::InvalidQuery => wrong("/limit", "expected a whole number, 1 to 200"),
        Kind::KeyReused => Problem::new(kind).with_members(vec!["amount"]),
        Kind::RefundRefused => Problem::new(kind).with_refundable(60),
        Kind::EventsExpired => feed_problem(kind, Some(1000)),
        Kind::EventsRewound => feed_problem(kind, None),
        _ => Problem::new(kind),
    }
}

fn feed_problem(kind: Kind, oldest_position: Option<i64>) -> Problem {
    let feed = events::openapi::FEED.to_owned();
    Problem::new(kind).with_feed(FeedState { oldest_position, last_position: 2000, feed })
}
