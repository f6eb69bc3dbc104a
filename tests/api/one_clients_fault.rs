//! What one client's request provokes in the database fails that request alone, also where the error looks like
//! the server's.

use futures_util::future::join_all;
use sqlx::{AssertSqlSafe, Row, raw_sql};

use crate::{
    metrics::{Sample, reaches},
    support::{
        PAYMENT, TestServer,
        binary::Serve,
        client::{Answer, Wire},
    },
};

/// How many others pay beside the one.
const OTHERS: usize = 40;

const MALLORYS: &str = r#"{"user_id": "mallory", "amount": 100}"#;

/// A server whose database does this at each payment of one user, and takes its time for another's.
async fn with_trigger(flags: &[&str], statement: &str) -> TestServer {
    let server = TestServer::start_with(&[&["--committers", "1"], flags].concat()).await;
    let trigger = format!(
        "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.user_id = 'mallory' THEN {statement}; END IF;
             IF NEW.user_id = 'slow' THEN PERFORM pg_sleep(0.5); END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER fault BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION fault()"
    );
    server.database.execute(&trigger).await;
    server
}

/// Sends them while another payment is being executed, so that they share batches.
async fn pay_together(server: &TestServer) -> (Answer, Vec<Answer>) {
    let keys: Vec<String> = (0..OTHERS).map(|number| format!("good-{number}")).collect();
    let (_, (bad, good)) =
        tokio::join!(server.pay("slow", r#"{"user_id": "slow", "amount": 100}"#), async {
            server.database.until_a_session_sleeps().await;
            let good = join_all(keys.iter().map(|key| server.pay(key, PAYMENT)));
            tokio::join!(server.pay("mallory", MALLORYS), good)
        });
    (bad, good)
}

fn assert_taken(answers: &[Answer]) {
    for answer in answers {
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
}

/// A trigger raises this error for one client's payment.
async fn assert_fails_alone(state: &str, code: &str, detail: &str) {
    let flags = ["--request-deadline", "8s"];
    let server = with_trigger(&flags, &format!("RAISE SQLSTATE '{state}'")).await;
    let (bad, good) = pay_together(&server).await;
    assert_taken(&good);
    bad.assert_problem(503, code);
    assert!(bad.member("detail").contains(detail), "{state}: {}", bad.body);
    // Nothing of it is left, and its key can be used once the cause is gone.
    server.database.execute("DROP TRIGGER fault ON payments").await;
    assert_eq!(server.pay("mallory", MALLORYS).await.status, 201, "{state}");
}

#[test]
fn an_error_that_looks_like_the_servers_fails_the_one_request_that_provokes_it() {
    // Each on a thread of its own: a database that is dropped at the end blocks it.
    std::thread::scope(|scope| {
        for (state, code, detail) in [
            ("57014", "not-executed", "took too long"),
            ("53100", "overloaded", "has run out of"),
            ("53200", "overloaded", "has run out of"),
            ("40001", "not-executed", "conflicted with others"),
            ("40P01", "not-executed", "conflicted with others"),
            ("55P03", "not-executed", "holds a lock"),
            ("25006", "not-executed", "took no writes"),
            ("25P03", "not-executed", "connection to the database was lost"),
            ("57P01", "not-executed", "connection to the database was lost"),
            ("57P03", "not-executed", "connection to the database was lost"),
            // What a pooler says of a server that it has lost: the payment may be there.
            ("08006", "outcome-unknown", "Send the same request again"),
        ] {
            scope.spawn(move || block_on(assert_fails_alone(state, code, detail)));
        }
    });
}

/// Runs a future to its end, on this thread.
fn block_on(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future);
}

#[tokio::test]
async fn a_request_that_takes_too_long_fails_alone() {
    let server = with_trigger(&["--request-deadline", "10s"], "PERFORM pg_sleep(60)").await;
    let (bad, good) = pay_together(&server).await;
    assert_taken(&good);
    bad.assert_problem(503, "not-executed");
    assert!(bad.member("detail").contains("took too long"), "{}", bad.body);
}

#[tokio::test]
async fn a_slow_request_that_is_not_too_slow_succeeds_and_so_do_the_others() {
    // Longer than a statement may take while a command is searched for.
    let server = with_trigger(&["--request-deadline", "10s"], "PERFORM pg_sleep(1.2)").await;
    let (slow, good) = pay_together(&server).await;
    assert_taken(&good);
    assert_taken(&[slow]);
}

