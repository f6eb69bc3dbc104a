//! The sweeper deletes expired responses and keys, and nothing else.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use payonce::{
    db::sweep::{self, Pace},
    idempotency::{Oldest, Sweeper},
};
use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    proxy::{Fault, Proxy, Step},
};
use reqwest::Method;
use sqlx::Row;

const AGE_RESPONSES: &str =
    "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'";

const AGE_KEYS: &str = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'";

/// Keys expire together with their responses.
const FORGETFUL: [&str; 2] = ["--idempotency-key-ttl", "24h"];

async fn sweep_once(server: &TestServer, key_ttl: Option<Duration>) -> (u64, u64) {
    let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), key_ttl);
    sweep::pass(&mut sweeper, &server.database.options, Pace::Full, |_, _| {}).await.unwrap()
}

#[tokio::test]
async fn a_sweep_deletes_expired_responses_and_nothing_else() {
    let server = TestServer::start().await;
    for key in ["expired", "refused", "kept"] {
        server.pay(key, PAYMENT).await;
    }
    let of = |key| format!("(SELECT execution_id FROM idempotency_keys WHERE key = '{key}')");
    let (expired, refused) = (of("expired"), of("refused"));
    server.database.execute(&format!("{AGE_RESPONSES} WHERE execution_id = {expired}")).await;
    server
        .database
        .execute(&format!(
            "UPDATE idempotency_responses SET replayable_until = NULL, status = 402 WHERE execution_id = {refused}"
        ))
        .await;
    assert_eq!(sweep_once(&server, None).await, (1, 0));
    assert_eq!(sweep_once(&server, None).await, (0, 0));
    server.pay("expired", PAYMENT).await.assert_problem(410, "idempotency-key-expired");
    assert_eq!(server.pay("refused", PAYMENT).await.status, 402);
    assert_eq!(server.pay("kept", PAYMENT).await.status, 200);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 3);
}

#[tokio::test]
async fn a_sweep_deletes_old_keys_only_if_keys_have_a_ttl() {
    let server = TestServer::start().await;
    server.pay("old", PAYMENT).await;
    server.database.execute(AGE_KEYS).await;
    server.pay("young", PAYMENT).await;
    assert_eq!(sweep_once(&server, None).await, (0, 0));
    assert_eq!(sweep_once(&server, Some(Duration::from_hours(24))).await, (0, 1));
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 1);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_responses").await, 1);
    assert_eq!(server.pay("old", PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 3);
}

#[tokio::test]
async fn a_sweep_processes_every_page() {
    let server = TestServer::start().await;
    server
        .database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', lpad(to_hex(i), 32, '0')::uuid, 201, '', '',
                    CASE WHEN i % 2 = 0 THEN now() - interval '1 day' END
             FROM generate_series(1, 5000) AS i;
             INSERT INTO idempotency_keys
             SELECT gen_random_uuid(), 'k' || i, gen_random_uuid(), 'pay', '', now() - interval '2 days' * (i % 2)
             FROM generate_series(1, 5000) AS i",
        )
        .await;
    assert_eq!(sweep_once(&server, Some(Duration::from_hours(24))).await, (2500, 2500));
}

/// Sends a request whose transaction begins just before the TTL of its key is over, and sweeps before that
/// transaction claims the key. Returns how much later the key is used again than its TTL allows.
async fn used_again_while_swept(path: &str, body: &str) -> TimeDelta {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let through = proxy.through(&database.options);
    let server = TestServer::start_through(&database, &through, &FORGETFUL).await;
    server.pay("k", PAYMENT).await;
    // Connected beforehand: PostgreSQL ends a transaction that stands still for a second.
    let mut conn = database.connect().await;
    let mut sweeping = database.connect().await;
    let day = Some(Duration::from_hours(24));
    let mut sweeper = Sweeper::new(day, day);

    proxy.arm(Step::Begun, Fault::Hold);
    let client = server.anonymous.clone();
    let (path, body) = (path.to_owned(), body.to_owned());
    let retry = tokio::spawn(async move {
        let headers = [("idempotency-key", "k"), ("content-type", "application/json")];
        client.request(Method::POST, &path, &headers, &body).await
    });
    proxy.reached().await;
    let expire = "UPDATE idempotency_keys SET created_at = xact_start + interval '1 ms' - interval '24 hours'
                  FROM pg_stat_activity
                  WHERE datname = current_database() AND state = 'idle in transaction'
                  RETURNING created_at + interval '24 hours'";
    let expires: DateTime<Utc> = sqlx::query(expire).fetch_one(&mut conn).await.unwrap().get(0);
    while !sweeper.step(&mut sweeping).await.unwrap().done {}
    proxy.let_go();
    retry.await.unwrap();
    let used = sqlx::query("SELECT created_at FROM idempotency_keys").fetch_one(&mut conn).await;
    used.unwrap().get::<DateTime<Utc>, _>(0) - expires
}

#[tokio::test]
async fn a_sweep_frees_no_key_for_a_transaction_that_began_within_its_ttl() {
    let late = used_again_while_swept("/payment", PAYMENT).await;
    assert!(late >= TimeDelta::zero(), "paid again, by PostgreSQL's clock, {late} too early");
}

#[tokio::test]
async fn a_key_is_not_voided_by_a_transaction_that_began_within_its_ttl() {
    let late = used_again_while_swept("/idempotency-key/void", "").await;
    assert!(late >= TimeDelta::zero(), "voided, by PostgreSQL's clock, {late} too early");
}

#[tokio::test]
async fn a_sweep_reports_the_earliest_expiry_among_all_responses() {
    let database = TestDatabase::create().await;
    let before = Utc::now();
    database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', (lpad(to_hex(trunc(extract(epoch FROM now()) * 1000)::bigint - 2000 + i), 12, '0')
                     || '70008000000000000000')::uuid, 201, '', '',
                    now() + interval '1 hour' * (1 + i / 1001)
             FROM generate_series(1, 1500) AS i",
        )
        .await;
    let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
    let mut seen = Vec::new();
    let progress = |_, oldest: Oldest| seen.push(oldest.responses.unwrap() - before);
    sweep::pass(&mut sweeper, &database.options, Pace::Full, progress).await.unwrap();
    let first_expires = |in_minutes: &i64| (60..65).contains(in_minutes);
    let minutes: Vec<i64> = seen.iter().map(TimeDelta::num_minutes).collect();
    assert!(minutes.len() == 2 && minutes.iter().all(first_expires), "{minutes:?}");
}

#[tokio::test]
async fn the_server_sweeps_periodically() {
    let server = TestServer::start_with(&["--sweep-interval", "1s"]).await;
    server.pay("k", PAYMENT).await;
    server.database.execute(AGE_RESPONSES).await;
    // The sweeper goes by the time in the id, too.
    server.database.execute("UPDATE idempotency_responses SET execution_id = '00000000-0000-7000-8000-000000000001'").await;
    let responses = "SELECT count(*) FROM idempotency_responses";
    server.database.until(responses, |count| count == 0).await;
}
