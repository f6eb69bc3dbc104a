//! Refunds and row locks: who waits for whom.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce_testing::{
    REMAINING, TestDatabase, TestServer,
    binary::Serve,
    client::Client,
    database::take_lock,
    metrics::until_found_in_flight,
    wait::{pending_until_released, until},
};
use sqlx::{Connection, PgConnection, raw_sql};

use crate::refunds::concurrent::{
    PATIENT, assert_consistent, crowd, together, transactions, with_one_committer,
};

#[tokio::test]
async fn a_refund_waits_for_one_of_another_server_and_sees_its_result() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    // The transaction of another server, before its COMMIT.
    let mut other = server.database.connect().await;
    let refund = format!(
        "BEGIN; UPDATE payments SET refunded = 80, refund_count = 1 WHERE transaction_id = '{payment}'"
    );
    raw_sql(sqlx::AssertSqlSafe(refund)).execute(&mut other).await.unwrap();
    let (response, ()) = tokio::join!(server.refund(&payment, "k", r#"{"amount": 80}"#), async {
        until_one_waits_for_a_row(&server).await;
        raw_sql("COMMIT").execute(&mut other).await.unwrap();
    });
    response.assert_problem(402, "refund-refused");
    assert_eq!(response.field("refundable"), "20");
}

/// Waits until a session waits for a row lock.
async fn until_one_waits_for_a_row(server: &TestServer) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'transactionid'";
    server.database.until(waiting, |count| count > 0).await;
}

/// A statement that waited for a row continues with its newest version. PostgreSQL may look for it in the wrong
/// partition.
#[tokio::test]
async fn a_refund_that_waited_for_a_row_finds_it_in_every_partition() {
    let database = TestDatabase::create_plain().await;
    database.partition(8).await;
    database.disable_lock_timeout().await;
    let flags = [&PATIENT[..], &["--committers", "1"]].concat();
    let server = TestServer::start_on(&Arc::new(database), &flags).await;
    let payments: Vec<String> =
        join_all((0..20).map(async |number| server.paid(&format!("pay-{number}"), 100).await))
            .await;
    let mut holder = server.database.connect().await;
    raw_sql("BEGIN; SELECT FROM payments FOR UPDATE").execute(&mut holder).await.unwrap();
    let refunds = together(&server, &server, 20, async {
        let refund = async |payment: &String| server.refund(payment, payment, REMAINING).await;
        join_all(payments.iter().map(refund)).await
    });
    let (responses, ()) = tokio::join!(refunds, async {
        until_one_waits_for_a_row(&server).await;
        let change = "UPDATE payments SET refund_count = refund_count; COMMIT";
        raw_sql(change).execute(&mut holder).await.unwrap();
    });
    for response in responses {
        assert_eq!(response.status, 201, "{}", response.body);
    }
}

/// Locks a payment's row until the returned connection is closed.
async fn hold(server: &TestServer, payment: &str) -> PgConnection {
    let mut holder = server.database.connect().await;
    let hold = format!("BEGIN; SELECT FROM payments WHERE transaction_id = '{payment}' FOR UPDATE");
    raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
    holder
}

/// Without an order, two servers could each lock the payment that the other waits for.
#[tokio::test]
async fn payments_are_locked_in_the_order_of_their_ids() {
    let server = with_one_committer().await;
    server.database.disable_lock_timeout().await;
    let (lower, higher) = (server.paid("lower", 100).await, server.paid("higher", 100).await);
    assert!(lower < higher);
    let holder = hold(&server, &lower).await;
    let refunds = together(&server, &server, 2, async {
        tokio::join!(
            server.refund(&higher, "refund-of-higher", REMAINING),
            server.refund(&lower, "refund-of-lower", REMAINING)
        )
    });
    let ((of_higher, of_lower), free) = tokio::join!(refunds, async {
        let mut conn = server.database.connect().await;
        until_one_waits_for_a_row(&server).await;
        let free = format!(
            "SELECT count(*) FROM (SELECT FROM payments WHERE transaction_id = '{higher}'
                                   FOR UPDATE SKIP LOCKED) AS free"
        );
        let free: i64 =
            sqlx::query_scalar(sqlx::AssertSqlSafe(free)).fetch_one(&mut conn).await.unwrap();
        holder.close().await.unwrap();
        free
    });
    assert_eq!(free, 1, "who waits for the first payment has none of the later ones");
    assert_eq!((of_higher.status, of_lower.status), (201, 201));
    assert_eq!(transactions(&server, "operation = 'refund'").await, 1);
}

