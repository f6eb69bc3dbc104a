//! Reading payments, and asking how the server is.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use chrono::{DateTime, Utc};
use futures_util::future::{join, join_all};
use reqwest::Method;
use sqlx::{Connection, raw_sql};

use crate::support::{PAYMENT, TestDatabase, TestServer, proxy::Proxy};

/// How long a request may take where no setting says otherwise.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_payment_can_be_read_where_its_answer_says() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    let answer = server.get(taken.header("location")).await;
    assert_eq!(answer.status, 200);
    let (id, created_at) = (taken.member("transaction_id"), answer.member("created_at"));
    let expected = format!(
        r#"{{"transaction_id":"{id}","status":"success","user_id":"user_1","amount":100,"currency":"USD","refunded":0,"refunds":[],"created_at":"{created_at}"}}"#
    );
    assert_eq!(answer.body, expected);
    assert_eq!(created_at.len(), "2026-11-24T09:00:00.000Z".len());
    let age = Utc::now() - created_at.parse::<DateTime<Utc>>().unwrap();
    assert!(age.num_seconds().abs() < 60, "{created_at}");
    assert_eq!(answer.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_payment_that_is_not_there_is_not_found() {
    let server = TestServer::start().await;
    for id in ["01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "not-a-uuid", "%00", "1"] {
        server.get(&format!("/payment/{id}")).await.assert_problem(404, "not-found");
    }
}

#[tokio::test]
async fn a_payment_of_another_account_is_not_found() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    server
        .database
        .execute("UPDATE payments SET account_id = '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0'")
        .await;
    server.get(taken.header("location")).await.assert_problem(404, "not-found");
}

#[tokio::test]
async fn a_get_ignores_the_key_header() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    let answer = server
        .request(Method::GET, taken.header("location"), &[("idempotency-key", "a b")], "")
        .await;
    assert_eq!((answer.status, answer.header("idempotency-key")), (200, ""));
}

#[tokio::test]
async fn head_answers_as_get_without_the_body() {
    let server = TestServer::start().await;
    let payment = server.pay("k", PAYMENT).await.header("location").to_owned();
    for path in [
        &payment,
        "/payment",
        "/payment?limit=1",
        "/problems/internal",
        "/health/live",
        "/health/ready",
    ] {
        let (get, head) =
            (server.get(path).await, server.request(Method::HEAD, path, &[], "").await);
        assert_eq!((get.status, head.status, head.body.as_str()), (200, 200, ""), "{path}");
        assert_eq!(get.header("content-length"), head.header("content-length"), "{path}");
    }
}

#[tokio::test]
async fn a_server_that_works_is_live_and_ready() {
    let server = TestServer::start().await;
    let version = env!("CARGO_PKG_VERSION");
    let live = server.get("/health/live").await;
    assert_eq!(
        (live.status, live.body),
        (200, format!(r#"{{"status":"live","version":"{version}"}}"#))
    );
    let ready = server.get("/health/ready").await;
    assert_eq!(
        (ready.status, ready.body),
        (200, format!(r#"{{"status":"ready","version":"{version}"}}"#))
    );
}

#[tokio::test]
async fn a_crowd_that_asks_whether_it_is_ready_shares_few_looks_at_the_database() {
    let server = TestServer::start().await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(server.get("/health/ready").await.status, 200);
    }
    // Nine pauses of 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for answer in join_all((0..400).map(|_| server.get("/health/ready"))).await {
        assert_eq!(answer.status, 200);
    }
    // With a look for each, there would be four hundred pauses, and 20 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn postgresql_shows_servers_by_the_name_that_they_are_given() {
    let database = Arc::new(TestDatabase::create().await);
    let names = "SELECT string_agg(DISTINCT application_name, ' ' ORDER BY application_name) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    for (options, shown) in [
        (database.options.clone(), "payonce payonce reads"),
        (database.options.clone().application_name("payments-3"), "payments-3"),
    ] {
        let server = TestServer::start_through(&database, &options, &[]).await;
        assert_eq!(server.get("/payment").await.status, 200);
        assert_eq!(database.value::<String>(names).await, shown);
        drop(server);
        database.until_other_clients_are(0).await;
    }
}

#[tokio::test]
async fn a_server_is_not_ready_while_a_migration_that_it_needs_is_missing() {
    let server = TestServer::start().await;
    server.database.execute("UPDATE _sqlx_migrations SET success = false WHERE version = 2").await;
    let answer = server.get("/health/ready").await;
    answer.assert_problem(503, "database-unavailable");
    assert_eq!(server.get("/health/live").await.status, 200);
    server.database.execute("UPDATE _sqlx_migrations SET success = true").await;
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_server_is_up_and_not_ready_while_its_database_is_away() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let through = proxy.through(&database.options);
    let flags = ["--request-deadline", "2s", "--in-flight-wait", "1s"];
    let server = TestServer::start_through(&database, &through, &flags).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    proxy.redirect(&database.options.clone().port(1)).await;
    proxy.cut_all();
    server.get("/health/ready").await.assert_problem(503, "database-unavailable");
    assert_eq!(server.get("/health/live").await.status, 200);
    proxy.redirect(&database.options).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn readers_who_keep_all_connections_busy_do_not_make_a_server_unready() {
    let server = TestServer::start().await;
    let holder = server.database.lock_payments().await;
    let path = "/payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    let ready = async {
        server.database.until_locks_are_waited_for(4).await;
        let answer = server.get("/health/ready").await;
        holder.close().await.unwrap();
        answer
    };
    // Twice as many as there are connections.
    let (waited, answer) = join(join_all((0..8).map(|_| server.get(path))), ready).await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(waited.iter().all(|answer| answer.status == 404));
}

#[tokio::test]
async fn a_server_is_ready_on_a_schema_that_is_newer_than_it() {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', true, '', 0)",
        )
        .await;
    let server = TestServer::start_on(&database, &[]).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn a_read_that_takes_too_long_is_refused() {
    let server =
        TestServer::start_with(&["--request-deadline", "600ms", "--in-flight-wait", "100ms"]).await;
    let payment = server.pay("k", PAYMENT).await.header("location").to_owned();
    let mut holder = server.database.lock_payments().await;
    let begun = std::time::Instant::now();
    let late = server.get(&payment).await;
    late.assert_problem(503, "database-unavailable");
    // What reads has no key.
    assert!(late.member("detail").contains("with the same key if it has one"), "{}", late.body);
    assert!(begun.elapsed() < DEFAULT_DEADLINE);
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(server.get(&payment).await.status, 200);
}
