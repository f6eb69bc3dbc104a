//! Payments in the description of the API.

use serde_json::{Value, json};

use super::{
    currency::{self, Currency},
    list::MAX_LIMIT,
    money::Amount,
    user_id::UserId,
};
use crate::{
    http::problem::Kind,
    openapi::{
        operation::{
            Body, CALLED, COMMITTED, EXECUTED, KEYED, Operation, READ, created, ok, replay,
        },
        part::{Part, REFUND_ID, TRANSACTION_ID},
        responses::Content::Json,
        schemas::{recorded, reference, response, uuid, visible_text},
    },
    refunds::refundable::MAX_REFUNDS,
};

pub(crate) const PART: Part = Part {
    operations: &[
        Operation {
            method: "post",
            path: "/payment",
            tag: "payments",
            id: "createPayment",
            summary: "Create a payment, once",
            description: "Send the example, and send it again: the second response is the first one, with \
                          `Idempotent-Replayed: true`, and one payment exists. White space, the order of fields and \
                          escapes do not change a request. Naming the default currency does.",
            parameters: &["IdempotencyKey"],
            body: Body::Required("NewPayment"),
            successes: &[replay("PaymentCreated"), created("PaymentCreated")],
            problems: &[CALLED, KEYED, COMMITTED, EXECUTED, &[Kind::InvalidPayment]],
        },
        Operation {
            method: "get",
            path: "/payment",
            tag: "payments",
            id: "listPayments",
            summary: "List payments, newest first",
            description: "Send `next_cursor` as `cursor`, with the same other parameters, until it is null. All pages \
                          together show every payment that existed at the first one, once. Unknown and repeated \
                          parameters are refused. A page has fewer payments than `limit` if these have more than 1 000 \
                          refunds.",
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
            summary: "Get a payment with its refunds",
            description: "An id that is not a UUID, and a payment of another account, are not found.",
            parameters: &["TransactionId"],
            body: Body::None,
            successes: &[ok("The payment.", Json("Payment"), &[])],
            problems: &[CALLED, READ, &[Kind::NotFound]],
        },
    ],
    schemas,
    examples,
};

fn schemas() -> Value {
    let currencies: Vec<&str> = currency::all().map(Currency::code).collect();
    json!({
        "UserId": {
            "type": "string", "minLength": 1, "maxLength": UserId::MAX_CHARACTERS,
            "pattern": visible_text(),
            "description": "At least one visible character, no control characters."
        },
        "Amount": {
            "type": "integer", "format": "int64", "minimum": 1, "maximum": Amount::MAX,
            "description": "Minor units: 100 is 1.00 in a currency with cents, and 100 yen. Written without fraction, \
                            exponent and quotes. At most 2^53 − 1, so that no JSON client loses a digit."
        },
        "Currency": {
            "type": "string", "enum": currencies,
            "description": "ISO 4217, in upper case: the currencies that have minor units and were not withdrawn."
        },
        "NewPayment": {
            "type": "object", "required": ["user_id", "amount"], "additionalProperties": false,
            "properties": {
                "user_id": reference("UserId"),
                "amount": reference("Amount"),
                "currency": {
                    "allOf": [reference("Currency")],
                    "description": "The default is the server's `DEFAULT_CURRENCY` when it first reads the request."
                }
            }
        },
        "PaymentCreated": response(&["currency"], json!({
            "status": recorded(),
            "transaction_id": uuid(),
            "user_id": reference("UserId"),
            "amount": reference("Amount"),
            "currency": { "allOf": [reference("Currency")], "description": "Present if the request named one." }
        })),
        "Payment": response(&[], json!({
            "transaction_id": uuid(),
            "status": recorded(),
            "user_id": reference("UserId"),
            "amount": reference("Amount"),
            "currency": {
                "type": "string", "pattern": "^[A-Z]{3}$",
                "description": "ISO 4217. A payment keeps a currency that is withdrawn later."
            },
            "refunded": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": Amount::MAX,
                "description": "The sum of its refunds."
            },
            "refunds": {
                "type": "array", "items": reference("Refund"), "maxItems": MAX_REFUNDS,
                "description": "Oldest first."
            },
            "created_at": reference("Timestamp")
        })),
        "PaymentPage": response(&[], json!({
            "payments": {
                "type": "array", "items": reference("Payment"), "maxItems": MAX_LIMIT,
                "description": "Newest first."
            },
            "next_cursor": {
                "type": ["string", "null"],
                "description": "The `cursor` of the next page; null on the last one."
            }
        }))
    })
}

fn examples() -> Value {
    let refund =
        json!({ "refund_id": REFUND_ID, "amount": 40, "created_at": "2026-11-24T10:00:00.000Z" });
    let payment = json!({
        "transaction_id": TRANSACTION_ID, "status": "success", "user_id": "user_1", "amount": 100,
        "currency": "USD", "refunded": 40, "refunds": [refund], "created_at": "2026-11-24T09:00:00.000Z"
    });
    json!({
        "NewPayment": { "user_id": "user_1", "amount": 100 },
        "PaymentCreated": {
            "status": "success", "transaction_id": TRANSACTION_ID, "user_id": "user_1", "amount": 100
        },
        "Payment": payment,
        "PaymentPage": { "payments": [payment], "next_cursor": null }
    })
}
