//! Keys that another server is executing.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use payonce_testing::{
    PAYMENT, TestServer,
    binary::Serve,
    client::Wire,
    database::take_lock,
    metrics::{Sample, until_found_in_flight},
    wait::pending_until_released,
};
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

/// No request meets its deadline, or the end of its wait for a key, however busy the machine is.
pub(crate) const PATIENT: [&str; 4] = ["--in-flight-wait", "1m", "--request-deadline", "2m"];

/// Claims a key as another server would, in a transaction that stays open.
pub(crate) async fn claim(server: &TestServer, key: &str, advisory_lock: bool) -> PgConnection {
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

pub(crate) async fn assert_others_are_executed(server: &TestServer, name: &str) {
    for number in 0..20 {
        assert_eq!(server.pay(&format!("{name}-{number}"), PAYMENT).await.status, 201);
    }
}

async fn roll_back(mut holder: PgConnection) {
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

#[tokio::test]
async fn a_request_waits_for_another_server_and_is_then_refused() {
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
async fn a_key_that_another_server_executes_delays_no_other_key() {
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
async fn a_batch_does_not_wait_for_a_key_that_another_server_executes() {
    let server = TestServer::start_with(&PATIENT).await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let _holder = claim(&server, "held", true).await;
    let mut wire = Wire::connect(serve.address).await;
    wire.send_payment("Content-Type: application/json\r\nIdempotency-Key: held\r\n", PAYMENT).await;
    assert_eq!(wire.status().await, 409);
    // No statement waited for the row until its lock_timeout.
    assert!(!serve.log().contains("is quarantined"), "{}", serve.log());
}

#[tokio::test]
async fn a_request_is_executed_when_the_other_server_rolls_back() {
    let server = TestServer::start_with(&PATIENT).await;
    let holder = claim(&server, "held", true).await;
    let found = until_found_in_flight(&server);
    let (response, ()) =
        pending_until_released(server.pay("held", PAYMENT), found, roll_back(holder)).await;
    assert_eq!(response.status, 201);
}

/// Deletes the committed key, and inserts it again in a transaction that stays open.
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
async fn a_request_is_replayed_when_the_other_server_commits() {
    let server = TestServer::start_with(&PATIENT).await;
    let first = server.pay("held", PAYMENT).await;
    let mut holder = put_again(&server, "held", true).await;
    let found = until_found_in_flight(&server);
    let (response, ()) = pending_until_released(server.pay("held", PAYMENT), found, async {
        raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    })
    .await;
    assert_eq!((response.status, response.body), (200, first.body));
}

#[tokio::test]
async fn a_key_that_is_committed_elsewhere_fails_no_other_key_of_its_batch() {
    let server = TestServer::start_with(&PATIENT).await;
    server.database.disable_lock_timeout().await;
    let first = server.pay("held", PAYMENT).await;
    let mut holder = put_again(&server, "held", false).await;
    let keys = ["a", "held", "z"];
    let (responses, ()) = tokio::join!(join_all(keys.map(|key| server.pay(key, PAYMENT))), async {
        // The statement found the key unused and waits for its row.
        server.database.until_locks_are_waited_for(1).await;
        raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    });
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [201, 200, 201]);
    assert_eq!(responses[1].body, first.body);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_batch_failures_total{remedy=\"isolate\"}", 0);
    assert!(sample.batch_steps("claim") > 0, "nothing broke the unique constraint");
}
