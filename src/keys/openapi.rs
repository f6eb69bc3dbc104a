//! Idempotency keys in the description of the API.

use serde_json::{Value, json};

use crate::{
    idempotency::BatchCommand,
    openapi::{
        operation::{Body, CALLED, COMMITTED, KEYED, Operation, READ, ok},
        part::{Part, TRANSACTION_ID},
        responses::Content::Json,
        schemas::{or_null, response, text},
    },
    payments::command::CreatePayment,
    refunds::command::CreateRefund,
    webhooks::command::{CreateEndpoint, ReplayEvents, RotateSecret},
};

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "get",
            path: "/idempotency-key",
            tag: "keys",
            id: "showIdempotencyKey",
            summary: "Look up the outcome of the request with this key",
            description: "`unknown` is no promise: the request may still arrive. Voiding the key makes it one.",
            parameters: &["IdempotencyKey"],
            body: Body::None,
            successes: &[ok("The state of the key.", Json("KeyState"), &["Idempotency-Key"])],
            problems: &[CALLED, KEYED, READ],
        },
        Operation {
            method: "post",
            path: "/idempotency-key/void",
            tag: "keys",
            id: "voidIdempotencyKey",
            summary: "Void this key, so that a late request with it is never executed",
            description: "If a request with the key was executed before, nothing changes. The response says which of the \
                          two happened; exactly one of them does.",
            parameters: &["IdempotencyKey"],
            body: Body::Optional("Nothing"),
            successes: &[ok("The state of the key.", Json("KeyState"), &["Idempotency-Key"])],
            problems: &[CALLED, KEYED, COMMITTED],
        },
        Operation {
            method: "get",
            path: "/idempotency-policy",
            tag: "about",
            id: "showIdempotencyPolicy",
            summary: "Get this server's rules for keys",
            description: "From the server's settings. Times are in seconds; null is permanent.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("The policy.", Json("IdempotencyPolicy"), &[])],
            problems: &[],
        },
    ],
    schemas,
    examples,
};

/// The names of all operations with a key.
const OPERATIONS: [Option<&str>; 6] = [
    Some(CreatePayment::OPERATION.as_str()),
    Some(CreateRefund::OPERATION.as_str()),
    Some(CreateEndpoint::OPERATION.as_str()),
    Some(RotateSecret::OPERATION.as_str()),
    Some(ReplayEvents::OPERATION.as_str()),
    None,
];

fn schemas() -> Value {
    json!({
        "Nothing": { "type": "object", "additionalProperties": false, "maxProperties": 0 },
        "KeyState": response(&[], json!({
            "state": {
                "enum": ["unknown", "completed", "refused", "expired", "voided"],
                "description": "`expired`: executed once, and its response is no longer stored. `unknown` is no promise. \
                                Fields that do not apply to a state are null."
            },
            "operation": { "enum": OPERATIONS },
            "execution_id": { "type": ["string", "null"], "format": "uuid" },
            "resource": {
                "type": ["string", "null"], "format": "uri-reference",
                "description": "The path of the payment that was created or refunded, or of the webhook endpoint. Null if it was deleted."
            },
            "status": { "enum": [200, 201, 402, 404, null], "description": "The status of the first response." },
            "first_used_at": or_null("Timestamp"),
            "replayable_until": or_null("Timestamp"),
            "detail": text("The meaning of the state, for people.")
        })),
        "IdempotencyPolicy": policy()
    })
}

fn policy() -> Value {
    let seconds =
        |text: &str| json!({ "type": "number", "exclusiveMinimum": 0, "description": text });
    let ttl = |text: &str| json!({ "type": ["number", "null"], "exclusiveMinimum": 0, "description": text });
    let texts =
        |text: &str| json!({ "type": "array", "items": { "type": "string" }, "description": text });
    response(
        &[],
        json!({
            "key_header": text("The header of the key."),
            "key_forms": texts("The ways to write a key."),
            "key_min_length": { "type": "integer", "minimum": 1 },
            "key_max_length": { "type": "integer", "description": "Without quotes and escapes." },
            "key_characters": text("A character class of regular expressions."),
            "bare_key_characters": text("The same for keys without quotes."),
            "scope": { "const": "account", "description": "Accounts do not share keys." },
            "shared_by_operations": {
                "const": true, "description": "A refund with the key of a payment is `422 idempotency-key-reused`."
            },
            "compared": texts("What makes two requests the same."),
            "not_compared": texts("What two requests with one key may differ in."),
            "responses_replayable_seconds": ttl("Lifetime of a stored success; then `410`. Null is permanent."),
            "keys_kept_seconds": ttl("Lifetime of a key, and of its stored refusal. Null is permanent."),
            "replay_header": text("The header that is `true` on a replay."),
            "replay_status_of_201": { "enum": [200, 201], "description": "The status of the replay of a `201`." },
            "in_flight_wait_seconds": {
                "type": "number", "minimum": 0,
                "description": "Time that a request waits for another server that executes its key, before `409`."
            },
            "request_deadline_seconds": seconds("Time within which a request gets its response."),
            "max_body_bytes": { "type": "integer" },
            "retry": {
                "type": "object",
                "description": "The statuses of each `retry` of a problem. No response at all is `same_request`.",
                "additionalProperties": { "type": "array", "items": { "type": "integer" } }
            },
            "detail": text("The same in words.")
        }),
    )
}

fn examples() -> Value {
    json!({
        "Nothing": {},
        "KeyState": {
            "state": "completed", "operation": "pay", "execution_id": TRANSACTION_ID,
            "resource": format!("/payment/{TRANSACTION_ID}"), "status": 201,
            "first_used_at": "2026-11-24T09:00:00.000Z", "replayable_until": "2026-11-25T09:00:00.000Z",
            "detail": "The request was executed once. Sent again with this key, it gets the stored response."
        },
        "IdempotencyPolicy": {
            "key_header": "Idempotency-Key", "key_forms": ["structured_field_string", "bare"], "key_min_length": 1,
            "key_max_length": 255, "key_characters": "[ -~]", "bare_key_characters": r"[!#-+\--:<-~]",
            "scope": "account", "shared_by_operations": true,
            "compared": ["operation", "path_parameters", "members"],
            "not_compared": ["white_space", "member_order", "escapes", "other_headers"],
            "responses_replayable_seconds": 86400, "keys_kept_seconds": null, "replay_header": "Idempotent-Replayed",
            "replay_status_of_201": 200, "in_flight_wait_seconds": 2, "request_deadline_seconds": 10,
            "max_body_bytes": 16384, "retry": {
                "same_request": [408, 409, 429, 500, 503], "corrected_request": [400, 401, 404, 410, 413, 415],
                "new_key": [402, 404, 410], "none": [404, 405, 410, 422]
            },
            "detail": "Send 1 to 255 printable ASCII characters in Idempotency-Key: …"
        }
    })
}
