//! What bodies look like.
//!
//! Requests refuse members that they don't know; answers may get more of them.

use serde_json::{Map, Value, json};

use crate::{
    http::problem::{Kind, Retry},
    idempotency::{BatchCommand, IdempotencyKey},
    payments::{
        command::CreatePayment, currency::Currency, list::MAX_LIMIT, money::Amount, user_id::UserId,
    },
    refunds::{command::CreateRefund, refundable::MAX_REFUNDS},
    text::INVISIBLE,
};

pub(super) fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// A key as it stands in its header. Its length is counted without quotes and escapes.
pub(super) fn idempotency_key() -> Value {
    let most = IdempotencyKey::MAX_LENGTH;
    let bare = format!(r"[!#-+\--:<-~]{{1,{most}}}");
    let quoted = format!(r#""(?:[ !#-\[\]-~]|\\["\\]){{1,{most}}}""#);
    json!({ "type": "string", "pattern": format!("^(?:{bare}|{quoted})$"), "minLength": 1, "maxLength": 2 * most + 2 })
}

pub(super) fn schemas() -> Value {
    let mut schemas = shared();
    for described in [requests(), answers(), about()] {
        schemas.extend(described);
    }
    schemas.into()
}

/// Text with a visible character and without controls. Characters beyond U+FFFF, for which regular expressions
/// have no common notation, count as visible here.
fn visible_text() -> String {
    let control = r"\u0000-\u001f\u007f-\u009f";
    let invisible: Vec<String> = INVISIBLE
        .iter()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .filter(|(_, end)| *end <= 0xffff)
        .map(|(start, end)| format!(r"\u{start:04x}-\u{end:04x}"))
        .collect();
    let invisible = invisible.concat();
    format!("^[^{control}]*[^{invisible}][^{control}]*$")
}

fn shared() -> Map<String, Value> {
    let currencies = all_currencies();
    object(json!({
        "UserId": {
            "type": "string", "minLength": 1, "maxLength": UserId::MAX_CHARACTERS,
            "pattern": visible_text(),
            "description": "At least one visible character, no control characters."
        },
        "Amount": {
            "type": "integer", "format": "int64", "minimum": 1, "maximum": Amount::MAX,
            "description": "Minor units: 100 is 1.00 in a currency with cents, and 100 yen. Written without fraction, \
                            exponent and quotes; up to 2^53 − 1, so that no JSON client loses a digit."
        },
        "Currency": {
            "type": "string", "enum": currencies,
            "description": "ISO 4217, in upper case; those that count in minor units and were not withdrawn."
        },
        "Timestamp": {
            "type": "string", "format": "date-time",
            "description": "RFC 3339 in UTC, to the millisecond, by the database's clock."
        }
    }))
}

fn requests() -> Map<String, Value> {
    object(json!({
        "NewPayment": {
            "type": "object", "required": ["user_id", "amount"], "additionalProperties": false,
            "properties": {
                "user_id": reference("UserId"),
                "amount": reference("Amount"),
                "currency": {
                    "allOf": [reference("Currency")],
                    "description": "Where it is missing, the server's `DEFAULT_CURRENCY` of when the request was first read."
                }
            }
        },
        "NewRefund": {
            "type": "object", "additionalProperties": false,
            "properties": {
                "amount": { "allOf": [reference("Amount")], "description": "Refunds this amount." },
                "remaining": { "const": true, "description": "Refunds everything that is left." }
            },
            "minProperties": 1, "maxProperties": 1
        },
        "Nothing": { "type": "object", "additionalProperties": false, "maxProperties": 0 }
    }))
}

fn answers() -> Map<String, Value> {
    let success = json!({ "const": "success", "description": "Recorded here, exactly once." });
    object(json!({
        "PaymentTaken": answer(&["currency"], json!({
            "status": success,
            "transaction_id": uuid(),
            "user_id": reference("UserId"),
            "amount": reference("Amount"),
            "currency": { "allOf": [reference("Currency")], "description": "Where the request named one." }
        })),
        "RefundGiven": answer(&[], json!({
            "status": success,
            "refund_id": uuid(),
            "transaction_id": uuid(),
            "amount": reference("Amount"),
            "currency": { "type": "string", "pattern": "^[A-Z]{3}$", "description": "The payment's (ISO 4217)." }
        })),
        "Payment": answer(&[], json!({
            "transaction_id": uuid(),
            "status": success,
            "user_id": reference("UserId"),
            "amount": reference("Amount"),
            "currency": {
                "type": "string", "pattern": "^[A-Z]{3}$",
                "description": "ISO 4217. One that can be named, or could when the payment was taken."
            },
            "refunded": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": Amount::MAX,
                "description": "The sum of its refunds."
            },
            "refunds": {
                "type": "array", "items": reference("Refund"), "maxItems": MAX_REFUNDS,
                "description": "The oldest first."
            },
            "created_at": reference("Timestamp")
        })),
        "Refund": answer(&[], json!({
            "refund_id": uuid(),
            "amount": reference("Amount"),
            "created_at": reference("Timestamp")
        })),
        "PaymentPage": answer(&[], json!({
            "payments": {
                "type": "array", "items": reference("Payment"), "maxItems": MAX_LIMIT,
                "description": "The newest first."
            },
            "next_cursor": {
                "type": ["string", "null"],
                "description": "What to send as `cursor` for the next page; null on the last."
            }
        })),
        "KeyState": answer(&[], json!({
            "state": {
                "enum": ["unknown", "completed", "refused", "expired", "voided"],
                "description": "`expired`: executed once, and its answer is kept no longer. `unknown` is no promise. What a \
                                state has nothing to say about is null."
            },
            "operation": { "enum": [CreatePayment::OPERATION.as_str(), CreateRefund::OPERATION.as_str(), null] },
            "execution_id": { "type": ["string", "null"], "format": "uuid" },
            "resource": {
                "type": ["string", "null"], "format": "uri-reference",
                "description": "Where what was made can be read."
            },
            "status": { "enum": [201, 402, 404, null], "description": "Of the first answer." },
            "first_used_at": or_null("Timestamp"),
            "replayable_until": or_null("Timestamp"),
            "detail": { "type": "string", "description": "What that means, for people." }
        })),
    }))
}

