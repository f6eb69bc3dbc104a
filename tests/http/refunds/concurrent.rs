//! Concurrent refunds of one payment, at one server or two.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce_testing::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    client::{Client, Response},
    metrics::{Sample, reaches},
};
use sqlx::Connection;

/// Asserts that these responses agree with the payment: the refunded amount is right, and no refund was
/// refused that was possible.
pub(crate) async fn assert_consistent(
    server: &TestServer,
    payment: &str,
    wanted: i64,
    responses: &[Response],
) {
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    let (paid, refunded) = (shown["amount"].as_i64().unwrap(), shown["refunded"].as_i64().unwrap());
    assert!(refunded <= paid, "{refunded} of {paid} refunded");
    let mut given: Vec<String> = Vec::new();
    for response in responses {
        if response.status == 201 {
            assert_eq!(response.field("amount"), wanted.to_string());
            given.push(response.field("refund_id"));
        } else {
            response.assert_problem(402, "refund-refused");
            // The amount that was left then is still left, or has been refunded since.
            let refundable: i64 = response.field("refundable").parse().unwrap();
            assert!(refundable < wanted && refundable >= paid - refunded, "{}", response.body);
        }
    }
    assert_eq!(
        i64::try_from(given.len()).unwrap(),
        (paid / wanted).min(i64::try_from(responses.len()).unwrap())
    );
    assert_eq!(refunded, i64::try_from(given.len()).unwrap() * wanted);
    let mut listed: Vec<String> = shown["refunds"]
        .as_array()
        .unwrap()
        .iter()
        .map(|refund| refund["refund_id"].as_str().unwrap().to_owned())
        .collect();
    given.sort();
    listed.sort();
    assert_eq!(given, listed);
    let sum = format!("SELECT sum(amount)::bigint FROM refunds WHERE transaction_id = '{payment}'");
    assert_eq!(server.database.number(&sum).await, refunded);
}

