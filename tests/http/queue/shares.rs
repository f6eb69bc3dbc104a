//! An account's share of the queue and of the read connections.

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use payonce_testing::{PAYMENT, TestServer, metrics::reaches, wait::pending_until_released};
use reqwest::Method;
use sqlx::Connection;

/// A payment that is held up, together with everything behind it, by
/// [`hold_payments_of_held`](payonce_testing::TestDatabase::hold_payments_of_held).
const HELD: &str = r#"{"user_id": "held", "amount": 1}"#;

/// A server with one committer, whose deadline no held-up request meets.
async fn start_with(flags: &[&str]) -> TestServer {
    let patient = ["--committers", "1", "--request-deadline", "2m", "--in-flight-wait", "1m"];
    let metrics = ["--metrics-address", "127.0.0.1:0"];
    TestServer::start_with(&[flags, &patient, &metrics].concat()).await
}

#[tokio::test]
async fn an_account_that_has_used_its_share_is_refused_immediately_and_others_are_not() {
    let server = start_with(&["--account-queue-limit", "4"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.hold_payments_of_held().await;
    let keys: Vec<String> = (0..4).map(|key| format!("key-{key}")).collect();
    let waiting = join_all(keys.iter().map(|key| ada.pay(key, HELD)));
    let (of_ada, of_bob) = pending_until_released(
        async {
            tokio::join!(waiting, async {
                reaches(&server.metrics, "payonce_queue_keys", 4).await;
                bob.pay("key-0", PAYMENT).await
            })
        },
        async {
            reaches(&server.metrics, "payonce_queue_keys", 5).await;
            let refused = ada.pay("one-more", PAYMENT).await;
            refused.assert_problem(429, "too-many-requests");
            assert_eq!(refused.header("idempotency-key"), "one-more");
        },
        async { holder.close().await.unwrap() },
    )
    .await
    .0;
    assert!(of_ada.iter().all(|response| response.status == 201), "{of_ada:?}");
    assert_eq!(of_bob.status, 201);
    // Its places are free again, and the refused request was not executed.
    assert_eq!(ada.pay("one-more", PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 6);
}

#[tokio::test]
async fn duplicates_of_a_waiting_request_are_limited() {
    let server = start_with(&["--account-queue-limit", "2"]).await;
    let holder = server.database.hold_payments_of_held().await;
    let duplicates = join_all((0..12).map(|_| server.pay("crowd", HELD)));
    let (duplicates, ()) = tokio::join!(duplicates, async {
        let refused = "payonce_keyed_requests_total{operation=\"pay\",outcome=\"throttled\"}";
        reaches(&server.metrics, refused, 3).await;
        holder.close().await.unwrap();
    });
    let count = |status| duplicates.iter().filter(|response| response.status == status).count();
    // One is executed; four for each of the account's two keys may wait for it.
    assert_eq!((count(201), count(200), count(429)), (1, 8, 3), "{duplicates:?}");
    assert_eq!(server.pay("crowd", HELD).await.status, 200);
}

#[tokio::test]
async fn an_account_that_floods_the_queue_does_not_delay_others() {
    // Small batches, so that the flood takes many of them.
    let server = start_with(&["--max-batch", "4"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.hold_payments_of_held().await;
    let keys: Vec<String> = (0..800).map(|key| format!("flood-{key}")).collect();
    let flood = join_all(keys.iter().map(async |key| ada.pay(key, HELD).await.status));
    let (flood, quiet, ()) = tokio::join!(
        flood,
        async {
            reaches(&server.metrics, "payonce_queue_keys", 800).await;
            join_all(
                (0..10)
                    .map(async |number| bob.pay(&format!("quiet-{number}"), PAYMENT).await.status),
            )
            .await
        },
        async {
            reaches(&server.metrics, "payonce_queue_keys", 810).await;
            holder.close().await.unwrap();
        }
    );
    // Ten payments of one account take a batch or two each, however many of the other wait.
    let before = "SELECT count(*) FROM idempotency_keys WHERE key LIKE 'flood-%' AND created_at <
                  (SELECT max(created_at) FROM idempotency_keys WHERE key LIKE 'quiet-%')";
    let before = server.database.number(before).await;
    assert!(before < 200, "{before} of the flood were executed before ten others");
    assert!(quiet.iter().all(|status| *status == 201));
    assert!(flood.iter().all(|status| *status == 201));
}

#[tokio::test]
async fn an_account_that_floods_the_reads_is_limited_and_does_not_delay_others() {
    let server =
        TestServer::start_with(&["--read-connections", "1", "--request-deadline", "2min"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let path = "/payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    let holder = server.database.lock_payments().await;
    // One uses the connection, 256 wait, and the rest are refused: then all have arrived.
    let mut flood: FuturesUnordered<_> = (0..260).map(|_| ada.get(path)).collect();
    for _ in 0..3 {
        let refused = flood.next().await.unwrap();
        refused.assert_problem(429, "too-many-requests");
    }
    let quiet = async {
        let headers = [("idempotency-key", "k")];
        let void = bob.request(Method::POST, "/idempotency-key/void", &headers, "");
        let shown = bob.request(Method::GET, "/idempotency-key", &headers, "");
        let (read, void, shown) = tokio::join!(bob.get(path), void, shown);
        (read.status, void.status, shown.status)
    };
    let released = async {
        // The void of the other account is committed, and is about to be read.
        let voided = "SELECT count(*) FROM idempotency_keys WHERE operation = 'void'";
        server.database.until(voided, |count| count > 0).await;
        holder.close().await.unwrap();
    };
    let (mut quiet, mut released) = (Box::pin(quiet), Box::pin(released));
    let (mut of_flood, mut is_released) = (0, false);
    let responses = loop {
        tokio::select! {
            responses = &mut quiet => break responses,
            () = &mut released, if !is_released => is_released = true,
            Some(response) = flood.next() => {
                assert_eq!(response.status, 404);
                of_flood += 1;
            }
        }
    };
    assert_eq!(responses, (404, 200, 200));
    assert!(of_flood < 64, "{of_flood} of the flood were read before three others");
    while let Some(response) = flood.next().await {
        assert_eq!(response.status, 404);
    }
}
