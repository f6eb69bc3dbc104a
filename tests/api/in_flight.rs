//! A key that somebody else is executing, and rows that somebody else has locked.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

use crate::{
    metrics::{Sample, reaches},
    support::{
        PAYMENT, TestServer,
        binary::Serve,
        client::Wire,
        database::take_lock,
        wait::{pending_until_released, until},
    },
};

/// No request meets its deadline, or the end of its wait for a key, however busy the machine is.
const PATIENT: [&str; 4] = ["--in-flight-wait", "1m", "--request-deadline", "2m"];

/// Claims a key as another server would, in a transaction that stays open.
async fn claim(server: &TestServer, key: &str, advisory_lock: bool) -> PgConnection {
    let mut conn = server.database.connect().await;
    raw_sql("BEGIN").execute(&mut conn).await.unwrap();
    if advisory_lock {
        raw_sql(AssertSqlSafe(take_lock(key))).execute(&mut conn).await.unwrap();
    }
    sqlx::query(
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         VALUES ('00000000-0000-0000-0000-000000000000', $1, gen_random_uuid(), 'pay', '\\x01')",
    )
    .bind(key)
    .execute(&mut conn)
    .await
    .unwrap();
    conn
}

async fn assert_others_are_executed(server: &TestServer, name: &str) {
    for number in 0..20 {
        assert_eq!(server.pay(&format!("{name}-{number}"), PAYMENT).await.status, 201);
    }
}

/// Waits until a request has been looked up because its key is in flight elsewhere.
pub(crate) async fn until_found_in_flight(server: &TestServer) {
    until("a key is looked up", async || Sample::of(server).await.batch_steps("look_up") > 0).await;
}

/// Waits until this many keys or halves of batches have met a locked row or table.
async fn until_locks_are_met(server: &TestServer, count: u32) {
    reaches(server, "payonce_batch_failures_total{remedy=\"quarantine\"}", count).await;
}

async fn roll_back(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

#[tokio::test]
async fn a_key_that_another_server_is_executing_is_waited_for_and_then_refused() {
    // Longer than the default, which is therefore not what ends the wait.
    let flags = ["--in-flight-wait", "2500ms", "--request-deadline", "2m"];
    let server = TestServer::start_with(&flags).await;
    let holder = claim(&server, "held", true).await;
    let begun = Instant::now();
    server.pay("held", PAYMENT).await.assert_problem(409, "idempotency-key-in-flight");
    assert!(begun.elapsed() >= Duration::from_millis(2500), "{:?}", begun.elapsed());
    roll_back(holder).await;
    assert_eq!(server.pay("held", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn a_key_that_another_server_is_executing_holds_up_no_other_key() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "held", true).await;
    let (held, ()) = pending_until_released(
        server.pay("held", PAYMENT),
        async {
            until_found_in_flight(&server).await;
            assert_others_are_executed(&server, "other").await;
        },
        roll_back(holder),
    )
    .await;
    assert_eq!(held.status, 201);
}

#[tokio::test]
async fn a_key_that_another_server_is_executing_is_passed_by_and_not_waited_for() {
    let server = TestServer::start_with(&PATIENT).await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let _holder = claim(&server, "held", true).await;
    let mut wire = Wire::connect(serve.address).await;
    wire.send_payment("Content-Type: application/json\r\nIdempotency-Key: held\r\n", PAYMENT).await;
    assert_eq!(wire.status().await, 409);
    // No statement ever waited for the row until its lock_timeout.
    assert!(!serve.log().contains("is quarantined"), "{}", serve.log());
}

#[tokio::test]
async fn a_request_is_executed_when_the_other_server_gives_its_key_up_in_time() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "held", true).await;
    let found = until_found_in_flight(&server);
    let (answer, ()) =
        pending_until_released(server.pay("held", PAYMENT), found, roll_back(holder)).await;
    assert_eq!(answer.status, 201);
}

