//! Webhook endpoints in the description of the API.

use serde_json::{Value, json};

use super::{
    MAX_URL_LENGTH,
    endpoint::{MAX_DESCRIPTION, MAX_ENDPOINTS},
};
use crate::{
    events::EventType,
    http::problem::Kind,
    openapi::{
        operation::{
            Body, CALLED, COMMITTED, EXECUTED, EXECUTED_HEADERS, KEYED, Operation, READ, created,
            ok, replay,
        },
        part::{ENDPOINT_ID, Part},
        responses::{
            Content::{Json, Nothing},
            Success,
        },
        schemas::{or_null, reference, response, uuid},
    },
};

/// Problems of a change without a key.
const CHANGED: &[Kind] = &[
    Kind::InvalidQuery,
    Kind::RequestTimeout,
    Kind::BodyTooLarge,
    Kind::UnsupportedMediaType,
    Kind::NotFound,
    Kind::OutcomeUnknown,
];

/// The response to a keyed request that creates nothing, and to its retries.
const fn done(schema: &'static str) -> Success {
    Success {
        status: 200,
        means: "Executed; or a retry: the stored response, byte for byte.",
        content: Json(schema),
        headers: EXECUTED_HEADERS,
    }
}

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "post",
            path: "/webhook-endpoint",
            tag: "webhooks",
            id: "createWebhookEndpoint",
            summary: "Create a webhook endpoint, once",
            description: "Events after this moment are sent to the URL, signed as Standard Webhooks define it. The \
                          response shows the signing secret; a retry shows it again, and nothing else ever does. An \
                          account has at most 50 endpoints: more are refused with a stored `402`.",
            parameters: &["IdempotencyKey"],
            body: Body::Required("NewWebhookEndpoint"),
            successes: &[replay("WebhookEndpointCreated"), created("WebhookEndpointCreated")],
            problems: &[
                CALLED,
                KEYED,
                COMMITTED,
                EXECUTED,
                &[
                    Kind::InvalidWebhookEndpoint,
                    Kind::TooManyWebhookEndpoints,
                    Kind::WebhooksNotConfigured,
                ],
            ],
        },
        Operation {
            method: "get",
            path: "/webhook-endpoint",
            tag: "webhooks",
            id: "listWebhookEndpoints",
            summary: "List webhook endpoints, oldest first",
            description: "All of them, each as `GET /webhook-endpoint/{endpoint_id}` shows it.",
            parameters: &[],
            body: Body::None,
            successes: &[ok("The endpoints.", Json("WebhookEndpoints"), &[])],
            problems: &[CALLED, READ],
        },
        Operation {
            method: "get",
            path: "/webhook-endpoint/{endpoint_id}",
            tag: "webhooks",
            id: "showWebhookEndpoint",
            summary: "Get a webhook endpoint, and how its delivery goes",
            description: "An id that is not a UUID, and an endpoint of another account, are not found. The signing \
                          secret is not shown.",
            parameters: &["EndpointId"],
            body: Body::None,
            successes: &[ok("The endpoint.", Json("WebhookEndpoint"), &[])],
            problems: &[CALLED, READ, &[Kind::NotFound]],
        },
        Operation {
            method: "patch",
            path: "/webhook-endpoint/{endpoint_id}",
            tag: "webhooks",
            id: "changeWebhookEndpoint",
            summary: "Change a webhook endpoint",
            description: "Changes the fields in the body, and no others. It needs no key: sent twice, it does the same \
                          as once. Enabling an endpoint that payonce disabled sends everything since; `enabled` as false \
                          stops calls within seconds, and loses nothing that is enabled again within `EVENT_TTL`.",
            parameters: &["EndpointId"],
            body: Body::Required("WebhookEndpointChanges"),
            successes: &[ok("The changed endpoint.", Json("WebhookEndpoint"), &[])],
            problems: &[
                CALLED,
                READ,
                CHANGED,
                &[Kind::MalformedJson, Kind::InvalidWebhookEndpoint],
            ],
        },
        Operation {
            method: "delete",
            path: "/webhook-endpoint/{endpoint_id}",
            tag: "webhooks",
            id: "deleteWebhookEndpoint",
            summary: "Delete a webhook endpoint",
            description: "Nothing more is sent, except for calls that have begun. Sent again, the request is \
                          `404 not-found`.",
            parameters: &["EndpointId"],
            body: Body::None,
            successes: &[Success {
                status: 204,
                means: "Deleted.",
                content: Nothing,
                headers: &[],
            }],
            problems: &[CALLED, READ, CHANGED],
        },
        Operation {
            method: "post",
            path: "/webhook-endpoint/{endpoint_id}/rotate",
            tag: "webhooks",
            id: "rotateWebhookSecret",
            summary: "Replace the signing secret of a webhook endpoint, once",
            description: "For 24 hours each call has a signature by the previous secret as well. A rotation within that \
                          time ends the previous secret. The `404` of an endpoint that this account does not have is \
                          stored.",
            parameters: &["EndpointId", "IdempotencyKey"],
            body: Body::Optional("Nothing"),
            successes: &[done("WebhookSecretRotated")],
            problems: &[
                CALLED,
                KEYED,
                COMMITTED,
                EXECUTED,
                &[Kind::InvalidWebhookEndpoint, Kind::NotFound, Kind::WebhooksNotConfigured],
            ],
        },
        Operation {
            method: "post",
            path: "/webhook-endpoint/{endpoint_id}/replay",
            tag: "webhooks",
            id: "replayWebhookEvents",
            summary: "Send events to a webhook endpoint once more",
            description: "Sends the events from one position to another, of the endpoint's types, with the same \
                          `webhook-id` as before. First deliveries go first. A replay takes the place of one that still \
                          runs. The `404` of an endpoint that this account does not have is stored.",
            parameters: &["EndpointId", "IdempotencyKey"],
            body: Body::Required("WebhookReplay"),
            successes: &[done("WebhookReplaying")],
            problems: &[
                CALLED,
                KEYED,
                COMMITTED,
                EXECUTED,
                &[Kind::InvalidWebhookEndpoint, Kind::NotFound],
            ],
        },
    ],
    schemas,
    examples,
};

