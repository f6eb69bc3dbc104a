//! An example of each body. The problems' own are in `responses`.

use serde_json::{Value, json};

/// Of the payment in all of them.
pub(super) const TRANSACTION_ID: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// Of its refund.
const REFUND_ID: &str = "01a20b8f-0c3a-7d11-9b57-0e6f2a4c8d35";

/// The example of the schema of this name.
pub(super) fn of(schema: &str) -> Value {
    let created_at = "2026-11-24T09:00:00.000Z";
    let refund =
        json!({ "refund_id": REFUND_ID, "amount": 40, "created_at": "2026-11-24T10:00:00.000Z" });
    let payment = json!({
        "transaction_id": TRANSACTION_ID, "status": "success", "user_id": "user_1", "amount": 100, "currency": "USD",
        "refunded": 40, "refunds": [refund], "created_at": created_at
    });
    match schema {
        "NewPayment" => json!({ "user_id": "user_1", "amount": 100 }),
        "NewRefund" => json!({ "amount": 40 }),
        "PaymentTaken" => json!({
            "status": "success", "transaction_id": TRANSACTION_ID, "user_id": "user_1", "amount": 100
        }),
        "RefundGiven" => json!({
            "status": "success", "refund_id": REFUND_ID, "transaction_id": TRANSACTION_ID, "amount": 40,
            "currency": "USD"
        }),
        "Payment" => payment,
        "PaymentPage" => json!({ "payments": [payment], "next_cursor": null }),
        "KeyState" => json!({
            "state": "completed", "operation": "pay", "execution_id": TRANSACTION_ID,
            "resource": format!("/payment/{TRANSACTION_ID}"), "status": 201, "first_used_at": created_at,
            "replayable_until": "2026-11-25T09:00:00.000Z",
            "detail": "It was executed, once. The same request with this key gets the stored answer."
        }),
        "Health" => json!({ "status": "ready", "version": env!("CARGO_PKG_VERSION") }),
        "IdempotencyPolicy" => json!({
            "key_header": "Idempotency-Key", "key_forms": ["structured_field_string", "bare"], "key_min_length": 1,
            "key_max_length": 255, "key_characters": "[ -~]", "bare_key_characters": r"[!#-+\--:<-~]", "scope": "account",
            "shared_by_operations": true, "compared": ["operation", "path_parameters", "members"],
            "not_compared": ["white_space", "member_order", "escapes", "other_headers"],
            "answers_replayable_seconds": 86400, "keys_kept_seconds": null, "replay_header": "Idempotent-Replayed",
            "replay_status_of_201": 200, "in_flight_wait_seconds": 2, "request_deadline_seconds": 10,
            "max_body_bytes": 16384, "retry": {
                "same_request": [408, 409, 429, 500, 503], "corrected_request": [400, 401, 404, 413, 415],
                "new_key": [402, 404, 410], "none": [404, 405, 410, 422]
            },
            "detail": "Send 1 to 255 printable ASCII characters in Idempotency-Key: …"
        }),
        "Description" => json!({ "openapi": "3.1.0", "info": {}, "paths": {}, "components": {} }),
        _ => json!({}),
    }
}
