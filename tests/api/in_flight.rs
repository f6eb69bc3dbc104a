//! A key that somebody else is executing, and rows that somebody else has locked.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};

use crate::{
    metrics::Sample,
    support::{PAYMENT, TestServer, binary::Serve, client::Wire, database::take_lock},
};

const PATIENT: [&str; 2] = ["--in-flight-wait", "600ms"];

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

async fn assert_others_unharmed(server: &TestServer, name: &str) {
    let mut slow = Vec::new();
    for number in 0..20 {
        let begun = Instant::now();
        assert_eq!(server.pay(&format!("{name}-{number}"), PAYMENT).await.status, 201);
        slow.extend(Some(begun.elapsed()).filter(|took| *took > Duration::from_millis(500)));
    }
    // One may meet a hiccup of the machine.
    assert!(slow.len() <= 1, "{name}: {slow:?}");
}

#[tokio::test]
async fn a_key_that_another_server_is_executing_is_waited_for_and_then_refused() {
    let server = TestServer::start_with(&PATIENT).await;
    let mut holder = claim(&server, "held", true).await;
    let (held, ()) = tokio::join!(
        async {
            let begun = Instant::now();
            (server.pay("held", PAYMENT).await, begun.elapsed())
        },
        assert_others_unharmed(&server, "other"),
    );
    held.0.assert_problem(409, "idempotency-key-in-flight");
    assert!((600..2000).contains(&held.1.as_millis()), "{:?}", held.1);

    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.pay("held", PAYMENT).await.status, 201);
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
    let server = TestServer::start().await;
    let mut holder = claim(&server, "held", true).await;
    let (answer, ()) = tokio::join!(server.pay("held", PAYMENT), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    });
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
    let server = TestServer::start().await;
    let first = server.pay("held", PAYMENT).await;
    let mut holder = put_again(&server, "held", true).await;
    let (answer, ()) = tokio::join!(server.pay("held", PAYMENT), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    });
    assert_eq!((answer.status, answer.body), (200, first.body));
}

#[tokio::test]
async fn a_key_that_is_committed_elsewhere_while_a_batch_claims_it_costs_the_batch_nothing() {
    let server = TestServer::start().await;
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
async fn a_key_row_that_is_locked_by_something_else_holds_up_nobody_else() {
    let server = TestServer::start_with(&PATIENT).await;
    let mut holder = claim(&server, "held", false).await;
    server.pay("held", PAYMENT).await.assert_problem(409, "idempotency-key-in-flight");
    // Known by now: it goes aside at once.
    let (held, ()) =
        tokio::join!(server.pay("held", PAYMENT), assert_others_unharmed(&server, "other"));
    held.assert_problem(409, "idempotency-key-in-flight");
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.pay("held", PAYMENT).await.status, 201);
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
    let mut holder = claim(&server, "key-50", false).await;
    let keys: Vec<String> = (0..100).map(|key| format!("key-{key}")).collect();
    let answers = join_all(keys.iter().map(|key| server.pay(key, PAYMENT))).await;
    for (key, answer) in keys.iter().zip(&answers) {
        assert_eq!(answer.status, if key == "key-50" { 409 } else { 201 }, "{key}");
    }
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.pay("key-50", PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 100);
}

#[tokio::test]
async fn many_locked_rows_among_hundreds_of_keys_are_put_aside_in_time() {
    let server = TestServer::start_with(&["--max-batch", "512", "--committers", "1"]).await;
    let mut holder = server.database.connect().await;
    raw_sql(
        "BEGIN; INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         SELECT '00000000-0000-0000-0000-000000000000', 'key-' || i, gen_random_uuid(), 'pay', '\\x01'
         FROM generate_series(0, 199, 10) AS i",
    )
    .execute(&mut holder)
    .await
    .unwrap();
    let begun = Instant::now();
    let answers = join_all((0..200).map(async |number| {
        let answer = server.pay(&format!("key-{number}"), PAYMENT).await;
        (number, answer.status, begun.elapsed())
    }))
    .await;
    for (number, status, took) in answers {
        if number % 10 == 0 {
            assert_eq!(status, 409, "key-{number}");
        } else {
            assert!(
                status == 201 && took < Duration::from_secs(8),
                "key-{number}: {status} after {took:?}"
            );
        }
    }
}

#[tokio::test]
async fn keys_that_are_put_aside_leave_nobody_waiting_behind_them() {
    let server = TestServer::start_with(&["--max-batch", "1", "--committers", "1"]).await;
    let keys = ["held-1", "held-2", "held-3"];
    let mut holders = Vec::new();
    for key in keys {
        holders.push(claim(&server, key, false).await);
    }
    // From now on they go aside at once.
    let held = async || join_all(keys.map(|key| server.pay(key, PAYMENT))).await;
    held().await;
    let begun = Instant::now();
    let (_, first, second) = tokio::join!(held(), server.pay("free-1", PAYMENT), async {
        tokio::time::sleep(Duration::from_millis(20)).await;
        server.pay("free-2", PAYMENT).await
    });
    assert_eq!((first.status, second.status), (201, 201));
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_locked_table_is_waited_for() {
    let server = TestServer::start().await;
    let mut holder = server.database.lock_payments().await;
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    let (answers, ()) =
        tokio::join!(join_all(keys.iter().map(|key| server.pay(key, PAYMENT))), async {
            tokio::time::sleep(Duration::from_millis(1200)).await;
            raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
        });
    assert!(answers.iter().all(|answer| answer.status == 201), "{answers:?}");
    assert_eq!(server.database.payments().await, 20);
}
