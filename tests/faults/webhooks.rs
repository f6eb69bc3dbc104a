//! The server that delivers webhooks is killed, frozen and cut off from its database.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use reqwest::header::HeaderMap;
use sqlx::{Connection, PgConnection, Row};
use tokio::time::sleep;

use crate::support::{
    TestDatabase, TestServer,
    binary::Serve,
    client::{Client, http_client},
    metrics::becomes,
    receiver::{Answer, Received, Receiver},
    wait::until,
    webhooks::{LOCAL_RECEIVERS, VARIABLES},
};

/// Events that may be sent and not stored: those in the window of an endpoint.
const WINDOW: usize = 64;

/// Kills, or as many as `PAYONCE_WEBHOOK_KILLS` says.
fn kills() -> usize {
    let set = std::env::var("PAYONCE_WEBHOOK_KILLS").ok();
    set.map_or(12, |number| number.parse().expect("a number of kills"))
}

/// The positions that are stored as delivered, in the order of the endpoints' URLs.
async fn stored(database: &TestDatabase) -> Vec<BTreeSet<i64>> {
    let mut conn = database.connect().await;
    let rows = sqlx::query(
        "SELECT coalesce(position, 0) AS position, coalesce(done, 0) AS done, ARRAY(
             SELECT position FROM webhook_failures AS f WHERE f.endpoint_id = e.endpoint_id
         ) AS failures
         FROM webhook_endpoints AS e LEFT JOIN LATERAL (
             SELECT position, done FROM webhook_progress AS p
             WHERE p.endpoint_id = e.endpoint_id AND replay = 0 ORDER BY number DESC LIMIT 1
         ) AS progress ON true ORDER BY url",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();
    let set = |row: &sqlx::postgres::PgRow| {
        let (position, done): (i64, i64) = (row.get("position"), row.get("done"));
        let failures: Vec<i64> = row.get("failures");
        let ahead = (0..64).filter(|bit| done >> bit & 1 == 1).map(|bit| position + 1 + bit);
        let all = (1..=position).chain(ahead);
        all.filter(|position| !failures.contains(position)).collect()
    };
    rows.iter().map(set).collect()
}

/// Asserts that every event was received, always with the same id and body, and returns the number of repetitions.
fn assert_received(received: &[Received], path: &str, events: i64) -> usize {
    let mut by_position: BTreeMap<i64, Vec<&Received>> = BTreeMap::new();
    for one in received.iter().filter(|one| one.path == path) {
        by_position.entry(one.position()).or_default().push(one);
    }
    assert_eq!(by_position.keys().copied().collect::<Vec<_>>(), (1..=events).collect::<Vec<_>>());
    for all in by_position.values() {
        assert!(all.iter().all(|one| one.id == all[0].id && one.body == all[0].body));
    }
    by_position.values().map(|all| all.len() - 1).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deliverer_that_is_killed_skips_nothing_and_repeats_only_what_was_in_flight() {
    let database = TestDatabase::create().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|_| Answer::After(Duration::from_micros(fastrand::u64(0..5000))));
    let paths = ["/a", "/b"];
    for path in paths {
        database.create_endpoint(&receiver.url(path.trim_start_matches('/')), 0).await;
    }
    let (mut events, mut in_flight) = (0, 0);
    for _ in 0..kills() {
        let before = receiver.count();
        let was_stored = stored(&database).await;
        let mut serve = Serve::start(&database.options, &VARIABLES);
        database.create_events(400).await;
        events += 400;
        until("deliveries go on", async || receiver.count() > before + 20).await;
        sleep(Duration::from_millis(fastrand::u64(0..300))).await;
        serve.signal("KILL");
        serve.wait();
        let received = receiver.received();
        for one in &received[before..] {
            let endpoint = usize::from(one.path == paths[1]);
            let position = one.position();
            assert!(
                !was_stored[endpoint].contains(&position),
                "{position} was stored as delivered"
            );
        }
        let stored = stored(&database).await;
        for (path, stored) in paths.iter().zip(&stored) {
            let sent = received.iter().filter(|one| one.path == *path).map(Received::position);
            let sent: BTreeSet<i64> = sent.collect();
            assert!(stored.is_subset(&sent), "stored as delivered, and never sent");
            let unstored = sent.difference(stored).count();
            assert!(unstored <= WINDOW, "{unstored} calls in flight");
            in_flight += unstored;
        }
        // Nobody else has the dead server's lease: end it now instead of waiting for it.
        database.execute("UPDATE webhook_endpoints SET lease_until = '-infinity'").await;
    }
    let _serve = Serve::start(&database.options, &VARIABLES);
    database.until_delivered(2, events).await;
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    let received = receiver.received();
    let repeated: usize = paths.iter().map(|path| assert_received(&received, path, events)).sum();
    eprintln!("{events} events, {} kills, {in_flight} in flight, {repeated} repeated", kills());
    assert!(repeated <= in_flight, "{repeated} repeated, {in_flight} in flight");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deliverer_that_was_frozen_past_its_lease_changes_nothing_when_it_wakes() {
    let database = TestDatabase::create().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::After(Duration::from_millis(900)));
    database.create_endpoint(&receiver.url("hook"), 0).await;
    database.create_events(200).await;
    let mut frozen = Serve::start(&database.options, &VARIABLES);
    receiver.until(8).await;
    frozen.signal("STOP");
    receiver.answer(Answer::Status(204));
    let before = receiver.count();
    let _other = Serve::start(&database.options, &VARIABLES);
    // The lease of the frozen one runs out first.
    database.until_delivered(1, 200).await;
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    let state = "SELECT string_agg(concat_ws(' ', number, position, done), ',' ORDER BY number) || lease_epoch
                 FROM webhook_progress JOIN webhook_endpoints USING (endpoint_id) GROUP BY lease_epoch";
    let stored: String = database.value(state).await;
    let sent = receiver.count();

    frozen.signal("CONT");
    let metrics = Client { address: frozen.address, http: http_client(HeaderMap::new()) };
    becomes(&metrics, "payonce_webhook_endpoints_leased", |leased| leased < 0.5).await;
    assert_eq!(database.value::<String>(state).await, stored);
    assert_eq!(receiver.count(), sent, "it began no call");
    assert_eq!(database.number("SELECT count(*) FROM webhook_failures").await, 0);
    let repeated = assert_received(&receiver.received(), "/hook", 200);
    assert!(repeated <= before, "{repeated} repeated, {before} sent before the freeze");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_continue_after_their_database_connections_are_lost() {
    let database = Arc::new(TestDatabase::create().await);
    let receiver = Receiver::start().await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let _server = TestServer::start_on(&database, &LOCAL_RECEIVERS).await;
    let mut killer: PgConnection = database.connect().await;
    let mut events = 0;
    for _ in 0..5 {
        database.create_events(300).await;
        events += 300;
        let before = receiver.count();
        until("deliveries go on", async || receiver.count() > before + 20).await;
        sqlx::query(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .execute(&mut killer)
        .await
        .unwrap();
    }
    database.until_delivered(1, events).await;
    // The server lives, so it repeats nothing: it stores what it knows as soon as it can.
    assert_eq!(assert_received(&receiver.received(), "/hook", events), 0);
}