#[tokio::test]
async fn a_locked_payment_delays_no_refund_of_another_payment() {
    let server = TestServer::start_with(&PATIENT).await;
    let (held, free) = (server.paid("held", 1000).await, server.paid("free", 1000).await);
    let holder = hold(&server, &held).await;
    let servers = [&server];
    let (responses, ()) = pending_until_released(
        crowd(&servers, &held, 10, 200),
        async {
            until_one_waits_for_a_row(&server).await;
            for number in 0..10 {
                let key = format!("free-{number}");
                assert_eq!(server.refund(&free, &key, r#"{"amount": 1}"#).await.status, 201);
            }
        },
        async { holder.close().await.unwrap() },
    )
    .await;
    assert_consistent(&server, &held, 10, &responses).await;
}

#[tokio::test]
async fn refunds_that_wait_for_a_locked_payment_are_refused_when_their_wait_ends() {
    let flags = ["--in-flight-wait", "2500ms", "--request-deadline", "2m"];
    let server = TestServer::start_with(&flags).await;
    let held = server.paid("held", 1000).await;
    let _holder = hold(&server, &held).await;
    let begun = Instant::now();
    for response in crowd(&[&server], &held, 10, 200).await {
        response.assert_problem(503, "not-executed");
        assert!(response.field("detail").contains("holds a lock"), "{}", response.body);
    }
    // One after the other they would wait for 20 s: each waits for a lock for 100 ms.
    let took = begun.elapsed();
    assert!((Duration::from_millis(2500)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_locked_payment_delays_one_batch_only() {
    let server = TestServer::start().await;
    let held = server.paid("held", 1000).await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let client = Client { address: serve.address, http: server.http.clone() };
    let holder = hold(&server, &held).await;
    let refuse = async |number: u32| {
        let refused = client.refund(&held, &format!("refund-{number}"), REMAINING).await;
        refused.assert_problem(503, "not-executed");
    };
    let locked = "is quarantined";
    tokio::join!(refuse(0), async {
        until("the lock is met", async || serve.log().contains(locked)).await;
        join_all((1..5).map(refuse)).await;
    });
    // Only the first refund's batch met the lock; the later refunds were quarantined without a batch.
    assert_eq!(serve.log().matches(locked).count(), 1, "{}", serve.log());
    holder.close().await.unwrap();
    assert_eq!(client.refund(&held, "refund-0", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_refund_of_another_accounts_payment_neither_locks_it_nor_waits_for_it() {
    let server = with_one_committer().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let payment = ada.paid("pay", 100).await;
    bob.refund(&payment, "k1", REMAINING).await.assert_problem(404, "not-found");
    // xmax is the transaction that locked the row last.
    let locked = format!("SELECT xmax::text FROM payments WHERE transaction_id = '{payment}'");
    assert_eq!(server.database.value::<String>(&locked).await, "0");
    let holder = hold(&server, &payment).await;
    // It has not waited for the lock.
    bob.refund(&payment, "k2", REMAINING).await.assert_problem(404, "not-found");
    // Also with a refund by the payment's own account in the same batch.
    let other = ada.paid("other", 100).await;
    let (foreign, own) = together(&server, &ada, 2, async {
        tokio::join!(bob.refund(&payment, "k3", REMAINING), ada.refund(&other, "k4", REMAINING))
    })
    .await;
    foreign.assert_problem(404, "not-found");
    assert_eq!(own.status, 201);
    assert_eq!(transactions(&server, "key IN ('k3', 'k4')").await, 1);
    holder.close().await.unwrap();
    assert_eq!(ada.refund(&payment, "k5", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_refund_waits_while_another_server_executes_its_key() {
    let server = TestServer::start_with(&PATIENT).await;
    let payment = server.paid("pay", 100).await;
    let mut holder = server.database.connect().await;
    let lock = format!("BEGIN; {}", take_lock("k"));
    raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let (response, ()) = pending_until_released(
        server.refund(&payment, "k", REMAINING),
        until_found_in_flight(&server),
        async { holder.close().await.unwrap() },
    )
    .await;
    assert_eq!(response.status, 201);
}