/// Takes what was committed back, and puts it there again in a transaction that stays open.
async fn put_again(server: &TestServer, key: &str, advisory_lock: bool) -> PgConnection {
    let mut holder = server.database.connect().await;
    let lock = if advisory_lock { take_lock(key) } else { String::new() };
    let put_again = format!(
        "CREATE TABLE kept AS SELECT * FROM idempotency_keys; DELETE FROM idempotency_keys; COMMIT; BEGIN; {lock};
         INSERT INTO idempotency_keys SELECT * FROM kept"
    );
    raw_sql(AssertSqlSafe(put_again)).execute(&mut holder).await.unwrap();
    holder
}

#[tokio::test]
async fn a_request_is_replayed_when_the_other_server_commits_in_time() {
    let server = TestServer::start_with(&PATIENT).await;
    let first = server.pay("held", PAYMENT).await;
    let mut holder = put_again(&server, "held", true).await;
    let found = until_found_in_flight(&server);
    let (answer, ()) = pending_until_released(server.pay("held", PAYMENT), found, async {
        raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    })
    .await;
    assert_eq!((answer.status, answer.body), (200, first.body));
}

#[tokio::test]
async fn a_key_that_is_committed_elsewhere_while_a_batch_claims_it_costs_the_batch_nothing() {
    let server = TestServer::start_with(&PATIENT).await;
    server.database.disable_lock_timeout().await;
    let first = server.pay("held", PAYMENT).await;
    let mut holder = put_again(&server, "held", false).await;
    let keys = ["a", "held", "z"];
    let (answers, ()) = tokio::join!(join_all(keys.map(|key| server.pay(key, PAYMENT))), async {
        // The statement has begun, finds the key unused, and waits for its row.
        server.database.until_locks_are_waited_for(1).await;
        raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    });
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [201, 200, 201]);
    assert_eq!(answers[1].body, first.body);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_batch_failures_total{remedy=\"isolate\"}", 0);
    assert!(sample.batch_steps("claim") > 0, "nothing broke the unique constraint");
}

#[tokio::test]
async fn a_key_row_that_is_locked_by_something_else_holds_up_no_other_key() {
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
async fn a_key_that_held_up_a_batch_holds_up_no_other() {
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
async fn one_locked_row_among_a_hundred_keys_is_put_aside() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "key-50", false).await;
    let keys: Vec<String> =
        (0..100).filter(|key| *key != 50).map(|key| format!("key-{key}")).collect();
    let (held, answers) = pending_until_released(
        server.pay("key-50", PAYMENT),
        join_all(keys.iter().map(|key| server.pay(key, PAYMENT))),
        roll_back(holder),
    )
    .await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(held.status, 201);
    assert_eq!(server.database.payments().await, 100);
}

#[tokio::test]
async fn many_locked_rows_among_hundreds_of_keys_are_put_aside_in_time() {
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
            // Tried one by one, they and the locked ones would take 20 s.
            assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
            others
        },
        roll_back(holder),
    )
    .await;
    assert!(held.iter().chain(&others).all(|status| *status == 201), "{held:?} {others:?}");
}

#[tokio::test]
async fn keys_that_are_put_aside_leave_nobody_waiting_behind_them() {
    let wait = ["--in-flight-wait", "3s", "--request-deadline", "2m"];
    let flags = [&wait[..], &["--max-batch", "1", "--committers", "1"]].concat();
    let server = TestServer::start_with(&flags).await;
    let keys = ["held-1", "held-2", "held-3"];
    let mut holders = Vec::new();
    for key in keys {
        holders.push(claim(&server, key, false).await);
    }
    let held = async || join_all(keys.map(|key| server.pay(key, PAYMENT))).await;
    // From now on they are put aside at once.
    assert!(held().await.iter().all(|answer| answer.status == 409));
    let (held, (first, second)) = pending_until_released(
        held(),
        async { tokio::join!(server.pay("free-1", PAYMENT), server.pay("free-2", PAYMENT)) },
        async { drop(holders) },
    )
    .await;
    assert_eq!((first.status, second.status), (201, 201));
    assert!(held.iter().all(|answer| answer.status == 201), "{held:?}");
}

#[tokio::test]
async fn a_locked_table_is_waited_for() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    let (answers, ()) = pending_until_released(
        join_all(keys.iter().map(|key| server.pay(key, PAYMENT))),
        until_locks_are_met(&server, 10),
        roll_back(holder),
    )
    .await;
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(server.database.payments().await, 20);
}
