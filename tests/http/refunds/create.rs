//! `POST /payment/{transaction_id}/refund`: a payment is refunded in full or in part.

use chrono::{DateTime, Utc};
use payonce_testing::{REMAINING, TestServer};
use serde_json::json;

use crate::refunds::refuse::assert_refused;

async fn refunded(server: &TestServer, payment: &str) -> i64 {
    server.get(&format!("/payment/{payment}")).await.json()["refunded"].as_i64().unwrap()
}

#[tokio::test]
async fn a_payment_can_be_refunded_in_part() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let response = server.refund(&payment, "refund", r#"{"amount": 40}"#).await;
    let id = response.field("refund_id");
    let expected = format!(
        r#"{{"status":"success","refund_id":"{id}","transaction_id":"{payment}","amount":40,"currency":"USD"}}"#
    );
    assert_eq!((response.status, response.body.as_str()), (201, expected.as_str()));
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    assert_eq!(response.header("location"), format!("/payment/{payment}"));
    assert_eq!(response.header("content-type"), "application/json");
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("idempotency-key"), "refund");
    assert_eq!(response.header("idempotent-replayed"), "false");
    let named = format!(
        "SELECT count(*) FROM refunds JOIN idempotency_keys ON execution_id = refund_id
         WHERE refund_id = '{id}' AND key = 'refund' AND operation = 'refund'"
    );
    assert_eq!(server.database.number(&named).await, 1);
}

#[tokio::test]
async fn a_duplicate_refund_request_gets_the_stored_response_and_refunds_nothing() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let first = server.refund(&payment, "refund", r#"{"amount": 40}"#).await;
    for body in [r#"{"amount": 40}"#, " {\"\\u0061mount\" : 40}\n"] {
        let replay = server.refund(&payment, "refund", body).await;
        assert_eq!((replay.status, &replay.body), (200, &first.body));
        assert_eq!(replay.header("idempotent-replayed"), "true");
        assert_eq!(replay.header("location"), first.header("location"));
    }
    let upper = payment.to_uppercase();
    assert_eq!(server.refund(&upper, "refund", r#"{"amount": 40}"#).await.body, first.body);
    assert_eq!(refunded(&server, &payment).await, 40);
}

#[tokio::test]
async fn remaining_refunds_everything_that_is_left() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "part", r#"{"amount": 30}"#).await;
    let refund = server.refund(&payment, "rest", REMAINING).await;
    assert_eq!((refund.status, refund.field("amount").as_str()), (201, "70"));
    let replay = server.refund(&payment, "rest", " {\"remaining\":true}\n").await;
    assert_eq!((replay.status, replay.body), (200, refund.body));
}

#[tokio::test]
async fn remaining_and_the_same_amount_are_different_requests() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
    let named = server.refund(&payment, "k", r#"{"amount": 100}"#).await;
    named.assert_problem(422, "idempotency-key-reused");
    assert_eq!(named.field("members"), r#"["amount","remaining"]"#);
}

#[tokio::test]
async fn an_expired_refund_response_still_names_the_payment() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "k", REMAINING).await;
    server.database.execute("DELETE FROM idempotency_responses").await;
    let response = server.refund(&payment, "k", REMAINING).await;
    response.assert_problem(410, "idempotency-key-expired");
    assert_eq!(response.header("location"), format!("/payment/{payment}"));
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn a_payment_shows_its_refunds_and_their_times() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let mut expected = Vec::new();
    for (key, amount) in [("one", 40), ("two", 25)] {
        let response = server.refund(&payment, key, &format!(r#"{{"amount": {amount}}}"#)).await;
        expected.push((response.field("refund_id"), amount));
    }
    server.refund(&payment, "refused", r#"{"amount": 36}"#).await;
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    assert_eq!(shown["refunded"], 65);
    assert_eq!((&shown["amount"], &shown["status"]), (&json!(100), &json!("success")));
    let refunds = shown["refunds"].as_array().unwrap();
    assert_eq!(refunds.len(), 2);
    for (refund, (id, amount)) in refunds.iter().zip(&expected) {
        let created_at = refund["created_at"].as_str().unwrap();
        assert_eq!(*refund, json!({ "refund_id": id, "amount": amount, "created_at": created_at }));
        assert_eq!(created_at.len(), "2026-11-24T10:00:00.000Z".len());
        let age = Utc::now() - created_at.parse::<DateTime<Utc>>().unwrap();
        assert!(age.num_seconds().abs() < 60, "{created_at}");
    }
    let listed = server.get("/payment").await.json();
    assert_eq!(listed["payments"][0], shown);
}

#[tokio::test]
async fn the_largest_payment_can_be_refunded() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 9_007_199_254_740_991).await;
    assert_eq!(server.refund(&payment, "one", r#"{"amount": 1}"#).await.status, 201);
    let refusal = server.refund(&payment, "two", r#"{"amount": 9007199254740991}"#).await;
    assert_refused(&refusal, 9_007_199_254_740_990);
    assert_eq!(
        server.refund(&payment, "three", REMAINING).await.field("amount"),
        "9007199254740990"
    );
}