/// The fields that requests name.
fn settings() -> Value {
    let types: Vec<&str> = EventType::ALL.map(EventType::name).to_vec();
    json!({
        "url": {
            "type": "string", "format": "uri", "maxLength": MAX_URL_LENGTH,
            "description": "`https://`, without user, password and fragment. All addresses of its host must be public. \
                            `WEBHOOK_ALLOWED_NETWORKS` opens other networks, there also for `http://`."
        },
        "event_types": {
            "type": ["array", "null"], "items": { "type": "string", "enum": types },
            "minItems": 1, "uniqueItems": true,
            "description": "The types of events to send; null for all, also those that later versions add."
        },
        "description": {
            "type": "string", "maxLength": MAX_DESCRIPTION, "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
            "description": "For people."
        },
        "enabled": {
            "type": "boolean",
            "description": "Whether events are sent. An endpoint whose creation does not say is enabled."
        }
    })
}

fn schemas() -> Value {
    let shown = settings();
    let of = |field: &str| shown.get(field).cloned().unwrap_or_default();
    let secret = json!({
        "type": "string", "pattern": "^whsec_[A-Za-z0-9+/]{43}=$",
        "description": "The signing secret, as libraries for Standard Webhooks take it. Store it: it is not shown again."
    });
    json!({
        "NewWebhookEndpoint": {
            "type": "object", "required": ["url"], "additionalProperties": false,
            "properties": settings()
        },
        "WebhookEndpointChanges": {
            "type": "object", "minProperties": 1, "additionalProperties": false,
            "properties": settings()
        },
        "WebhookEndpointCreated": response(&[], json!({
            "endpoint_id": uuid(),
            "url": of("url"),
            "event_types": of("event_types"),
            "description": of("description"),
            "enabled": of("enabled"),
            "created_at": reference("Timestamp"),
            "secret": secret
        })),
        "WebhookEndpoint": response(&[], json!({
            "endpoint_id": uuid(),
            "url": of("url"),
            "event_types": of("event_types"),
            "description": of("description"),
            "enabled": of("enabled"),
            "disabled_reason": {
                "type": ["string", "null"], "enum": ["gone", "failing", null],
                "description": "Why payonce disabled it: it responded with `410`, or accepted nothing for five days."
            },
            "created_at": reference("Timestamp"),
            "behind": response(&[], json!({
                "events": count("Events that were not sent for the first time yet, of all types."),
                "seconds": count("The age of the oldest of them.")
            })),
            "failures": response(&[], json!({
                "open": count("Events that are attempted again."),
                "parked": count("Events that failed at each attempt. Only a replay sends them.")
            })),
            "failing_since": or_null("Timestamp"),
            "last_success_at": or_null("Timestamp"),
            "last_status": {
                "type": ["integer", "null"], "description": "The status of the last response."
            },
            "last_error": {
                "type": ["string", "null"], "description": "Why the last call failed; null if it succeeded."
            },
            "lost": or_null("PositionRange"),
            "replay": or_null("PositionRange"),
            "previous_secret_until": or_null("Timestamp")
        })),
        "WebhookEndpoints": response(&[], json!({
            "webhook_endpoints": {
                "type": "array", "items": reference("WebhookEndpoint"), "maxItems": MAX_ENDPOINTS,
                "description": "Oldest first."
            }
        })),
        "PositionRange": response(&[], json!({
            "from": position("The first position."),
            "to": position("The last one.")
        })),
        "WebhookSecretRotated": response(&[], json!({
            "endpoint_id": uuid(),
            "secret": secret,
            "previous_secret_until": {
                "anyOf": [reference("Timestamp"), { "type": "null" }],
                "description": "Until when the previous secret signs as well; null if it can't be decrypted any more."
            }
        })),
        "WebhookReplay": {
            "type": "object", "required": ["from", "to"], "additionalProperties": false,
            "properties": {
                "from": position("The position of the first event."),
                "to": position("That of the last one: at least `from`, and at most `last_position` of `GET /events`.")
            }
        },
        "WebhookReplaying": response(&[], json!({
            "endpoint_id": uuid(),
            "replay": reference("PositionRange")
        }))
    })
}

