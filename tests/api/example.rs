//! The example everything starts from.

use reqwest::Method;

use crate::support::{PAYMENT, TestServer};

#[tokio::test]
async fn a_new_key_takes_a_payment() {
    let server = TestServer::start().await;
    let answer = server.pay("12345-unique-key", PAYMENT).await;
    assert_eq!(answer.status, 201);
    let id = answer.member("transaction_id");
    let expected = format!(
        r#"{{"status":"success","transaction_id":"{id}","user_id":"user_1","amount":100}}"#
    );
    assert_eq!(answer.body, expected);
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_second_request_with_the_same_key_replays_the_first_answer() {
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
    let answer = server.request(Method::POST, "/payment", &headers, PAYMENT).await;
    answer.assert_problem(400, "idempotency-key-missing");
    assert_eq!(answer.member("error"), "Idempotency-Key header is required");
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn different_keys_are_different_payments() {
    let server = TestServer::start().await;
    let first = server.pay("key-1", PAYMENT).await;
    let second = server.pay("key-2", PAYMENT).await;
    assert_eq!((first.status, second.status), (201, 201));
    assert_ne!(first.member("transaction_id"), second.member("transaction_id"));
    assert_eq!(server.database.payments().await, 2);
}
