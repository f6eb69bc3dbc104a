//! Answers that are kept no longer, keys that are free again, and the sweeper. Time is made to pass
//! by SQL.

use std::{sync::Arc, time::Duration};

use chrono::{DateTime, TimeDelta, Utc};
use payonce::{
    db::sweep::{self, Pace},
    idempotency::{Oldest, Sweeper},
};
use reqwest::Method;
use sqlx::Row;
use tokio::time::sleep;

use crate::support::{
    PAYMENT, TestDatabase, TestServer,
    proxy::{Fault, Proxy, Step},
};

const AGE_RESPONSES: &str =
    "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'";
const AGE_KEYS: &str = "UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'";

/// With keys that expire as late as their answers.
const FORGETFUL: [&str; 2] = ["--idempotency-key-ttl", "24h"];

#[tokio::test]
async fn an_expired_answer_is_gone_and_nothing_executes_again() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    server.database.execute(AGE_RESPONSES).await;
    for _ in 0..2 {
        let answer = server.pay("k", PAYMENT).await;
        answer.assert_problem(410, "idempotency-key-expired");
        assert_eq!(answer.header("location"), first.header("location"));
        assert_eq!(answer.header("idempotency-key"), "k");
        // The same once the sweeper has been there.
        server.database.execute("DELETE FROM idempotency_responses").await;
    }
    let other = server.pay("k", r#"{"user_id": "user_1", "amount": 101}"#).await;
    other.assert_problem(422, "idempotency-key-reused");
    assert_eq!(server.database.payments().await, 1);
    assert_eq!(server.get(first.header("location")).await.status, 200);
}

#[tokio::test]
async fn an_answer_that_is_asked_for_all_the_time_expires_all_the_same() {
    let server = TestServer::start_with(&[
        "--idempotency-response-ttl",
        "7s",
        "--request-deadline",
        "2s",
        "--in-flight-wait",
        "1s",
    ])
    .await;
    server.pay("k", PAYMENT).await;
    // So that it isn't looked up anew just when it expires.
    sleep(Duration::from_millis(500)).await;
    let expired =
        "SELECT count(*) FROM idempotency_responses WHERE replayable_until <= clock_timestamp()";
    for replays in 0.. {
        let late = server.database.number(expired).await > 0;
        match server.pay("k", PAYMENT).await.status {
            200 => assert!(!late, "replayed after its end"),
            status => {
                assert_eq!(status, 410);
                assert!(replays > 10, "{replays}");
                return;
            }
        }
    }
}

#[tokio::test]
async fn how_long_an_answer_is_kept_is_fixed_when_it_is_stored() {
    let seconds = "SELECT extract(epoch FROM replayable_until - created_at)::bigint
                   FROM idempotency_responses JOIN idempotency_keys USING (execution_id)";
    let mut server = TestServer::start_with(&["--idempotency-response-ttl", "2h"]).await;
    server.pay("k", PAYMENT).await;
    assert_eq!(server.database.number(seconds).await, 7200);
    server.stop();
    let server = server.another().await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
    assert_eq!(server.database.number(seconds).await, 7200);
}

#[tokio::test]
async fn an_answer_can_be_kept_for_ever() {
    let server = TestServer::start_with(&["--idempotency-response-ttl", "never"]).await;
    server.pay("k", PAYMENT).await;
    let kept = "SELECT count(*) FROM idempotency_responses WHERE replayable_until IS NULL";
    assert_eq!(server.database.number(kept).await, 1);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn keys_stay_used_up_for_ever_by_default() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    server.database.execute("UPDATE idempotency_keys SET created_at = '2001-01-01'").await;
    server.database.execute(AGE_RESPONSES).await;
    server.pay("k", PAYMENT).await.assert_problem(410, "idempotency-key-expired");
}

#[tokio::test]
async fn a_key_older_than_its_ttl_is_new_again() {
    let server = TestServer::start_with(&FORGETFUL).await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
    server.database.execute(AGE_KEYS).await;
    let again = server.pay("k", PAYMENT).await;
    assert_eq!(again.status, 201);
    assert_ne!(again.member("transaction_id"), first.member("transaction_id"));
    assert_eq!(server.pay("k", PAYMENT).await.body, again.body);
    assert_eq!(server.database.payments().await, 2);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_responses").await, 1);
}

