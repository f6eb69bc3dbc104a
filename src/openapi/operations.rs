//! Every operation: an entry for each route of [`routes`](crate::routes) and method but HEAD.

use serde_json::{Map, Value, json};

use super::{
    parameters,
    responses::{
        self,
        Content::{self, Json, Text},
        Success,
    },
};
use crate::http::problem::Kind;

struct Operation {
    method: &'static str,
    path: &'static str,
    tag: &'static str,
    id: &'static str,
    summary: &'static str,
    description: &'static str,
    /// By their names in `parameters`; `X-Request-Id` is everybody's.
    parameters: &'static [&'static str],
    body: Body,
    successes: &'static [Success],
    problems: &'static [&'static [Kind]],
}

/// A body, by the name of its schema.
enum Body {
    None,
    Optional(&'static str),
    Required(&'static str),
}

/// Of whatever asks who is calling, and the database.
const CALLED: &[Kind] = &[Kind::Unauthorized, Kind::Internal, Kind::DatabaseUnavailable];

/// Of whatever reads.
const READ: &[Kind] = &[Kind::TooManyRequests];

/// Of whatever reads the key.
const KEYED: &[Kind] = &[Kind::KeyMissing, Kind::KeyInvalid];

/// Of whatever waits for its key's turn.
const COMMITTED: &[Kind] = &[
    Kind::InvalidQuery,
    Kind::MalformedJson,
    Kind::RequestTimeout,
    Kind::KeyInFlight,
    Kind::BodyTooLarge,
    Kind::UnsupportedMediaType,
    Kind::TooManyRequests,
    Kind::Overloaded,
    Kind::NotExecuted,
    Kind::OutcomeUnknown,
];

/// Of commands.
const EXECUTED: &[Kind] = &[Kind::KeyExpired, Kind::KeyVoided, Kind::KeyReused];

const EXECUTED_HEADERS: &[&str] =
    &["Idempotency-Key", "Idempotent-Replayed", "Idempotency-Key-Expires?", "Location"];

/// What a copy of a request that was executed before gets.
const fn replay(schema: &'static str) -> Success {
    let means = "A copy of a request that was executed before gets its answer, byte for byte.";
    Success { status: 200, means, content: Json(schema), headers: EXECUTED_HEADERS }
}

/// What the request that is executed gets.
const fn created(schema: &'static str) -> Success {
    let means = "Executed. (Its copies, too, where `IDEMPOTENCY_REPLAY_STATUS` is `original`.)";
    Success { status: 201, means, content: Json(schema), headers: EXECUTED_HEADERS }
}

/// What a question gets.
const fn ok(means: &'static str, content: Content, headers: &'static [&'static str]) -> Success {
    Success { status: 200, means, content, headers }
}

const OPERATIONS: [Operation; 15] = [
    Operation {
        method: "post",
        path: "/payment",
        tag: "payments",
        id: "takePayment",
        summary: "Take a payment, once",
        description: "Send the example, and send it again: the second answer is the first one's, with \
                      `Idempotent-Replayed: true`, and one payment was made. White space, the order of members and \
                      escapes make no other request of it; naming the default currency does.",
        parameters: &["IdempotencyKey"],
        body: Body::Required("NewPayment"),
        successes: &[replay("PaymentTaken"), created("PaymentTaken")],
        problems: &[CALLED, KEYED, COMMITTED, EXECUTED, &[Kind::InvalidPayment]],
    },
    Operation {
        method: "get",
        path: "/payment",
        tag: "payments",
        id: "listPayments",
        summary: "List payments, the newest first",
        description: "Send `next_cursor` as `cursor`, with the rest of the query as it was, until it is null: that \
                      shows every payment that was there at the beginning once. Unknown and repeated parameters are \
                      refused. A page has fewer payments than `limit` where these have more than 1 000 refunds together.",
        parameters: &["UserId", "Limit", "Cursor"],
        body: Body::None,
        successes: &[ok("A page.", Json("PaymentPage"), &[])],
        problems: &[CALLED, READ, &[Kind::InvalidQuery]],
    },
    Operation {
        method: "get",
        path: "/payment/{transaction_id}",
        tag: "payments",
        id: "showPayment",
        summary: "Show a payment, with its refunds",
        description: "An id that is no UUID, and another account's payment, are not found.",
        parameters: &["TransactionId"],
        body: Body::None,
        successes: &[ok("The payment, as it is now.", Json("Payment"), &[])],
        problems: &[CALLED, READ, &[Kind::NotFound]],
    },
    Operation {
        method: "post",
        path: "/payment/{transaction_id}/refund",
        tag: "payments",
        id: "refundPayment",
        summary: "Refund a payment, in part or in full, once",
        description: "Never more than was paid. `amount` refunds a part; `{\"remaining\": true}` refunds everything that is \
                      left. A body with neither is refused, so that an amount lost on the way never becomes a full \
                      refund. A `402`, and the `404` of a payment that this account does not have, are stored: the same \
                      key gets the same refusal permanently. A payment takes up to 100 refunds; the last must be of \
                      everything that is left.",
        parameters: &["TransactionId", "IdempotencyKey"],
        body: Body::Required("NewRefund"),
        successes: &[replay("RefundGiven"), created("RefundGiven")],
        problems: &[
            CALLED,
            KEYED,
            COMMITTED,
            EXECUTED,
            &[Kind::InvalidRefund, Kind::RefundRefused, Kind::NotFound],
        ],
    },
    Operation {
        method: "get",
        path: "/idempotency-key",
        tag: "keys",
        id: "showIdempotencyKey",
        summary: "Say what became of the request with this key",
        description: "`unknown` is no promise: the request may still be on its way. Voiding the key makes it one.",
        parameters: &["IdempotencyKey"],
        body: Body::None,
        successes: &[ok("What the key stands for.", Json("KeyState"), &["Idempotency-Key"])],
        problems: &[CALLED, KEYED, READ],
    },
    Operation {
        method: "post",
        path: "/idempotency-key/void",
        tag: "keys",
        id: "voidIdempotencyKey",
        summary: "Use this key up, so that a late original can never execute",
        description: "Unless a request with it was executed. The answer says which of the two it was, and exactly one \
                      of them happens, whatever races.",
        parameters: &["IdempotencyKey"],
        body: Body::Optional("Nothing"),
        successes: &[ok(
            "Voided, or what the key did before.",
            Json("KeyState"),
            &["Idempotency-Key"],
        )],
        problems: &[CALLED, KEYED, COMMITTED],
    },
    Operation {
        method: "get",
        path: "/idempotency-policy",
        tag: "about",
        id: "showIdempotencyPolicy",
        summary: "Say how this server treats keys",
        description: "From the configuration that it runs with. Times are in seconds; null is for ever.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("The policy.", Json("IdempotencyPolicy"), &[])],
        problems: &[],
    },
    Operation {
        method: "get",
        path: "/problems",
        tag: "about",
        id: "listProblems",
        summary: "List the problems, for people",
        description: "Each has a page of its own.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("A page.", Text(&["text/html"]), &["Content-Security-Policy"])],
        problems: &[],
    },
    Operation {
        method: "get",
        path: "/problems/{code}",
        tag: "about",
        id: "showProblem",
        summary: "Say what a problem means and what to do, for people",
        description: "The page that the `type` of a problem names.",
        parameters: &["Code"],
        body: Body::None,
        successes: &[ok("A page.", Text(&["text/html"]), &["Content-Security-Policy"])],
        problems: &[&[Kind::NotFound]],
    },
    Operation {
        method: "get",
        path: "/health/live",
        tag: "about",
        id: "showLiveness",
        summary: "Say whether the process is up",
        description: "It asks nobody.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("It is.", Json("Health"), &[])],
        problems: &[],
    },
    Operation {
        method: "get",
        path: "/health/ready",
        tag: "about",
        id: "showReadiness",
        summary: "Say whether it can do its work",
        description: "The database can be reached, is migrated at least as far as this version needs, and the server is not \
                      about to stop.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("It can.", Json("Health"), &[])],
        problems: &[&[Kind::Internal, Kind::DatabaseUnavailable, Kind::ShuttingDown]],
    },
    Operation {
        method: "get",
        path: "/metrics",
        tag: "about",
        id: "showMetrics",
        summary: "Say what it has done, for Prometheus",
        description: "Here for programs on the server's own machine, or with `METRICS_TOKEN` as bearer token; and not \
                      here at all where `METRICS_ADDRESS` is set.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("Prometheus' text format.", Text(&["text/plain"]), &[])],
        problems: &[&[Kind::Unauthorized, Kind::NotFound, Kind::Internal]],
    },
    Operation {
        method: "get",
        path: "/openapi.json",
        tag: "about",
        id: "showDescription",
        summary: "Describe this API, for programs",
        description: "OpenAPI 3.1: this.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("The description.", Json("Description"), &[])],
        problems: &[],
    },
    Operation {
        method: "get",
        path: "/docs",
        tag: "about",
        id: "showDocumentation",
        summary: "A page to try this API on",
        description: "For people.",
        parameters: &[],
        body: Body::None,
        successes: &[ok("The page.", Text(&["text/html"]), &["Content-Security-Policy"])],
        problems: &[],
    },
    Operation {
        method: "get",
        path: "/docs/{file}",
        tag: "about",
        id: "showDocumentationFile",
        summary: "What that page consists of",
        description: "Script and style.",
        parameters: &["File"],
        body: Body::None,
        successes: &[ok("The file.", Text(&["text/javascript", "text/css"]), &[])],
        problems: &[&[Kind::NotFound]],
    },
];

impl Operation {
    fn described(&self) -> Value {
        let kinds = || self.problems.iter().copied().flatten().copied();
        let authenticated = kinds().any(|kind| kind == Kind::Unauthorized);
        let security = match self.path {
            "/metrics" => json!([{}, { "metrics_token": [] }]),
            _ if authenticated => json!([{}, { "api_key": [] }]),
            _ => json!([]),
        };
        let keyed = self.parameters.contains(&"IdempotencyKey");
        let parameters: Vec<Value> = self
            .parameters
            .iter()
            .chain(&["RequestId"])
            .map(|name| parameters::reference(name))
            .collect();
        let mut responses: Map<String, Value> = self
            .successes
            .iter()
            .map(|success| (success.status.to_string(), success.described()))
            .collect();
        responses.append(&mut responses::problems(kinds(), keyed));
        responses.insert("405".to_owned(), responses::method_not_allowed());
        let body = match self.body {
            Body::None => None,
            Body::Optional(schema) => Some((schema, false)),
            Body::Required(schema) => Some((schema, true)),
        };
        let described = [
            ("operationId", Some(json!(self.id))),
            ("tags", Some(json!([self.tag]))),
            ("summary", Some(json!(self.summary))),
            ("description", Some(json!(self.description))),
            ("security", Some(security)),
            ("parameters", Some(json!(parameters))),
            ("requestBody", body.map(|(schema, required)| {
                json!({ "required": required, "content": responses::json(schema) })
            })),
            ("responses", Some(json!(responses))),
        ];
        described.into_iter().filter_map(|(name, said)| Some((name, said?))).collect()
    }
}

/// The operations by path and method.
pub(super) fn paths() -> Value {
    let mut paths = Map::<String, Value>::new();
    for operation in &OPERATIONS {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods.insert(operation.method.to_owned(), operation.described());
        }
    }
    paths.into()
}
