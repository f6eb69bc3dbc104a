//! Metrics of batches, queues and keys in doubt.

use std::sync::Arc;

use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    metrics::{Sample, reaches},
    proxy::{Fault, Proxy, Step},
};

use crate::metrics::counters::busy;

#[tokio::test]
async fn batches_are_counted_with_their_steps_and_their_wait() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    let commits = sample.get("payonce_commits_total");
    // Nine sequential requests.
    assert!((commits - 9.0).abs() < 0.5, "{commits}");
    sample.assert("payonce_batch_size_commands_count", 9);
    sample.assert("payonce_batch_size_commands_sum", 9);
    sample.assert("payonce_queue_wait_seconds_count", 9);
    // A batch of payments is one statement; a batch with refunds or voided keys is a transaction.
    let steps =
        ["one_statement", "commit", "claim", "execute"].map(|step| sample.batch_steps(step));
    assert_eq!(steps, [5, 4, 4, 3]);
    assert!(sample.get("payonce_connections_opened_total") >= 1.0);
    sample.assert("payonce_queue_keys", 0);
    sample.assert("payonce_queue_limit_keys", 4096);
}

#[tokio::test]
async fn a_full_queue_and_a_lost_connection_are_counted() {
    let server = TestServer::start_with(&[
        "--queue-limit",
        "1",
        "--account-queue-limit",
        "1",
        "--committers",
        "1",
    ])
    .await;
    let mut locked = server.database.lock_payments().await;
    let (first, second) = tokio::join!(server.pay("a", PAYMENT), async {
        reaches(&server, "payonce_queue_keys", 1).await;
        let second = server.pay("b", PAYMENT).await;
        reaches(&server, "payonce_batch_failures_total{remedy=\"quarantine\"}", 1).await;
        sqlx::query("ROLLBACK").execute(&mut locked).await.unwrap();
        second
    });
    assert_eq!((first.status, second.status), (201, 503));
    server
        .database
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payonce' AND datname = current_database()")
        .await;
    assert_eq!(server.pay("c", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    assert!((sample.outcome("pay", "overloaded") - 1.0).abs() < 0.5);
    assert!(sample.get("payonce_batch_failures_total{remedy=\"reconnect\"}") >= 1.0);
    assert!(sample.get("payonce_connections_opened_total") >= 2.0);
}

#[tokio::test]
async fn a_key_in_doubt_and_its_resolution_are_counted() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let server = TestServer::start_through(&database, &options, &[]).await;
    proxy.arm(Step::StatementCommitted, Fault::Cut);
    assert_eq!(server.pay("a", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_keys_in_doubt_total", 1);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"committed\"}", 1);
    // The commit is found out later and counted once.
    sample.assert("payonce_payments_total{currency=\"USD\"}", 1);

    proxy.arm(Step::StatementSent, Fault::Cut);
    assert_eq!(server.pay("b", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_keys_in_doubt_total", 2);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"not_committed\"}", 1);
    sample.assert("payonce_payments_total{currency=\"USD\"}", 2);
}