#[tokio::test]
async fn an_old_key_executes_once_when_two_servers_find_it_too_old() {
    let server = TestServer::start_with(&FORGETFUL).await;
    let other = TestServer::start_on(&server.database, &FORGETFUL).await;
    let keys: Vec<String> = (0..100).map(|key| format!("key-{key}")).collect();
    for key in &keys {
        server.pay(key, PAYMENT).await;
    }
    server.database.execute(AGE_KEYS).await;
    let sums = futures_util::future::join_all(keys.iter().map(async |key| {
        let (one, two) = tokio::join!(server.pay(key, PAYMENT), other.pay(key, PAYMENT));
        assert_eq!(one.body, two.body);
        one.status + two.status
    }))
    .await;
    assert!(sums.iter().all(|sum| *sum == 401), "{sums:?}");
    assert_eq!(server.database.payments().await, 200);
}

async fn sweep(server: &TestServer, key_ttl: Option<Duration>) -> (u64, u64) {
    let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), key_ttl);
    sweep::pass(&mut sweeper, &server.database.options, Pace::Full, |_, _| {}).await.unwrap()
}

#[tokio::test]
async fn a_sweep_deletes_expired_answers_and_nothing_else() {
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
    assert_eq!(sweep(&server, None).await, (1, 0));
    assert_eq!(sweep(&server, None).await, (0, 0));
    server.pay("expired", PAYMENT).await.assert_problem(410, "idempotency-key-expired");
    assert_eq!(server.pay("refused", PAYMENT).await.status, 402);
    assert_eq!(server.pay("kept", PAYMENT).await.status, 200);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 3);
}

#[tokio::test]
async fn a_sweep_deletes_old_keys_only_where_keys_expire() {
    let server = TestServer::start().await;
    server.pay("old", PAYMENT).await;
    server.database.execute(AGE_KEYS).await;
    server.pay("young", PAYMENT).await;
    assert_eq!(sweep(&server, None).await, (0, 0));
    assert_eq!(sweep(&server, Some(Duration::from_hours(24))).await, (0, 1));
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 1);
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_responses").await, 1);
    assert_eq!(server.pay("old", PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 3);
}

#[tokio::test]
async fn a_sweep_goes_through_more_than_a_page() {
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
    assert_eq!(sweep(&server, Some(Duration::from_hours(24))).await, (2500, 2500));
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

/// A plan looks for the index's first entry past all that this very sweep has deleted.
#[tokio::test]
async fn a_sweep_plans_once_however_many_pages_it_goes_through() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', lpad(to_hex(i), 32, '0')::uuid, 201, '', '', now() - interval '1 day'
             FROM generate_series(1, 40000) AS i;
             ANALYZE idempotency_responses",
        )
        .await;
    let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
    let swept = sweep::pass(&mut sweeper, &database.options, Pace::Full, |_, _| {}).await.unwrap();
    assert_eq!(swept, (40_000, 0));
    // Only then has PostgreSQL counted what they did.
    database.until_other_clients_are(0).await;
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'idempotency_responses_pkey'";
    let scans = database.number(scans).await;
    // The page, its rows, and what expires next; for each of 41 pages.
    assert!((100..=140).contains(&scans), "{scans}");
}

#[tokio::test]
async fn a_sweep_of_keys_reads_each_of_them_a_few_times_however_many_there_are() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_keys
             SELECT '00000000-0000-0000-0000-000000000000', 'k' || i, gen_random_uuid(), 'pay', '', now() - interval '2 days'
             FROM generate_series(1, 20000) AS i;
             ANALYZE idempotency_keys",
        )
        .await;
    let day = Some(Duration::from_hours(24));
    let mut sweeper = Sweeper::new(day, day);
    let swept = sweep::pass(&mut sweeper, &database.options, Pace::Full, |_, _| {}).await.unwrap();
    assert_eq!(swept, (0, 20_000));
    // Only then has PostgreSQL counted what they did.
    database.until_other_clients_are(0).await;
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'idempotency_keys_pkey'";
    let read = database.number(read).await;
    assert!((20_000..=80_000).contains(&read), "{read}");
}

#[tokio::test]
async fn in_the_midst_of_what_has_not_expired_a_sweep_still_knows_what_expires_first() {
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
async fn the_server_sweeps_by_itself() {
    let server = TestServer::start_with(&["--sweep-interval", "1s"]).await;
    server.pay("k", PAYMENT).await;
    server.database.execute(AGE_RESPONSES).await;
    // Of age by its id too, as it would be a day later.
    server.database.execute("UPDATE idempotency_responses SET execution_id = '00000000-0000-7000-8000-000000000001'").await;
    let responses = "SELECT count(*) FROM idempotency_responses";
    server.database.until(responses, |count| count == 0).await;
}
