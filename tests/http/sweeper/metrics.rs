//! Metrics of the sweeper: deleted rows and lag.

use std::sync::Arc;

use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    metrics::{Sample, becomes, reaches},
};

const LAST_SWEEP: &str = "payonce_sweep_last_success_timestamp_seconds";

const RESPONSES_LAG: &str = "payonce_sweep_lag_seconds{of=\"responses\"}";

const KEYS_LAG: &str = "payonce_sweep_lag_seconds{of=\"keys\"}";

#[tokio::test]
async fn deleted_rows_are_counted() {
    let server = TestServer::start_with(&["--sweep-interval", "1s"]).await;
    server.pay("a", PAYMENT).await;
    let started = Sample::of(&server).await.get(LAST_SWEEP);
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    reaches(&server, "payonce_sweep_deleted_rows_total{of=\"responses\"}", 1).await;
    becomes(&server, LAST_SWEEP, |at| at > started).await;
    Sample::of(&server).await.assert("payonce_sweep_deleted_rows_total{of=\"responses\"}", 1);
    server.database.execute("ALTER TABLE idempotency_responses RENAME TO elsewhere").await;
    reaches(&server, "payonce_sweep_failures_total", 1).await;
}

#[tokio::test]
async fn the_lag_grows_while_the_sweeper_fails() {
    let server = TestServer::start_with(&["--sweep-interval", "1s"]).await;
    let started = Sample::of(&server).await.get(LAST_SWEEP);
    becomes(&server, LAST_SWEEP, |at| at > started).await;
    Sample::of(&server).await.assert(RESPONSES_LAG, 0);
    // Its id is young, so no sweep reaches it.
    server.pay("a", PAYMENT).await;
    let expires =
        |when| format!("UPDATE idempotency_responses SET replayable_until = now() {when}");
    server.database.execute(&expires("- interval '2 hours'")).await;
    reaches(&server, RESPONSES_LAG, 7200).await;

    server.database.execute("ALTER TABLE idempotency_responses RENAME TO elsewhere").await;
    reaches(&server, "payonce_sweep_failures_total", 1).await;
    let lag = Sample::of(&server).await.get(RESPONSES_LAG);
    becomes(&server, RESPONSES_LAG, |later| later > lag + 1.5).await;

    server.database.execute("ALTER TABLE elsewhere RENAME TO idempotency_responses").await;
    server.database.execute(&expires("+ interval '1 hour'")).await;
    becomes(&server, RESPONSES_LAG, |lag| lag == 0.0).await;
}

#[tokio::test]
async fn a_sweep_that_fails_halfway_reports_the_age_of_the_rest() {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', lpad(to_hex(i), 32, '0')::uuid, 201, '', '', now() - interval '1 day' * (3 - i / 1001)
             FROM generate_series(1, 2000) AS i",
        )
        .await;
    let mut locked = database.connect().await;
    sqlx::query("BEGIN").execute(&mut locked).await.unwrap();
    let last = "SELECT FROM idempotency_responses ORDER BY execution_id DESC LIMIT 1 FOR UPDATE";
    sqlx::query(last).execute(&mut locked).await.unwrap();
    let server = TestServer::start_on(&database, &["--sweep-interval", "1s"]).await;
    reaches(&server, "payonce_sweep_failures_total", 1).await;
    let sample = Sample::of(&server).await;
    sample.assert("payonce_sweep_deleted_rows_total{of=\"responses\"}", 1000);
    let days = sample.get(RESPONSES_LAG) / 86400.0;
    assert!((2.0..2.01).contains(&days), "{days}");

    sqlx::query("ROLLBACK").execute(&mut locked).await.unwrap();
    reaches(&server, "payonce_sweep_deleted_rows_total{of=\"responses\"}", 2000).await;
    Sample::of(&server).await.assert(RESPONSES_LAG, 0);
}

#[tokio::test]
async fn the_lag_of_a_sweeper_that_found_nothing_starts_when_something_may_have_expired() {
    let flags = ["--sweep-interval", "1s", "--idempotency-response-ttl", "3s"];
    let deadlines = ["--request-deadline", "2s", "--in-flight-wait", "1s"];
    let server = TestServer::start_with(&[flags, deadlines].concat()).await;
    let started = Sample::of(&server).await.get(LAST_SWEEP);
    becomes(&server, LAST_SWEEP, |at| at > started).await;
    Sample::of(&server).await.assert(RESPONSES_LAG, 0);
    server.database.execute("ALTER TABLE idempotency_responses RENAME TO elsewhere").await;
    reaches(&server, RESPONSES_LAG, 1).await;
}

#[tokio::test]
async fn the_lag_of_keys_grows_until_they_are_swept_again() {
    let database = Arc::new(TestDatabase::create().await);
    let server = TestServer::start_on(&database, &["--sweep-interval", "never"]).await;
    for key in ["a", "b", "c"] {
        server.pay(key, PAYMENT).await;
    }
    // One key expired more than an hour ago, one will have in seconds, and one is young.
    database
        .execute(
            "UPDATE idempotency_keys SET created_at = now() - interval '25 hours' WHERE key = 'a';
             UPDATE idempotency_keys SET created_at = now() - interval '25 hours' + interval '8 s' WHERE key = 'b'",
        )
        .await;
    let flags = ["--sweep-interval", "1s", "--idempotency-key-ttl", "24h"];
    let sweeper = TestServer::start_on(&database, &flags).await;
    reaches(&sweeper, "payonce_sweep_deleted_rows_total{of=\"keys\"}", 1).await;
    Sample::of(&sweeper).await.assert(KEYS_LAG, 0);
    reaches(&sweeper, KEYS_LAG, 1).await;
    Sample::of(&sweeper).await.assert("payonce_sweep_deleted_rows_total{of=\"keys\"}", 1);
}

#[tokio::test]
async fn the_lag_counts_from_the_start_until_the_first_sweep() {
    let server = TestServer::start().await;
    becomes(&server, RESPONSES_LAG, |lag| lag > 0.0).await;
    Sample::of(&server).await.assert(KEYS_LAG, 0);
    let unswept = TestServer::start_on(&server.database, &["--sweep-interval", "never"]).await;
    Sample::of(&unswept).await.assert(RESPONSES_LAG, 0);
}
