//! An account's share of the queue.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::{PgConnection, raw_sql};

use super::metrics::reaches;
use crate::support::{PAYMENT, TestServer};

async fn release(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

async fn a_moment() {
    tokio::time::sleep(Duration::from_millis(150)).await;
}

#[tokio::test]
async fn an_account_that_has_its_share_is_refused_at_once_and_others_are_not() {
    let server = TestServer::start_with(&["--account-queue-limit", "4", "--committers", "1"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..4).map(|key| format!("key-{key}")).collect();
    let waiting = join_all(keys.iter().map(|key| ada.pay(key, PAYMENT)));
    let (waiting, of_bob, ()) = tokio::join!(
        waiting,
        async {
            reaches(&server, "payonce_queue_keys", 4).await;
            bob.pay("key-0", PAYMENT).await
        },
        async {
            reaches(&server, "payonce_queue_keys", 4).await;
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
    let server = TestServer::start_with(&["--max-batch", "4", "--committers", "1"]).await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..800).map(|key| format!("flood-{key}")).collect();
    let flood = join_all(keys.iter().map(async |key| ada.pay(key, PAYMENT).await.status));
    let (flood, quiet, ()) = tokio::join!(
        flood,
        async {
            reaches(&server, "payonce_queue_keys", 800).await;
            join_all(
                (0..10)
                    .map(async |number| bob.pay(&format!("quiet-{number}"), PAYMENT).await.status),
            )
            .await
        },
        async {
            reaches(&server, "payonce_queue_keys", 810).await;
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