fn count(description: &str) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 0, "description": description })
}

fn position(description: &str) -> Value {
    json!({ "type": "integer", "format": "int64", "minimum": 1, "description": description })
}

fn examples() -> Value {
    let (url, event_types) = ("https://example.com/webhooks", json!(["payment.created"]));
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";
    let shown = json!({
        "endpoint_id": ENDPOINT_ID, "url": url, "event_types": event_types, "description": "", "enabled": true,
        "disabled_reason": null, "created_at": "2026-11-24T09:00:00.000Z",
        "behind": { "events": 3, "seconds": 7 }, "failures": { "open": 1, "parked": 0 },
        "failing_since": null, "last_success_at": "2026-11-24T10:00:00.000Z", "last_status": 204, "last_error": null,
        "lost": null, "replay": null, "previous_secret_until": null
    });
    json!({
        "NewWebhookEndpoint": { "url": url, "event_types": event_types },
        "WebhookEndpointChanges": { "enabled": true },
        "WebhookEndpointCreated": {
            "endpoint_id": ENDPOINT_ID, "url": url, "event_types": event_types, "description": "", "enabled": true,
            "created_at": "2026-11-24T09:00:00.000Z", "secret": secret
        },
        "WebhookEndpoint": shown,
        "WebhookEndpoints": { "webhook_endpoints": [shown] },
        "WebhookSecretRotated": {
            "endpoint_id": ENDPOINT_ID, "secret": secret, "previous_secret_until": "2026-11-25T09:00:00.000Z"
        },
        "WebhookReplay": { "from": 1, "to": 100 },
        "WebhookReplaying": { "endpoint_id": ENDPOINT_ID, "replay": { "from": 1, "to": 100 } }
    })
}
