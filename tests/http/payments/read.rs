//! `GET /payment/{transaction_id}`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use payonce_testing::{PAYMENT, TestServer};
use reqwest::Method;
use sqlx::raw_sql;

/// The default of the request deadline.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_payment_can_be_read_at_its_location() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    let response = server.get(taken.header("location")).await;
    assert_eq!(response.status, 200);
    let (id, created_at) = (taken.field("transaction_id"), response.field("created_at"));
    let expected = format!(
        r#"{{"transaction_id":"{id}","status":"success","user_id":"user_1","amount":100,"currency":"USD","refunded":0,"refunds":[],"created_at":"{created_at}"}}"#
    );
    assert_eq!(response.body, expected);
    assert_eq!(created_at.len(), "2026-11-24T09:00:00.000Z".len());
    let age = Utc::now() - created_at.parse::<DateTime<Utc>>().unwrap();
    assert!(age.num_seconds().abs() < 60, "{created_at}");
    assert_eq!(response.header("cache-control"), "no-store");
}

#[tokio::test]
async fn an_unknown_payment_is_not_found() {
    let server = TestServer::start().await;
    for id in ["01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "not-a-uuid", "%00", "1"] {
        server.get(&format!("/payment/{id}")).await.assert_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_payment_of_another_account_is_not_found() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    server
        .database
        .execute("UPDATE payments SET account_id = '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0'")
        .await;
    server.get(taken.header("location")).await.assert_problem(404, "not-found");
}

#[tokio::test]
async fn a_get_request_ignores_the_idempotency_key() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    let response = server
        .request(Method::GET, taken.header("location"), &[("idempotency-key", "a b")], "")
        .await;
    assert_eq!((response.status, response.header("idempotency-key")), (200, ""));
}

#[tokio::test]
async fn head_gets_the_headers_of_get() {
    let server = TestServer::start().await;
    let payment = server.pay("k", PAYMENT).await.header("location").to_owned();
    for path in [
        &payment,
        "/payment",
        "/payment?limit=1",
        "/problems/internal",
        "/health/live",
        "/health/ready",
    ] {
        let (get, head) =
            (server.get(path).await, server.request(Method::HEAD, path, &[], "").await);
        assert_eq!((get.status, head.status, head.body.as_str()), (200, 200, ""), "{path}");
        assert_eq!(get.header("content-length"), head.header("content-length"), "{path}");
    }
}

#[tokio::test]
async fn a_read_that_exceeds_the_deadline_is_refused() {
    let server =
        TestServer::start_with(&["--request-deadline", "600ms", "--in-flight-wait", "100ms"]).await;
    let payment = server.pay("k", PAYMENT).await.header("location").to_owned();
    let mut holder = server.database.lock_payments().await;
    let begun = std::time::Instant::now();
    let late = server.get(&payment).await;
    late.assert_problem(503, "database-unavailable");
    // A read has no key.
    assert!(late.field("detail").contains("with the same key if it has one"), "{}", late.body);
    assert!(begun.elapsed() < DEFAULT_DEADLINE);
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.get(&payment).await.status, 200);
}