fn about() -> Map<String, Value> {
    let codes: Vec<&str> = Kind::ALL.iter().map(|kind| kind.entry().code).collect();
    let seconds =
        |means: &str| json!({ "type": "number", "exclusiveMinimum": 0, "description": means });
    let ttl = |means: &str| json!({ "type": ["number", "null"], "exclusiveMinimum": 0, "description": format!("{means} Null is for ever.") });
    let text = |means: &str| json!({ "type": "string", "description": means });
    let texts = |means: &str| json!({ "type": "array", "items": { "type": "string" }, "description": means });
    object(json!({
        "IdempotencyPolicy": answer(&[], json!({
            "key_header": text("Where the key stands."),
            "key_forms": texts("How it may be written."),
            "key_min_length": { "type": "integer", "minimum": 1 },
            "key_max_length": { "type": "integer", "description": "Without quotes and escapes." },
            "key_characters": text("Of a regular expression's character class."),
            "bare_key_characters": text("The same, where the key stands without quotes."),
            "scope": { "const": "account", "description": "Keys of different accounts never meet." },
            "shared_by_operations": {
                "const": true, "description": "A key used for a payment is reused, not new, when a refund sends it."
            },
            "compared": texts("What makes two requests the same."),
            "not_compared": texts("What doesn't matter to that."),
            "answers_replayable_seconds": ttl("How long a successful answer can be replayed; then `410`."),
            "keys_kept_seconds": ttl("How long a key stays used up, and its refusal stored."),
            "replay_header": text("`true` in it tells a replay."),
            "replay_status_of_201": { "enum": [200, 201], "description": "With what status a `201` is replayed." },
            "in_flight_wait_seconds": {
                "type": "number", "minimum": 0,
                "description": "How long a request waits for another server that is executing its key, before `409`."
            },
            "request_deadline_seconds": seconds("When a request is answered at the latest."),
            "max_body_bytes": { "type": "integer" },
            "retry": {
                "type": "object",
                "description": "For each `retry` of a problem, the statuses that say it. No answer at all is `same_request`.",
                "additionalProperties": { "type": "array", "items": { "type": "integer" } }
            },
            "detail": text("The same in words.")
        })),
        "Health": answer(&[], json!({
            "status": { "enum": ["live", "ready"] },
            "version": { "type": "string" }
        })),
        "Description": {
            "type": "object", "required": ["openapi", "info", "paths", "components"],
            "properties": {
                "openapi": { "const": "3.1.0" }, "info": { "type": "object" }, "paths": { "type": "object" },
                "components": { "type": "object" }
            }
        },
        "Problem": answer(&["errors", "members", "refundable"], json!({
            "type": {
                "type": "string", "format": "uri-reference", "pattern": "^/problems/[a-z-]+$",
                "description": "A page for people."
            },
            "title": text("What is wrong."),
            "status": { "type": "integer", "minimum": 400, "maximum": 599 },
            "detail": text("What to do."),
            "instance": {
                "type": "string", "format": "uri", "pattern": "^urn:uuid:[0-9a-f-]{36}$",
                "description": "Stands in the server's log. Of a refusal that is stored, the execution that was refused."
            },
            "code": { "type": "string", "enum": codes, "description": "What programs go by." },
            "error": text("The title again, for simple clients."),
            "retry": {
                "enum": [Retry::SameRequest, Retry::CorrectedRequest, Retry::NewKey, Retry::None],
                "description": "What may be sent next. `same_request`: the very same, with the same key, after `Retry-After`. \
                                `corrected_request`: a corrected one, with the same key; this one executed nothing. `new_key`: nothing was made with this one, nor \
                                will be. `none`: nothing that is sent changes it."
            },
            "errors": {
                "type": "array", "minItems": 1, "items": reference("MemberError"),
                "description": "All that is wrong with the body, or the query."
            },
            "members": {
                "type": "array", "minItems": 1, "items": { "type": "string" },
                "description": "Which members differ from the request that used the key."
            },
            "refundable": {
                "type": "integer", "format": "int64", "minimum": 0, "maximum": Amount::MAX,
                "description": "What could still be given back."
            }
        })),
        "MemberError": answer(&[], json!({
            "pointer": text("A JSON Pointer (RFC 6901); empty for the whole."),
            "detail": text("What was expected.")
        }))
    }))
}

/// An object with all of these members, but for some that may be missing.
fn answer(optional: &[&str], properties: Value) -> Value {
    let properties = object(properties);
    let required = properties.keys().filter(|name| !optional.contains(&name.as_str()));
    let required: Vec<&String> = required.collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}

fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

fn or_null(schema: &str) -> Value {
    json!({ "anyOf": [reference(schema), { "type": "null" }] })
}

fn all_currencies() -> Vec<&'static str> {
    let letters = || 'A'..='Z';
    let pairs = letters().flat_map(|a| letters().map(move |b| [a, b]));
    let codes = pairs.flat_map(|[a, b]| letters().map(move |c| String::from_iter([a, b, c])));
    codes.filter_map(|code| Currency::from_code(&code)).map(Currency::code).collect()
}
