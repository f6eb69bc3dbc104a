//! Refunds in the description of the API.

use serde_json::{Value, json};

use crate::{
    http::problem::Kind,
    openapi::{
        operation::{Body, CALLED, COMMITTED, EXECUTED, KEYED, Operation, created, replay},
        part::{Part, REFUND_ID, TRANSACTION_ID},
        schemas::{recorded, reference, response, uuid},
    },
};

pub(crate) const PART: Part = Part {
    operations: &[Operation {
        method: "post",
        path: "/payment/{transaction_id}/refund",
        tag: "payments",
        id: "createRefund",
        summary: "Refund a payment, in part or in full, once",
        description: "Never more than was paid. `amount` refunds a part; `{\"remaining\": true}` refunds everything that is \
                      left. A body with neither is refused, so that an amount lost on the way never becomes a full \
                      refund. A `402`, and the `404` of a payment that this account does not have, are stored: the same \
                      key gets the same refusal permanently. A payment takes up to 100 refunds; the last must be of \
                      everything that is left.",
        parameters: &["TransactionId", "IdempotencyKey"],
        body: Body::Required("NewRefund"),
        successes: &[replay("RefundCreated"), created("RefundCreated")],
        problems: &[
            CALLED,
            KEYED,
            COMMITTED,
            EXECUTED,
            &[Kind::InvalidRefund, Kind::RefundRefused, Kind::NotFound],
        ],
    }],
    schemas,
    examples,
};

fn schemas() -> Value {
    json!({
        "NewRefund": {
            "type": "object", "additionalProperties": false,
            "properties": {
                "amount": { "allOf": [reference("Amount")], "description": "Refunds this amount." },
                "remaining": { "const": true, "description": "Refunds everything that is left." }
            },
            "minProperties": 1, "maxProperties": 1
        },
        "RefundCreated": response(&[], json!({
            "status": recorded(),
            "refund_id": uuid(),
            "transaction_id": uuid(),
            "amount": reference("Amount"),
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "description": "The payment's (ISO 4217)." }
        })),
        "Refund": response(&[], json!({
            "refund_id": uuid(),
            "amount": reference("Amount"),
            "created_at": reference("Timestamp")
        }))
    })
}

fn examples() -> Value {
    json!({
        "NewRefund": { "amount": 40 },
        "RefundCreated": {
            "status": "success", "refund_id": REFUND_ID, "transaction_id": TRANSACTION_ID, "amount": 40,
            "currency": "USD"
        }
    })
}
