//! Responses expire, and keys if they have a TTL. The tests move time with SQL.

use std::time::Duration;

use payonce_testing::{PAYMENT, REMAINING, TestServer};
use tokio::time::sleep;

#[tokio::test]
async fn a_response_says_until_when_it_can_be_replayed() {
    let server = TestServer::start().await;
    let stored = "SELECT to_char(date_trunc('second', replayable_until) AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS \"GMT\"')
                  FROM idempotency_responses";
    let first = server.pay("k", PAYMENT).await;
    let until: String = server.database.value(stored).await;
    assert_eq!(first.header("idempotency-key-expires"), until);
    assert_eq!(server.pay("k", PAYMENT).await.header("idempotency-key-expires"), until);
    // A refusal is kept as long as its key.
    let refused = server.refund("01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "r", REMAINING).await;
    assert_eq!((refused.status, refused.headers.get("idempotency-key-expires")), (404, None));
}

#[tokio::test]
async fn a_response_without_expiry_says_nothing_about_it() {
    let server = TestServer::start_with(&["--idempotency-response-ttl", "never"]).await;
    for _ in 0..2 {
        let response = server.pay("k", PAYMENT).await;
        assert!(response.status < 300 && response.headers.get("idempotency-key-expires").is_none());
    }
}

const AGE_RESPONSES: &str =
    "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'";

const AGE_KEYS: &str = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'";

/// Keys expire together with their responses.
const FORGETFUL: [&str; 2] = ["--idempotency-key-ttl", "24h"];

#[tokio::test]
async fn a_key_whose_response_expired_gets_410_and_executes_nothing() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    server.database.execute(AGE_RESPONSES).await;
    for _ in 0..2 {
        let response = server.pay("k", PAYMENT).await;
        response.assert_problem(410, "idempotency-key-expired");
        assert_eq!(response.header("location"), first.header("location"));
        assert_eq!(response.header("idempotency-key"), "k");
        // The same after the sweeper deleted the response.
        server.database.execute("DELETE FROM idempotency_responses").await;
    }
    let other = server.pay("k", r#"{"user_id": "user_1", "amount": 101}"#).await;
    other.assert_problem(422, "idempotency-key-reused");
    assert_eq!(server.database.payments().await, 1);
    assert_eq!(server.get(first.header("location")).await.status, 200);
}

#[tokio::test]
async fn a_response_expires_even_if_it_is_replayed_all_the_time() {
    let server = TestServer::start_with(&[
        "--idempotency-response-ttl",
        "7s",
        "--request-deadline",
        "2s",
        "--in-flight-wait",
        "1s",
    ])
    .await;
    server.pay("k", PAYMENT).await;
    // The key is not looked up at the moment of its expiry.
    sleep(Duration::from_millis(500)).await;
    let expired =
        "SELECT count(*) FROM idempotency_responses WHERE replayable_until <= clock_timestamp()";
    for replays in 0.. {
        let late = server.database.number(expired).await > 0;
        match server.pay("k", PAYMENT).await.status {
            200 => assert!(!late, "replayed after its end"),
            status => {
                assert_eq!(status, 410);
                assert!(replays > 10, "{replays}");
                return;
            }
        }
    }
}

#[tokio::test]
async fn the_lifetime_of_a_response_is_fixed_when_it_is_stored() {
    let seconds = "SELECT extract(epoch FROM replayable_until - created_at)::bigint
                   FROM idempotency_responses JOIN idempotency_keys USING (execution_id)";
    let mut server = TestServer::start_with(&["--idempotency-response-ttl", "2h"]).await;
    server.pay("k", PAYMENT).await;
    assert_eq!(server.database.number(seconds).await, 7200);
    server.stop();
    let server = server.another().await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
    assert_eq!(server.database.number(seconds).await, 7200);
}

#[tokio::test]
async fn a_response_can_be_kept_permanently() {
    let server = TestServer::start_with(&["--idempotency-response-ttl", "never"]).await;
    server.pay("k", PAYMENT).await;
    let kept = "SELECT count(*) FROM idempotency_responses WHERE replayable_until IS NULL";
    assert_eq!(server.database.number(kept).await, 1);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn keys_are_kept_permanently_by_default() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    server.database.execute("UPDATE idempotency_keys SET created_at = '2001-01-01'").await;
    server.database.execute(AGE_RESPONSES).await;
    server.pay("k", PAYMENT).await.assert_problem(410, "idempotency-key-expired");
}

#[tokio::test]
async fn a_key_older_than_its_ttl_can_be_used_again() {
    let server = TestServer::start_with(&FORGETFUL).await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
    server.database.execute(AGE_KEYS).await;
    let again = server.pay("k", PAYMENT).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.field("transaction_id"), first.field("transaction_id"));
    assert_eq!(server.pay("k", PAYMENT).await.body, again.body);
    assert_eq!(server.database.payments().await, 2);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_responses").await, 1);
}

#[tokio::test]
async fn an_expired_key_executes_once_at_two_servers() {
    let server = TestServer::start_with(&FORGETFUL).await;
    let other = TestServer::start_on(&server.database, &FORGETFUL).await;
    let keys: Vec<String> = (0..100).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        server.pay(key, PAYMENT).await;
    }
    server.database.execute(AGE_KEYS).await;
    let sums = futures_util::future::join_all(keys.iter().map(async |key| {
        let (one, two) = tokio::join!(server.pay(key, PAYMENT), other.pay(key, PAYMENT));
        assert_eq!(one.body, two.body);
        one.status + two.status
    }))
    .await;
    assert!(sums.iter().all(|sum| *sum == 401), "{sums:?}");
    assert_eq!(server.database.payments().await, 200);
}