/// A lock on this table, which every payment needs.
async fn assert_locked_table_is_told(table: &str) {
    let server = TestServer::start_with(&["--in-flight-wait", "600ms"]).await;
    let mut holder = server.database.connect().await;
    let name = "SET application_name = 'nightly migration'";
    let lock = format!("{name}; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    for answer in join_all(keys.iter().map(|key| server.pay(key, PAYMENT))).await {
        answer.assert_problem(503, "not-executed");
        assert!(answer.member("detail").contains("holds a lock on a table"), "{}", answer.body);
        assert!(
            !answer.body.contains(table) && !answer.body.contains("nightly"),
            "{}",
            answer.body
        );
    }
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    for answer in join_all(keys.iter().map(|key| server.pay(key, PAYMENT))).await {
        assert_eq!(answer.status, 201, "{table}: {}", answer.body);
    }
}

#[tokio::test]
async fn a_table_that_another_session_has_locked_is_no_key_in_flight() {
    for table in ["idempotency_keys", "idempotency_responses", "payments"] {
        assert_locked_table_is_told(table).await;
    }
}

#[tokio::test]
async fn the_session_that_has_locked_a_table_is_named_in_the_log_and_found_by_the_runbook() {
    let server = TestServer::start().await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let mut holder = server.database.connect().await;
    let lock = "SET application_name = 'nightly migration'; BEGIN; LOCK TABLE payments";
    raw_sql(lock).execute(&mut holder).await.unwrap();
    for _ in 0..3 {
        let mut wire = Wire::connect(serve.address).await;
        let head = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
        wire.send_payment(head, PAYMENT).await;
        assert_eq!(wire.status().await, 503);
    }
    let pid: i32 =
        sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut holder).await.unwrap();
    let named = format!(
        "table payments is locked by session {pid} (AccessExclusiveLock, application_name nightly migration"
    );
    assert_eq!(serve.log().matches(&named).count(), 1, "{}", serve.log());

    let runbooks = include_str!("../../docs/operations/runbooks.md");
    let section = runbooks.split("## PayonceTableLocked").nth(1).unwrap();
    let query = section.split("```sql").nth(1).unwrap().split("```").next().unwrap();
    let mut conn = server.database.connect().await;
    let rows = raw_sql(query).fetch_all(&mut conn).await.unwrap();
    let holders: Vec<i32> = rows.iter().map(|row| row.get("held_by")).collect();
    assert_eq!(holders, [pid]);
}

#[tokio::test]
async fn a_locked_table_is_counted_and_a_key_that_is_locked_is_not() {
    let server = TestServer::start_with(&["--in-flight-wait", "600ms"]).await;
    let mut holder = server.database.connect().await;
    let row = "BEGIN; INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
               VALUES ('00000000-0000-0000-0000-000000000000', 'k', gen_random_uuid(), 'pay', '\\x01')";
    raw_sql(row).execute(&mut holder).await.unwrap();
    server.pay("k", PAYMENT).await.assert_problem(409, "idempotency-key-in-flight");
    Sample::of(&server).await.assert("payonce_locked_tables_total", 0);
    raw_sql("ROLLBACK; BEGIN; LOCK TABLE idempotency_keys").execute(&mut holder).await.unwrap();
    server.pay("k", PAYMENT).await.assert_problem(503, "not-executed");
    reaches(&server, "payonce_locked_tables_total", 1).await;
}

#[tokio::test]
async fn a_table_that_another_session_waits_to_lock_is_told_of_by_the_one_that_it_waits_for() {
    let server = TestServer::start().await;
    let serve = Serve::start(&server.database.options, &[("IN_FLIGHT_WAIT", "600ms")]);
    let (mut idle, mut migration) =
        (server.database.connect().await, server.database.connect().await);
    let read = "SET application_name = 'forgotten'; BEGIN; SELECT count(*) FROM payments";
    raw_sql(read).execute(&mut idle).await.unwrap();
    let alter = async {
        raw_sql("ALTER TABLE payments ADD COLUMN extra int").execute(&mut migration).await
    };
    let pay = async {
        server.database.until_locks_are_waited_for(1).await;
        let mut wire = Wire::connect(serve.address).await;
        wire.send_payment("Content-Type: application/json\r\nIdempotency-Key: k\r\n", PAYMENT)
            .await;
        assert_eq!(wire.status().await, 503);
        assert!(serve.log().contains("application_name forgotten"), "{}", serve.log());
        raw_sql("ROLLBACK").execute(&mut idle).await.unwrap();
    };
    let (altered, ()) = tokio::join!(alter, pay);
    altered.unwrap();
}
