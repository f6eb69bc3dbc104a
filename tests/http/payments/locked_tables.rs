//! A table that another session has locked is reported as such, with its session.

use std::sync::Arc;

use futures_util::future::join_all;
use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::Serve,
    client::Wire,
    metrics::{Sample, reaches},
};
use sqlx::{AssertSqlSafe, Row, raw_sql};

use crate::database::privileges::{GRANTS, Role};

/// Locks this table, which every payment needs.
async fn assert_locked_table_is_told(table: &str) {
    let server = TestServer::start_with(&["--in-flight-wait", "600ms"]).await;
    let mut holder = server.database.connect().await;
    let name = "SET application_name = 'nightly migration'";
    let lock = format!("{name}; BEGIN; LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE");
    raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let keys: Vec<String> = (0..20).map(|key| format!("key-{key}")).collect();
    for response in join_all(keys.iter().map(|key| server.pay(key, PAYMENT))).await {
        response.assert_problem(503, "not-executed");
        assert!(response.field("detail").contains("holds a lock on a table"), "{}", response.body);
        assert!(
            !response.body.contains(table) && !response.body.contains("nightly"),
            "{}",
            response.body
        );
    }
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    for response in join_all(keys.iter().map(|key| server.pay(key, PAYMENT))).await {
        assert_eq!(response.status, 201, "{table}: {}", response.body);
    }
}

#[tokio::test]
async fn a_locked_table_is_not_reported_as_a_key_in_flight() {
    for table in ["idempotency_keys", "idempotency_responses", "payments"] {
        assert_locked_table_is_told(table).await;
    }
}

#[tokio::test]
async fn a_locked_partition_is_not_reported_as_a_key_in_flight() {
    let database = Arc::new(TestDatabase::create_plain().await);
    database.partition(2).await;
    let role = Role::with(&database, GRANTS).await;
    let flags = ["--auto-migrate", "false", "--in-flight-wait", "600ms"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    let mut holder = database.connect().await;
    let lock = "BEGIN; LOCK TABLE idempotency_keys_0, idempotency_keys_1";
    raw_sql(lock).execute(&mut holder).await.unwrap();
    server.pay("k", PAYMENT).await.assert_problem(503, "not-executed");
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    drop(server);
    role.drop().await;
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

    let runbooks = include_str!("../../../docs/operations/runbooks.md");
    let section = runbooks.split("## PayonceTableLocked").nth(1).unwrap();
    let query = section.split("```sql").nth(1).unwrap().split("```").next().unwrap();
    let mut conn = server.database.connect().await;
    let rows = raw_sql(query).fetch_all(&mut conn).await.unwrap();
    let mut holders: Vec<i32> = rows.iter().map(|row| row.get("held_by")).collect();
    // A row for each partition, where there are any.
    holders.dedup();
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
async fn the_log_names_the_session_that_holds_a_table_and_not_the_one_that_waits_for_it() {
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
