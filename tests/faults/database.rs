//! A database that terminates connections, refuses writes, is slow, or has locked tables.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sqlx::{Connection, Executor, PgConnection, raw_sql};
use tokio::time::sleep;

use crate::support::{
    PAYMENT, TestDatabase, TestServer,
    load::{self, Load, assert_exactly_once},
    proxy::{Fault, Proxy, Step},
    retry::Clients,
    wait::until,
};

const SECOND: Duration = Duration::from_secs(1);

const TERMINATE_ALL: &str = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()";

async fn end_connections(conn: &mut PgConnection) {
    conn.execute(TERMINATE_ALL).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeatedly_terminated_connections_lose_and_duplicate_nothing() {
    let server = TestServer::start().await;
    let clients = Arc::new(Clients::new(&[server.address]));
    let load = Load::start(&clients, 16);
    let mut killer = server.database.connect().await;
    let (begun, mut rounds) = (Instant::now(), 0);
    while begun.elapsed() < load::duration() {
        end_connections(&mut killer).await;
        sleep(Duration::from_millis(fastrand::u64(10..100))).await;
        rounds += 1;
    }
    load.finish().await;
    let payments = assert_exactly_once(&clients, &server.database.options).await;
    eprintln!("{payments} payments, {rounds} rounds, failed attempts: {:?}", clients.failures());
    assert!(payments > 16, "it gets on in spite of it: {payments}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn repeated_network_cuts_lose_and_duplicate_nothing() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(&database, &proxy.through(&database.options), &[]).await;
    let clients = Arc::new(Clients::new(&[server.address]));
    let load = Load::start(&clients, 16);
    let begun = Instant::now();
    while begun.elapsed() < load::duration() {
        sleep(Duration::from_millis(fastrand::u64(20..200))).await;
        proxy.cut_all();
    }
    load.finish().await;
    let payments = assert_exactly_once(&clients, &database.options).await;
    eprintln!(
        "{payments} payments, {} connections, failed attempts: {:?}",
        proxy.connections(),
        clients.failures()
    );
    // Few, because connecting takes longer than some connections last.
    assert!(payments > 16 && proxy.connections() > 8, "it gets on in spite of it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_recover_after_their_connections_froze() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let flags = ["--request-deadline", "2s", "--in-flight-wait", "1s"];
    let server =
        TestServer::start_through(&database, &proxy.through(&database.options), &flags).await;
    let payment = server.pay("k", PAYMENT).await.header("location").to_owned();
    let mut holder = database.lock_payments().await;
    let reads = join_all((0..8).map(|_| server.get(&payment)));
    let freeze = async {
        // All read connections.
        database.until_locks_are_waited_for(4).await;
        proxy.freeze_all();
        raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    };
    let (reads, ()) = tokio::join!(reads, freeze);
    assert!(reads.iter().all(|response| response.status == 503), "{reads:?}");
    until("reads are served", async || server.get(&payment).await.status == 200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_recovers_from_a_read_only_database_without_a_restart() {
    let server =
        TestServer::start_with(&["--request-deadline", "1s", "--in-flight-wait", "500ms"]).await;
    let mut other = server.database.connect().await;
    server.database.set("default_transaction_read_only = on").await;
    end_connections(&mut other).await;
    // PostgreSQL reports that nothing was committed. A request whose connection was lost, or which gave up
    // during an attempt, cannot know that; but most can.
    let mut codes = Vec::new();
    while codes.last().is_none_or(|code| code != "database-unavailable") {
        assert!(codes.len() < 8, "{codes:?}");
        let response = server.pay(&format!("early-{}", codes.len()), PAYMENT).await;
        let code = response.field("code");
        assert!(["database-unavailable", "outcome-unknown"].contains(&code.as_str()), "{code}");
        response.assert_problem(503, &code);
        codes.push(code);
    }

    // This session can still write.
    raw_sql("SET default_transaction_read_only = off").execute(&mut other).await.unwrap();
    let name = server.database.options.get_database().unwrap().to_owned();
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    other.execute(sqlx::AssertSqlSafe(reset)).await.unwrap();
    until("payments are taken", async || server.pay("k", PAYMENT).await.status != 503).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_recovers_from_a_full_disk_without_a_restart() {
    let server = TestServer::start().await;
    server
        .database
        .execute(
            "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON payments EXECUTE FUNCTION full_disk()",
        )
        .await;
    let responses =
        join_all((0..20).map(async |number| server.pay(&format!("key-{number}"), PAYMENT).await))
            .await;
    for response in &responses {
        response.assert_problem(503, "overloaded");
    }
    server.database.execute("DROP TRIGGER full_disk ON payments").await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("key-{number}"), PAYMENT).await.status, 201);
    }
}

/// The statement that commits the batch is lost, and the disk is full when the batch is repeated.
async fn doubt_outlives_a_refusal(flags: &[&str], step: Step) {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "CREATE SEQUENCE attempts;
             CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN IF nextval('attempts') IN (2, 3) THEN RAISE 'full' USING ERRCODE = 'disk_full'; END IF; RETURN NEW; END $$;
             CREATE TRIGGER full_disk BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION full_disk()",
        )
        .await;
    let proxy = Proxy::start(&database.options).await;
    let server =
        TestServer::start_through(&database, &proxy.through(&database.options), flags).await;
    proxy.arm(step, Fault::Cut);
    let (response, ()) = tokio::join!(server.pay("k", PAYMENT), proxy.reached());
    response.assert_problem(503, "outcome-unknown");
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    assert_eq!(database.payments().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_may_have_been_committed_is_never_reported_as_not_executed() {
    doubt_outlives_a_refusal(&[], Step::StatementExecuted).await;
    doubt_outlives_a_refusal(&["--idempotency-key-ttl", "365d"], Step::CommitSent).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_stored_response_fails_only_its_own_requests() {
    let server = TestServer::start_with(&["--request-deadline", "2m"]).await;
    let database = &server.database;
    assert_eq!(server.pay("old", PAYMENT).await.status, 201);
    database.execute("UPDATE idempotency_responses SET headers = 'no header line'").await;
    let holder = database.hold_payments_of_held().await;
    // While the first is being executed, the two others queue for one batch.
    let (held, (old, new), ()) = tokio::join!(
        server.pay("held", r#"{"user_id": "held", "amount": 7}"#),
        async {
            database.until_locks_are_waited_for(1).await;
            tokio::join!(server.pay("old", PAYMENT), server.pay("new", PAYMENT))
        },
        async {
            until("three keys are in the queue", async || {
                let metrics = server.get("/metrics").await.body;
                metrics.contains("\npayonce_queue_keys 3\n")
            })
            .await;
            holder.close().await.unwrap();
        }
    );
    assert_eq!(held.status, 201);
    old.assert_problem(500, "internal");
    assert_eq!(new.status, 201);
    assert_eq!(database.payments().await, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_hold_on_a_slow_database() {
    let server =
        TestServer::start_with(&["--request-deadline", "1500ms", "--in-flight-wait", "500ms"])
            .await;
    server
        .database
        .execute(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(60 * random() ^ 8); RETURN NULL; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON payments EXECUTE FUNCTION slow()",
        )
        .await;
    let clients = Clients::new(&[server.address]);
    let responses = join_all((0..60).map(async |number| {
        sleep(Duration::from_millis(number * 50)).await;
        let begun = Instant::now();
        let response = clients
            .send(server.address, &format!("key-{number}"), PAYMENT)
            .await
            .expect("a response");
        (response.status, begun.elapsed())
    }))
    .await;
    let mut statuses = BTreeMap::new();
    for (status, took) in responses {
        *statuses.entry(status).or_insert(0) += 1;
        assert!(took < 15 * SECOND, "{took:?}");
    }
    assert!(statuses.keys().all(|status| matches!(status, 201 | 503)), "{statuses:?}");
    server.database.execute("DROP TRIGGER slow ON payments").await;
    for number in 0..60 {
        assert!(matches!(clients.pay(&format!("key-{number}"), PAYMENT).await.status, 200 | 201));
    }
    assert_eq!(assert_exactly_once(&clients, &server.database.options).await, 60);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_behind_a_migration_that_waits_for_an_idle_transaction() {
    for table in ["idempotency_keys", "idempotency_responses", "payments"] {
        let server = TestServer::start().await;
        let clients = Arc::new(Clients::new(&[server.address]));
        assert_eq!(clients.pay("before", PAYMENT).await.status, 201);
        let (mut idle, mut migration) =
            (server.database.connect().await, server.database.connect().await);
        let select = format!("BEGIN; SELECT count(*) FROM {table}");
        idle.execute(sqlx::AssertSqlSafe(select)).await.unwrap();
        let alter = format!("ALTER TABLE {table} ADD COLUMN extra integer");
        let alter = async { migration.execute(sqlx::AssertSqlSafe(alter)).await.unwrap() };
        let load = async {
            server.database.until_locks_are_waited_for(1).await;
            let load = Load::start(&clients, 32);
            // The server waits, too, and continues to wait for a while.
            server.database.until_locks_are_waited_for(2).await;
            sleep(SECOND).await;
            raw_sql("ROLLBACK").execute(&mut idle).await.unwrap();
            load.until_answered(100).await;
            load.finish().await
        };
        tokio::join!(alter, load);
        let failures = clients.failures();
        assert!(failures.keys().all(|status| matches!(status, 409 | 503)), "{table}: {failures:?}");
        assert!(assert_exactly_once(&clients, &server.database.options).await > 33, "{table}");
    }
}
