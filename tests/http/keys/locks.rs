//! Rows and tables that another session has locked delay as few requests as possible.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use payonce_testing::{
    PAYMENT, TestServer, binary::Serve, client::Wire, metrics::reaches,
    wait::pending_until_released,
};
use sqlx::{PgConnection, raw_sql};

use crate::keys::in_flight::{PATIENT, assert_others_are_executed, claim};

/// Waits until this many batches have met a locked row or table.
async fn until_locks_are_met(server: &TestServer, count: u32) {
    reaches(server, "payonce_batch_failures_total{remedy=\"quarantine\"}", count).await;
}

async fn roll_back(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

#[tokio::test]
async fn a_locked_key_row_delays_no_other_key() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "held", false).await;
    let (held, ()) = pending_until_released(
        server.pay("held", PAYMENT),
        async {
            until_locks_are_met(&server, 1).await;
            assert_others_are_executed(&server, "other").await;
        },
        roll_back(holder),
    )
    .await;
    assert_eq!(held.status, 201);
}

#[tokio::test]
async fn a_locked_key_row_delays_one_batch_only() {
    let server = TestServer::start().await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let _holder = claim(&server, "held", false).await;
    for _ in 0..2 {
        let mut wire = Wire::connect(serve.address).await;
        let head = "Content-Type: application/json\r\nIdempotency-Key: held\r\n";
        wire.send_payment(head, PAYMENT).await;
        assert_eq!(wire.status().await, 409);
    }
    assert_eq!(serve.log().matches("is quarantined").count(), 1, "{}", serve.log());
}

#[tokio::test]
async fn one_locked_row_among_a_hundred_keys_is_quarantined() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "key-50", false).await;
    let keys: Vec<String> =
        (0..100).filter(|key| *key != 50).map(|key| format!("key-{key}")).collect();
    let (held, responses) = pending_until_released(
        server.pay("key-50", PAYMENT),
        join_all(keys.iter().map(|key| server.pay(key, PAYMENT))),
        roll_back(holder),
    )
    .await;
    assert!(responses.iter().all(|response| response.status == 201), "{responses:?}");
    assert_eq!(held.status, 201);
    assert_eq!(server.database.payments().await, 100);
}

#[tokio::test]
async fn twenty_locked_rows_among_two_hundred_keys_are_quarantined_in_time() {
    let flags = [&PATIENT[..], &["--max-batch", "512", "--committers", "1"]].concat();
    let server = TestServer::start_with(&flags).await;
    let mut holder = server.database.connect().await;
    raw_sql(
        "BEGIN; INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         SELECT '00000000-0000-0000-0000-000000000000', 'key-' || i, gen_random_uuid(), 'pay', '\\x01'
         FROM generate_series(0, 199, 10) AS i",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let pay = async |number: u32| server.pay(&format!("key-{number}"), PAYMENT).await.status;
    let (held, others): (Vec<u32>, Vec<u32>) = (0..200).partition(|number| number % 10 == 0);
    let begun = Instant::now();
    let (held, others) = pending_until_released(
        join_all(held.into_iter().map(pay)),
        async {
            let others = join_all(others.into_iter().map(pay)).await;
            // Executed one by one, the 200 keys would take 20 s.
            assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
            others
        },
        roll_back(holder),
    )
    .await;
    assert!(held.iter().chain(&others).all(|status| *status == 201), "{held:?} {others:?}");
}

#[tokio::test]
async fn quarantined_keys_delay_nobody_behind_them() {
    let wait = ["--in-flight-wait", "3s", "--request-deadline", "2m"];
    let flags = [&wait[..], &["--max-batch", "1", "--committers", "1"]].concat();
    let server = TestServer::start_with(&flags).await;
    let keys = ["held-1", "held-2", "held-3"];
    let mut holders = Vec::new();
    for key in keys {
        holders.push(claim(&server, key, false).await);
    }
    let held = async || join_all(keys.map(|key| server.pay(key, PAYMENT))).await;
    // From now on they are quarantined immediately.
    assert!(held().await.iter().all(|response| response.status == 409));
    let (held, (first, second)) = pending_until_released(
        held(),
        async { tokio::join!(server.pay("free-1", PAYMENT), server.pay("free-2", PAYMENT)) },
        async { drop(holders) },
    )
    .await;
    assert_eq!((first.status, second.status), (201, 201));
    assert!(held.iter().all(|response| response.status == 201), "{held:?}");
}

#[tokio::test]
async fn requests_wait_for_a_locked_table() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    let (responses, ()) = pending_until_released(
        join_all(keys.iter().map(|key| server.pay(key, PAYMENT))),
        until_locks_are_met(&server, 10),
        roll_back(holder),
    )
    .await;
    assert!(responses.iter().all(|response| response.status == 201), "{responses:?}");
    assert_eq!(server.database.payments().await, 20);
}
