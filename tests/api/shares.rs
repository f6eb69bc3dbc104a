//! An account's share of the queue.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream::FuturesUnordered};
use reqwest::Method;
use sqlx::{PgConnection, raw_sql};

use super::metrics::reaches;
use crate::support::{PAYMENT, TestServer};

/// Where there are API keys, metrics have an address of their own.
const METRICS: [&str; 2] = ["--metrics-address", "127.0.0.1:0"];

async fn release(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn an_account_that_has_its_share_is_refused_at_once_and_others_are_not() {
    let flags = ["--account-queue-limit", "4", "--committers", "1"];
    let server = TestServer::start_with(&[&flags[..], &METRICS].concat()).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..4).map(|key| format!("key-{key}")).collect();
    let waiting = join_all(keys.iter().map(|key| ada.pay(key, PAYMENT)));
    let (waiting, of_bob, ()) = tokio::join!(
        waiting,
        async {
            reaches(&server.metrics, "payonce_queue_keys", 4).await;
            bob.pay("key-0", PAYMENT).await
        },
        async {
            reaches(&server.metrics, "payonce_queue_keys", 4).await;
            let begun = Instant::now();
            let refused = ada.pay("one-more", PAYMENT).await;
            assert!(begun.elapsed() < Duration::from_millis(300), "{:?}", begun.elapsed());
            refused.assert_problem(429, "too-many-requests");
            assert_eq!(refused.header("idempotency-key"), "one-more");
            a_moment().await;
            release(holder).await;
        }
    );
    assert!(waiting.iter().all(|answer| answer.status == 201), "{waiting:?}");
    assert_eq!(of_bob.status, 201);
    // Its places are free again, and nothing was executed that was refused.
    assert_eq!(ada.pay("one-more", PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 6);
}

#[tokio::test]
async fn a_crowd_of_copies_is_bounded_too() {
    let server = TestServer::start_with(&["--account-queue-limit", "2", "--committers", "1"]).await;
    let holder = server.database.lock_payments().await;
    let copies = join_all((0..12).map(|_| server.pay("crowd", PAYMENT)));
    let (copies, ()) = tokio::join!(copies, async {
        a_moment().await;
        a_moment().await;
        release(holder).await;
    });
    let count = |status| copies.iter().filter(|answer| answer.status == status).count();
    // One leads, four for each of two keys follow it.
    assert_eq!((count(201), count(200), count(429)), (1, 8, 3), "{copies:?}");
    assert_eq!(server.pay("crowd", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn an_account_that_floods_the_queue_does_not_hold_up_the_others() {
    // Small batches, so that the flood takes many of them.
    let flags = ["--max-batch", "4", "--committers", "1"];
    let server = TestServer::start_with(&[&flags[..], &METRICS].concat()).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..800).map(|key| format!("flood-{key}")).collect();
    let flood = join_all(keys.iter().map(async |key| ada.pay(key, PAYMENT).await.status));
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
            release(holder).await;
        }
    );
    // Ten payments of one account take a batch or two each, whatever waits of the other.
    let before = "SELECT count(*) FROM idempotency_keys WHERE key LIKE 'flood-%' AND created_at <
                  (SELECT max(created_at) FROM idempotency_keys WHERE key LIKE 'quiet-%')";
    let before = server.database.number(before).await;
    assert!(before < 200, "{before} of the flood were executed before ten others");
    assert!(quiet.iter().all(|status| *status == 201));
    assert!(flood.iter().all(|status| *status == 201));
}

#[tokio::test]
async fn an_account_that_floods_the_reads_is_bounded_and_does_not_hold_up_the_others() {
    let server =
        TestServer::start_with(&["--read-connections", "1", "--request-deadline", "2min"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let path = "/payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    let holder = server.database.lock_payments().await;
    // One has the connection, 256 wait, and the rest is refused at once: then all of them are there.
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
        while server.database.number(voided).await < 1 {}
        release(holder).await;
    };
    let (mut quiet, mut released) = (Box::pin(quiet), Box::pin(released));
    let (mut of_flood, mut is_released) = (0, false);
    let answers = loop {
        tokio::select! {
            answers = &mut quiet => break answers,
            () = &mut released, if !is_released => is_released = true,
            Some(answer) = flood.next() => {
                assert_eq!(answer.status, 404);
                of_flood += 1;
            }
        }
    };
    assert_eq!(answers, (404, 200, 200));
    assert!(of_flood < 64, "{of_flood} of the flood were read before three others");
    while let Some(answer) = flood.next().await {
        assert_eq!(answer.status, 404);
    }
}
