//! `POST /payment`: a request with a new key creates a payment.

use payonce_testing::{PAYMENT, TestServer};
use reqwest::Method;

#[tokio::test]
async fn a_request_with_a_new_key_creates_a_payment() {
    let server = TestServer::start().await;
    let response = server.pay("12345-unique-key", PAYMENT).await;
    assert_eq!(response.status, 201);
    let id = response.field("transaction_id");
    let expected = format!(
        r#"{{"status":"success","transaction_id":"{id}","user_id":"user_1","amount":100}}"#
    );
    assert_eq!(response.body, expected);
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_duplicate_request_gets_the_stored_response() {
    let server = TestServer::start().await;
    let first = server.pay("12345-unique-key", PAYMENT).await;
    let second = server.pay("12345-unique-key", PAYMENT).await;
    assert_eq!((first.status, second.status), (201, 200));
    assert_eq!(first.body, second.body);
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_request_without_a_key_is_refused() {
    let server = TestServer::start().await;
    let headers = [("content-type", "application/json")];
    let response = server.request(Method::POST, "/payment", &headers, PAYMENT).await;
    response.assert_problem(400, "idempotency-key-missing");
    assert_eq!(response.field("error"), "Idempotency-Key header is required");
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn requests_with_different_keys_create_different_payments() {
    let server = TestServer::start().await;
    let first = server.pay("key-1", PAYMENT).await;
    let second = server.pay("key-2", PAYMENT).await;
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.field("transaction_id"), second.field("transaction_id"));
    assert_eq!(server.database.payments().await, 2);
}

#[tokio::test]
async fn the_key_row_contains_the_id_of_the_payment() {
    let server = TestServer::start().await;
    let id = server.pay("k", PAYMENT).await.field("transaction_id");
    let sql = format!(
        "SELECT count(*) FROM idempotency_keys k JOIN payments p ON p.transaction_id = k.execution_id
         JOIN idempotency_responses r USING (execution_id)
         WHERE k.key = 'k' AND k.operation = 'pay' AND k.account_id = '00000000-0000-0000-0000-000000000000'
           AND p.transaction_id = '{id}' AND p.status = 'success'"
    );
    assert_eq!(server.database.number(&sql).await, 1);
}

#[tokio::test]
async fn a_failure_is_not_stored_and_the_key_can_be_used_again() {
    let server = TestServer::start().await;
    server.database.execute("ALTER TABLE payments ADD CONSTRAINT small CHECK (amount < 100)").await;
    let response = server.pay("k", PAYMENT).await;
    response.assert_problem(500, "internal");
    assert!(
        !response.body.contains("small") && !response.body.contains("constraint"),
        "{}",
        response.body
    );
    server.database.execute("ALTER TABLE payments DROP CONSTRAINT small").await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn requests_with_other_methods_use_no_key() {
    let server = TestServer::start().await;
    let headers = [("idempotency-key", "k")];
    assert_eq!(server.request(Method::GET, "/payment", &headers, "").await.status, 200);
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(server.request(method, "/payment", &headers, "").await.status, 405);
    }
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}
