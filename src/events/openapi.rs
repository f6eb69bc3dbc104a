//! Events in the description of the API.

use serde_json::{Value, json};

use super::EventType;
use crate::{
    http::problem::Kind,
    openapi::{
        operation::{Body, CALLED, Operation, READ, ok},
        part::{Part, REFUND_ID, TRANSACTION_ID},
        responses::Content::Json,
        schemas::{recorded, reference, response, uuid},
    },
    payments::{list::MAX_LIMIT, money::Amount},
};

/// The feed of all examples.
pub(crate) const FEED: &str = "5f0c3f5c3b1e4a0fb6d0a4f1f7f6a9d2";

pub(crate) const PART: Part = Part {
    operations: &[Operation {
        method: "get",
        path: "/events",
        tag: "events",
        id: "listEvents",
        summary: "Read the feed of events, oldest first",
        description: "Positions of an account begin at 1 and have no gaps, so a consumer without a `type` filter can prove \
                      that it missed nothing. Process a page, store its `next_after` with what you did, and send it as \
                      `after`. Send `feed` as well: a restored database then gets `410 events-rewound` instead of \
                      skipping events. Identify events by `event_id`, which never changes. With a `type` filter, a page \
                      looks through a limited number of events: it may be empty while `next_after` is below \
                      `last_position`.",
        parameters: &["After", "Limit", "EventTypes", "Feed", "Wait"],
        body: Body::None,
        successes: &[ok("A page.", Json("EventPage"), &[])],
        problems: &[CALLED, READ, &[Kind::InvalidQuery, Kind::EventsExpired, Kind::EventsRewound]],
    }],
    schemas,
    examples,
};

fn schemas() -> Value {
    let types: Vec<&str> = EventType::ALL.into_iter().map(EventType::name).collect();
    json!({
        "EventType": {
            "type": "string", "enum": types,
            "description": "Later versions add types: ignore unknown ones."
        },
        "Position": {
            "type": "integer", "format": "int64", "minimum": 0,
            "description": "The number of an event in its account, from 1, without gaps; 0 is before the first one."
        },
        "Feed": {
            "type": "string", "pattern": "^[0-9a-f]{32}$",
            "description": "Changes when positions may have begun anew, as after a restored backup or a failover."
        },
        "Event": response(&[], json!({
            "event_id": {
                "type": "string", "pattern": "^evt_[0-9a-f]{32}_[0-9]+$",
                "description": "The same in every page, webhook call and restored database."
            },
            "position": reference("Position"),
            "type": reference("EventType"),
            "timestamp": reference("Timestamp"),
            "data": {
                "oneOf": [reference("PaymentCreatedEvent"), reference("RefundCreatedEvent")],
                "description": "Facts that never change. An event has the same bytes whenever it is read."
            }
        })),
        "PaymentCreatedEvent": response(&[], json!({
            "transaction_id": uuid(),
            "status": recorded(),
            "user_id": reference("UserId"),
            "amount": reference("Amount"),
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "description": "ISO 4217." },
            "created_at": reference("Timestamp")
        })),
        "RefundCreatedEvent": response(&[], json!({
            "refund_id": uuid(),
            "transaction_id": { "type": "string", "format": "uuid", "description": "The payment." },
            "amount": reference("Amount"),
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "description": "The payment's." },
            "refunded_after": {
                "type": "integer", "format": "int64", "minimum": 1, "maximum": Amount::MAX,
                "description": "The sum of the payment's refunds with this one."
            },
            "created_at": reference("Timestamp")
        })),
        "EventPage": response(&[], json!({
            "events": {
                "type": "array", "items": reference("Event"), "maxItems": MAX_LIMIT,
                "description": "Oldest first."
            },
            "next_after": {
                "allOf": [reference("Position")],
                "description": "The position up to which the page has looked: `after` of the next page."
            },
            "last_position": {
                "allOf": [reference("Position")],
                "description": "The position of the account's newest event."
            },
            "feed": reference("Feed"),
            "complete_since": {
                "anyOf": [reference("Timestamp"), { "type": "null" }],
                "description": "Payments and refunds before this time may have no event; null if all have one. It is the \
                                current time while servers run with `EVENTS=off`."
            }
        }))
    })
}

fn examples() -> Value {
    json!({ "EventPage": {
        "events": [
            {
                "event_id": format!("evt_{}_1", TRANSACTION_ID.replace('-', "")), "position": 1,
                "type": "payment.created", "timestamp": "2026-11-24T09:00:00.000Z",
                "data": {
                    "transaction_id": TRANSACTION_ID, "status": "success", "user_id": "user_1", "amount": 100,
                    "currency": "USD", "created_at": "2026-11-24T09:00:00.000Z"
                }
            },
            {
                "event_id": format!("evt_{}_2", REFUND_ID.replace('-', "")), "position": 2,
                "type": "refund.created", "timestamp": "2026-11-24T10:00:00.000Z",
                "data": {
                    "refund_id": REFUND_ID, "transaction_id": TRANSACTION_ID, "amount": 40, "currency": "USD",
                    "refunded_after": 40, "created_at": "2026-11-24T10:00:00.000Z"
                }
            }
        ],
        "next_after": 2, "last_position": 2, "feed": FEED, "complete_since": null
    } })
}
