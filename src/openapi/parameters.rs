//! The parameters of requests, besides their bodies.

use serde_json::{Value, json};

use super::{
    page,
    part::{ENDPOINT_ID, TRANSACTION_ID},
    schemas,
};
use crate::{
    http::problem::Kind,
    payments::list::{DEFAULT_LIMIT, MAX_LIMIT},
};

pub(super) fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/parameters/{name}") })
}

/// Every parameter.
pub(super) fn parameters() -> Value {
    let codes: Vec<&str> = Kind::ALL.iter().map(|kind| kind.entry().code).collect();
    json!({
        "IdempotencyKey": {
            "name": "Idempotency-Key", "in": "header", "required": true,
            "description": "Names the request: a new random one for each that you intend, and the same one whenever you \
                            send the same request. In double quotes (a Structured Field String, RFC 9651) or bare, \
                            without space, comma, semicolon and quote; `\"k\"` and `k` are the same key.",
            "schema": schemas::idempotency_key(),
            "example": "12345-unique-key"
        },
        "RequestId": {
            "name": "X-Request-Id", "in": "header",
            "description": "Your own id for this request: 1 to 64 of `A-Za-z0-9._-` are echoed and logged, and used for \
                            nothing else. Others are ignored.",
            "schema": { "type": "string" }
        },
        "TransactionId": {
            "name": "transaction_id", "in": "path", "required": true,
            "schema": { "type": "string", "format": "uuid" },
            "example": TRANSACTION_ID
        },
        "EndpointId": {
            "name": "endpoint_id", "in": "path", "required": true,
            "schema": { "type": "string", "format": "uuid" },
            "example": ENDPOINT_ID
        },
        "UserId": {
            "name": "user_id", "in": "query",
            "description": "Whose payments; all of the account, where nothing is said.",
            "schema": schemas::reference("UserId")
        },
        "Limit": {
            "name": "limit", "in": "query",
            "description": "How many at most.",
            "schema": { "type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT }
        },
        "Cursor": {
            "name": "cursor", "in": "query",
            "description": "The `next_cursor` of the page before, as it came.",
            "schema": { "type": "string" }
        },
        "After": {
            "name": "after", "in": "query",
            "description": "The position after which the page begins: the `next_after` of the page before.",
            "schema": { "type": "integer", "format": "int64", "minimum": 0, "default": 0 }
        },
        "EventTypes": {
            "name": "type", "in": "query", "explode": false,
            "description": "Only events of these types, separated by commas; all, if absent.",
            "schema": { "type": "array", "minItems": 1, "items": schemas::reference("EventType") }
        },
        "Feed": {
            "name": "feed", "in": "query",
            "description": "The `feed` of the page before. If it has changed, the response is `410 events-rewound`.",
            "schema": schemas::reference("Feed")
        },
        "Wait": {
            "name": "wait", "in": "query",
            "description": "Seconds to wait for an event if there is none (long poll), in addition to the server's \
                            `REQUEST_DEADLINE`. The response comes earlier if an event does, if too many requests \
                            wait, or if the server stops.",
            "schema": { "type": "integer", "minimum": 0, "maximum": 30, "default": 0 }
        },
        "Code": {
            "name": "code", "in": "path", "required": true,
            "schema": { "type": "string", "enum": codes }
        },
        "File": {
            "name": "file", "in": "path", "required": true,
            "schema": { "type": "string", "enum": page::FILES }
        }
    })
}