/// Sends concurrent refunds of a payment to these servers in turn.
pub(crate) async fn crowd(
    servers: &[&TestServer],
    payment: &str,
    wanted: i64,
    count: usize,
) -> Vec<Response> {
    let body = format!(r#"{{"amount": {wanted}}}"#);
    join_all((0..count).map(async |number| {
        let server = servers[number % servers.len()];
        server.refund(payment, &format!("{payment}-{number}"), &body).await
    }))
    .await
}

#[tokio::test]
async fn concurrent_refunds_at_one_server_refund_no_more_than_was_paid() {
    let server = TestServer::start().await;
    for round in 0..5 {
        let payment = server.paid(&format!("pay-{round}"), 100).await;
        let responses = crowd(&[&server], &payment, 40, 20).await;
        assert_consistent(&server, &payment, 40, &responses).await;
    }
}

/// No request meets its deadline, or the end of its wait for a row, however busy the machine is.
pub(crate) const PATIENT: [&str; 4] = ["--in-flight-wait", "1m", "--request-deadline", "2m"];

/// A server with one committer, so that what waits at the same time shares a transaction.
pub(crate) async fn with_one_committer() -> TestServer {
    let flags = ["--max-batch", "64", "--committers", "1", "--metrics-address", "127.0.0.1:0"];
    TestServer::start_with(&[&flags[..], &PATIENT].concat()).await
}

/// Sends this many requests while the one committer is busy with a payment of this client: they queue, and
/// are executed together.
pub(crate) async fn together<T>(
    server: &TestServer,
    busy: &Client,
    count: u32,
    requests: impl Future<Output = T>,
) -> T {
    let holder = server.database.hold_payments_of_held().await;
    let (_, responses, ()) = tokio::join!(
        busy.pay("busy", r#"{"user_id": "held", "amount": 100}"#),
        async {
            server.database.until_locks_are_waited_for(1).await;
            requests.await
        },
        async {
            reaches(&server.metrics, "payonce_queue_keys", 1 + count).await;
            holder.close().await.unwrap();
        }
    );
    responses
}

/// The number of transactions that used the keys selected by this condition.
pub(crate) async fn transactions(server: &TestServer, which: &str) -> i64 {
    let count = format!("SELECT count(DISTINCT xmin::text) FROM idempotency_keys WHERE {which}");
    server.database.number(&count).await
}

#[tokio::test]
async fn refunds_in_one_transaction_count_each_other() {
    let server = with_one_committer().await;
    let payment = server.paid("pay", 100).await;
    let responses = together(&server, &server, 15, crowd(&[&server], &payment, 40, 15)).await;
    assert_consistent(&server, &payment, 40, &responses).await;
    assert_eq!(transactions(&server, "operation = 'refund'").await, 1);
}

#[tokio::test]
async fn concurrent_refunds_at_two_servers_refund_no_more_than_was_paid() {
    let server = TestServer::start().await;
    let other = server.another().await;
    for round in 0..10 {
        let payment = server.paid(&format!("pay-{round}"), 100).await;
        let responses = crowd(&[&server, &other], &payment, 80, 2).await;
        assert_consistent(&server, &payment, 80, &responses).await;
        let payment = server.paid(&format!("more-{round}"), 100).await;
        let responses = crowd(&[&server, &other], &payment, 7, 40).await;
        assert_consistent(&server, &payment, 7, &responses).await;
    }
}

#[tokio::test]
async fn hundreds_of_refunds_at_two_servers_are_all_answered() {
    let server = TestServer::start_with(&PATIENT).await;
    let other = TestServer::start_on(&server.database, &PATIENT).await;
    let payment = server.paid("pay", 1000).await;
    let begun = Instant::now();
    let responses = crowd(&[&server, &other], &payment, 25, 400).await;
    // Many times what it takes on a busy machine, and much less than the deadline.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_consistent(&server, &payment, 25, &responses).await;
}

#[tokio::test]
async fn refunds_of_many_payments_at_two_servers_do_not_deadlock() {
    let database = Arc::new(TestDatabase::create().await);
    // Much shorter than a server's lock_timeout, which would end the wait, too.
    database.set("deadlock_timeout = '10ms'").await;
    let server = TestServer::start_on(&database, &[]).await;
    let other = server.another().await;
    let payments: Vec<String> =
        join_all((0..30).map(async |number| server.paid(&format!("pay-{number}"), 100).await))
            .await;
    join_all(payments.iter().map(async |payment| {
        let responses = crowd(&[&server, &other], payment, 40, 6).await;
        assert_consistent(&server, payment, 40, &responses).await;
    }))
    .await;
    for server in [&server, &other] {
        Sample::of(server).await.assert("payonce_batch_failures_total{remedy=\"repeat\"}", 0);
    }
}

#[tokio::test]
async fn concurrent_duplicates_of_a_refund_at_two_servers_refund_once() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let payment = server.paid("pay", 100).await;
    let responses = join_all((0..100).map(async |copy| {
        let server = if copy % 2 == 0 { &server } else { &other };
        server.refund(&payment, "k", r#"{"amount": 1}"#).await
    }))
    .await;
    assert_eq!(responses.iter().filter(|response| response.status == 201).count(), 1);
    assert!(responses.iter().all(|response| response.body == responses[0].body));
    assert_eq!(server.database.number("SELECT sum(amount)::bigint FROM refunds").await, 1);
}

#[tokio::test]
async fn a_refund_can_share_a_transaction_with_payments_and_replays() {
    let server = with_one_committer().await;
    // A payment's id is known from its response, so only a replay of it can be in a batch with its refund.
    let payment = server.paid("pay", 100).await;
    let all = async {
        tokio::join!(
            server.pay("pay", r#"{"user_id": "user_1", "amount": 100}"#),
            server.refund(&payment, "refund", REMAINING),
            server.pay("other", PAYMENT),
        )
    };
    let (replay, refund, other) = together(&server, &server, 3, Box::pin(all)).await;
    assert_eq!((replay.status, refund.status, other.status), (200, 201, 201));
    assert_eq!(replay.field("transaction_id"), payment);
    assert_eq!(transactions(&server, "key IN ('refund', 'other')").await, 1);
}

#[tokio::test]
async fn a_stricter_default_isolation_level_changes_nothing() {
    for level in ["repeatable read", "serializable"] {
        let database = Arc::new(TestDatabase::create().await);
        database.set(&format!("default_transaction_isolation = '{level}'")).await;
        let server = TestServer::start_on(&database, &[]).await;
        let other = server.another().await;
        let payment = server.paid("pay", 100).await;
        let responses = crowd(&[&server, &other], &payment, 40, 40).await;
        assert_consistent(&server, &payment, 40, &responses).await;
    }
}
