//! Refunds of one payment at once: at one server or two, in one transaction or several.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sqlx::{Connection, PgConnection, raw_sql};

use super::{
    in_flight::until_found_in_flight,
    metrics::{Sample, reaches},
};
use crate::support::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    binary::Serve,
    client::{Answer, Client},
    database::take_lock,
    wait::{pending_until_released, until},
};

/// Asserts that these answers to refunds of this payment can all be true at once: what was given back is
/// what the payment shows, and nobody was refused who could have been served.
async fn assert_consistent(server: &TestServer, payment: &str, wanted: i64, answers: &[Answer]) {
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    let (paid, refunded) = (shown["amount"].as_i64().unwrap(), shown["refunded"].as_i64().unwrap());
    assert!(refunded <= paid, "{refunded} of {paid} refunded");
    let mut given: Vec<String> = Vec::new();
    for answer in answers {
        if answer.status == 201 {
            assert_eq!(answer.member("amount"), wanted.to_string());
            given.push(answer.member("refund_id"));
        } else {
            answer.assert_problem(402, "refund-refused");
            // What was left then is what others have been given since, or is left still.
            let refundable: i64 = answer.member("refundable").parse().unwrap();
            assert!(refundable < wanted && refundable >= paid - refunded, "{}", answer.body);
        }
    }
    assert_eq!(
        i64::try_from(given.len()).unwrap(),
        (paid / wanted).min(i64::try_from(answers.len()).unwrap())
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

/// Sends so many refunds of a payment at once, to these servers in turn.
async fn crowd(servers: &[&TestServer], payment: &str, wanted: i64, count: usize) -> Vec<Answer> {
    let body = format!(r#"{{"amount": {wanted}}}"#);
    join_all((0..count).map(async |number| {
        let server = servers[number % servers.len()];
        server.refund(payment, &format!("{payment}-{number}"), &body).await
    }))
    .await
}

#[tokio::test]
async fn refunds_at_one_server_give_back_no_more_than_was_paid() {
    let server = TestServer::start().await;
    for round in 0..5 {
        let payment = server.paid(&format!("pay-{round}"), 100).await;
        let answers = crowd(&[&server], &payment, 40, 20).await;
        assert_consistent(&server, &payment, 40, &answers).await;
    }
}

/// No request meets its deadline, or the end of its wait for a row, however busy the machine is.
const PATIENT: [&str; 4] = ["--in-flight-wait", "1m", "--request-deadline", "2m"];

/// A server with one committer, so that what waits at the same time shares a transaction.
async fn with_one_committer() -> TestServer {
    let flags = ["--max-batch", "64", "--committers", "1", "--metrics-address", "127.0.0.1:0"];
    TestServer::start_with(&[&flags[..], &PATIENT].concat()).await
}

/// Sends this many requests while the one committer is busy with a payment of this client: they queue, and
/// are executed together.
async fn together<T>(
    server: &TestServer,
    busy: &Client,
    count: u32,
    requests: impl Future<Output = T>,
) -> T {
    let holder = server.database.hold_payments_of_held().await;
    let (_, answers, ()) = tokio::join!(
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
    answers
}

/// In how many transactions these keys were used, by a condition.
async fn transactions(server: &TestServer, which: &str) -> i64 {
    let count = format!("SELECT count(DISTINCT xmin::text) FROM idempotency_keys WHERE {which}");
    server.database.number(&count).await
}

#[tokio::test]
async fn refunds_in_one_transaction_see_each_other() {
    let server = with_one_committer().await;
    let payment = server.paid("pay", 100).await;
    let answers = together(&server, &server, 15, crowd(&[&server], &payment, 40, 15)).await;
    assert_consistent(&server, &payment, 40, &answers).await;
    assert_eq!(transactions(&server, "operation = 'refund'").await, 1);
}

#[tokio::test]
async fn refunds_at_two_servers_give_back_no_more_than_was_paid() {
    let server = TestServer::start().await;
    let other = server.another().await;
    for round in 0..10 {
        let payment = server.paid(&format!("pay-{round}"), 100).await;
        let answers = crowd(&[&server, &other], &payment, 80, 2).await;
        assert_consistent(&server, &payment, 80, &answers).await;
        let payment = server.paid(&format!("more-{round}"), 100).await;
        let answers = crowd(&[&server, &other], &payment, 7, 40).await;
        assert_consistent(&server, &payment, 7, &answers).await;
    }
}

#[tokio::test]
async fn a_refund_waits_for_that_of_another_server_and_reads_what_it_left() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    // What another server does, in a transaction that is about to be committed.
    let mut other = server.database.connect().await;
    let refund = format!(
        "BEGIN; UPDATE payments SET refunded = 80, refund_count = 1 WHERE transaction_id = '{payment}'"
    );
    raw_sql(sqlx::AssertSqlSafe(refund)).execute(&mut other).await.unwrap();
    let (answer, ()) = tokio::join!(server.refund(&payment, "k", r#"{"amount": 80}"#), async {
        until_one_waits_for_a_row(&server).await;
        raw_sql("COMMIT").execute(&mut other).await.unwrap();
    });
    answer.assert_problem(402, "refund-refused");
    assert_eq!(answer.member("refundable"), "20");
}

#[tokio::test]
async fn crowds_at_two_servers_are_all_answered_soon() {
    let server = TestServer::start_with(&PATIENT).await;
    let other = TestServer::start_on(&server.database, &PATIENT).await;
    let payment = server.paid("pay", 1000).await;
    let begun = Instant::now();
    let answers = crowd(&[&server, &other], &payment, 25, 400).await;
    // Many times what it takes, and much less than their deadline.
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_consistent(&server, &payment, 25, &answers).await;
}

#[tokio::test]
async fn refunds_of_many_payments_at_two_servers_neither_deadlock_nor_mix() {
    let database = Arc::new(TestDatabase::create().await);
    // Long before a server's lock_timeout ends the wait.
    database.set("deadlock_timeout = '10ms'").await;
    let server = TestServer::start_on(&database, &[]).await;
    let other = server.another().await;
    let payments: Vec<String> =
        join_all((0..30).map(async |number| server.paid(&format!("pay-{number}"), 100).await))
            .await;
    join_all(payments.iter().map(async |payment| {
        let answers = crowd(&[&server, &other], payment, 40, 6).await;
        assert_consistent(&server, payment, 40, &answers).await;
    }))
    .await;
    for server in [&server, &other] {
        Sample::of(server).await.assert("payonce_batch_failures_total{remedy=\"repeat\"}", 0);
    }
}

/// Waits until somebody waits for a row that another transaction holds.
async fn until_one_waits_for_a_row(server: &TestServer) {
    let waiting = "SELECT count(*) FROM pg_stat_activity
                   WHERE datname = current_database() AND wait_event = 'transactionid'";
    server.database.until(waiting, |count| count > 0).await;
}

/// What waits for a row goes on with the row as it is then. In partitions PostgreSQL may look for that in the
/// wrong one.
#[tokio::test]
async fn payments_that_had_to_be_waited_for_are_found_in_every_partition() {
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
    let (answers, ()) = tokio::join!(refunds, async {
        until_one_waits_for_a_row(&server).await;
        let change = "UPDATE payments SET refund_count = refund_count; COMMIT";
        raw_sql(change).execute(&mut holder).await.unwrap();
    });
    for answer in answers {
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}

/// Locks a payment's row until the returned connection is closed.
async fn hold(server: &TestServer, payment: &str) -> PgConnection {
    let mut holder = server.database.connect().await;
    let hold = format!("BEGIN; SELECT FROM payments WHERE transaction_id = '{payment}' FOR UPDATE");
    raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
    holder
}

/// Without an order two servers could each have the payment that the other one waits for.
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
async fn copies_of_one_refund_at_two_servers_give_back_once() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let payment = server.paid("pay", 100).await;
    let answers = join_all((0..100).map(async |copy| {
        let server = if copy % 2 == 0 { &server } else { &other };
        server.refund(&payment, "k", r#"{"amount": 1}"#).await
    }))
    .await;
    assert_eq!(answers.iter().filter(|answer| answer.status == 201).count(), 1);
    assert!(answers.iter().all(|answer| answer.body == answers[0].body));
    assert_eq!(server.database.number("SELECT sum(amount)::bigint FROM refunds").await, 1);
}

#[tokio::test]
async fn a_refund_shares_a_transaction_with_payments_and_with_a_retry_of_its_own() {
    let server = with_one_committer().await;
    // The id of a payment is known when its answer is; so only retries bring them together.
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
    assert_eq!(replay.member("transaction_id"), payment);
    assert_eq!(transactions(&server, "key IN ('refund', 'other')").await, 1);
}

#[tokio::test]
async fn a_payment_that_somebody_holds_for_long_holds_up_nobody_elses() {
    let server = TestServer::start_with(&PATIENT).await;
    let (held, free) = (server.paid("held", 1000).await, server.paid("free", 1000).await);
    let holder = hold(&server, &held).await;
    let servers = [&server];
    let (answers, ()) = pending_until_released(
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
    assert_consistent(&server, &held, 10, &answers).await;
}

#[tokio::test]
async fn a_crowd_that_waits_for_one_payment_is_refused_when_its_wait_is_over() {
    let flags = ["--in-flight-wait", "2500ms", "--request-deadline", "2m"];
    let server = TestServer::start_with(&flags).await;
    let held = server.paid("held", 1000).await;
    let _holder = hold(&server, &held).await;
    let begun = Instant::now();
    for answer in crowd(&[&server], &held, 10, 200).await {
        answer.assert_problem(503, "not-executed");
        assert!(answer.member("detail").contains("holds a lock"), "{}", answer.body);
    }
    // One after the other they would wait for 20 s: each waits for a lock for 100 ms.
    let took = begun.elapsed();
    assert!((Duration::from_millis(2500)..Duration::from_secs(15)).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_payment_that_held_up_one_refund_holds_up_no_other() {
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
    // The first one's batch met the lock; the others, which came later, were in no batch at all.
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
    // Who locked the row last stands in it.
    let locked = format!("SELECT xmax::text FROM payments WHERE transaction_id = '{payment}'");
    assert_eq!(server.database.value::<String>(&locked).await, "0");
    let holder = hold(&server, &payment).await;
    // Had it waited, it would be in flight still.
    bob.refund(&payment, "k2", REMAINING).await.assert_problem(404, "not-found");
    // Nor where the account itself refunds another one, in the same batch.
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
async fn a_refund_whose_key_another_server_is_executing_waits_for_it() {
    let server = TestServer::start_with(&PATIENT).await;
    let payment = server.paid("pay", 100).await;
    let mut holder = server.database.connect().await;
    let lock = format!("BEGIN; {}", take_lock("k"));
    raw_sql(sqlx::AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let (answer, ()) = pending_until_released(
        server.refund(&payment, "k", REMAINING),
        until_found_in_flight(&server),
        async { holder.close().await.unwrap() },
    )
    .await;
    assert_eq!(answer.status, 201);
}

#[tokio::test]
async fn stricter_isolation_as_the_default_of_the_database_changes_nothing() {
    for level in ["repeatable read", "serializable"] {
        let database = Arc::new(TestDatabase::create().await);
        database.set(&format!("default_transaction_isolation = '{level}'")).await;
        let server = TestServer::start_on(&database, &[]).await;
        let other = server.another().await;
        let payment = server.paid("pay", 100).await;
        let answers = crowd(&[&server, &other], &payment, 40, 40).await;
        assert_consistent(&server, &payment, 40, &answers).await;
    }
}
