//! `GET /idempotency-key`: the state of a key.

use payonce_testing::{PAYMENT, TestServer, client::Response};
use reqwest::Method;
use serde_json::{Value, json};

/// The fields of a response, except times and texts, which are checked here.
#[track_caller]
pub(crate) fn said(response: &Response) -> Value {
    assert_eq!(response.status, 200, "{}", response.body);
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    let mut said: Value = serde_json::from_str(&response.body).unwrap();
    let members = said.as_object_mut().unwrap();
    let detail = members.remove("detail").unwrap();
    assert!(detail.as_str().unwrap().ends_with(['.', ')']), "{detail}");
    let used = members["state"] != "unknown";
    assert_eq!(members.remove("first_used_at").unwrap().is_string(), used);
    let replayable = members["state"] == "completed";
    assert_eq!(members.remove("replayable_until").unwrap().is_string(), replayable);
    said
}

pub(crate) fn nothing_but(state: &str) -> Value {
    json!({ "state": state, "operation": null, "execution_id": null, "resource": null, "status": null })
}

/// The state of this payment's key.
pub(crate) fn paid(state: &str, id: &str) -> Value {
    json!({
        "state": state, "operation": "pay", "execution_id": id,
        "resource": format!("/payment/{id}"), "status": 201,
    })
}

#[tokio::test]
async fn an_unused_key_is_unknown_and_the_response_warns_that_this_can_change() {
    let server = TestServer::start().await;
    let response = server.state("k").await;
    assert_eq!(said(&response), nothing_but("unknown"));
    assert!(response.field("detail").contains("may still be in progress"), "{}", response.body);
    assert!(response.field("detail").contains("/idempotency-key/void"), "{}", response.body);
    assert_eq!(response.header("idempotency-key"), "k");
    // Reading the state does not use the key.
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn the_key_of_a_payment_is_completed_and_later_expired() {
    let server = TestServer::start().await;
    let id = server.pay("k", PAYMENT).await.field("transaction_id");
    let first = server.state("\"k\"").await;
    assert_eq!(said(&first), paid("completed", &id));
    let stored =
        "SELECT to_char(replayable_until AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
                  FROM idempotency_responses";
    let until: String = server.database.value(stored).await;
    assert_eq!(first.field("replayable_until"), until);
    let used = "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
                FROM idempotency_keys";
    let used: String = server.database.value(used).await;
    assert_eq!(first.field("first_used_at"), used);

    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    assert_eq!(said(&server.state("k").await), paid("expired", &id));
    // The same without the stored response: the fields come from the payment itself.
    server.database.execute("DELETE FROM idempotency_responses").await;
    assert_eq!(said(&server.state("k").await), paid("expired", &id));
}

#[tokio::test]
async fn the_key_of_a_refund_names_the_payment_and_that_of_a_refusal_nothing() {
    let server = TestServer::start().await;
    let payment = server.paid("paid", 100).await;
    let refund = server.refund(&payment, "half", r#"{"amount": 50}"#).await.field("refund_id");
    let made = |state: &str| {
        json!({
            "state": state, "operation": "refund", "execution_id": refund,
            "resource": format!("/payment/{payment}"), "status": 201,
        })
    };
    assert_eq!(said(&server.state("half").await), made("completed"));
    assert_eq!(server.refund(&payment, "more", r#"{"amount": 51}"#).await.status, 402);
    let refused = said(&server.state("more").await);
    assert_eq!((&refused["state"], &refused["status"]), (&json!("refused"), &json!(402)));
    assert_eq!((&refused["operation"], &refused["resource"]), (&json!("refund"), &Value::Null));

    server
        .database
        .execute("DELETE FROM idempotency_responses WHERE replayable_until IS NOT NULL")
        .await;
    assert_eq!(said(&server.state("half").await), made("expired"));
    assert_eq!(said(&server.state("more").await), refused);
}

#[tokio::test]
async fn an_expired_key_is_unknown_even_if_it_was_voided() {
    let server = TestServer::start_with(&["--idempotency-key-ttl", "24h"]).await;
    let voided = server.void("k").await;
    assert!(voided.field("detail").contains("keeps keys for 1day"), "{}", voided.body);
    server
        .database
        .execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
        .await;
    let past = server.state("k").await;
    assert_eq!(said(&past), nothing_but("unknown"));
    let detail = past.field("detail");
    assert!(
        detail.starts_with("Nothing was committed with this key in the last 1day."),
        "{detail}"
    );
    assert!(
        detail.ends_with("This server keeps keys for 1day; after that, a key counts as new."),
        "{detail}"
    );
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn reading_and_voiding_need_a_valid_key() {
    let server = TestServer::start().await;
    for (method, path) in
        [(Method::GET, "/idempotency-key"), (Method::POST, "/idempotency-key/void")]
    {
        let missing = server.request(method.clone(), path, &[], "").await;
        missing.assert_problem(400, "idempotency-key-missing");
        // A new key would not identify the request.
        let detail = missing.field("detail");
        assert!(detail.contains("To look up or void a key, send that key"), "{detail}");
        let two = server.request(method, path, &[("idempotency-key", "a, b")], "").await;
        two.assert_problem(400, "idempotency-key-invalid");
    }
}

#[tokio::test]
async fn only_get_and_head_read_a_key_and_only_post_voids_one() {
    let server = TestServer::start().await;
    let wrong =
        server.request(Method::POST, "/idempotency-key", &[("idempotency-key", "k")], "").await;
    wrong.assert_problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "GET, HEAD");
    let wrong = server.get("/idempotency-key/void").await;
    wrong.assert_problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "POST");
    let head =
        server.request(Method::HEAD, "/idempotency-key", &[("idempotency-key", "k")], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // A GET has no body, so its content type does not matter.
    let headers = [("idempotency-key", "k"), ("content-type", "text/plain")];
    assert_eq!(server.request(Method::GET, "/idempotency-key", &headers, "").await.status, 200);
}
