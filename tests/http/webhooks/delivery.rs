//! Every event reaches every endpoint.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use payonce_testing::{
    TestDatabase, TestServer,
    receiver::{Answer, Receiver},
    wait::until,
    webhooks::LOCAL_RECEIVERS,
};
use reqwest::Method;

async fn start(database: &Arc<TestDatabase>) -> TestServer {
    TestServer::start_on(database, &LOCAL_RECEIVERS).await
}

async fn database() -> Arc<TestDatabase> {
    Arc::new(TestDatabase::create().await)
}

#[tokio::test]
async fn each_event_is_delivered_once_as_the_feed_shows_it() {
    let database = database().await;
    let receiver = Receiver::start().await;
    database.create_events(150).await;
    database.create_endpoint(&receiver.url("all"), 0).await;
    database.create_endpoint(&receiver.url("later"), 140).await;
    let server = start(&database).await;
    database.until_delivered(2, 150).await;
    let mut all = receiver.positions("all");
    all.sort_unstable();
    assert_eq!(all, (1..=150).collect::<Vec<_>>());
    assert_eq!(receiver.positions("later").len(), 10);
    let feed = server.get("/events?limit=200").await;
    for one in receiver.received() {
        assert_eq!(one.id, one.json()["event_id"].as_str().unwrap());
        assert!(feed.body.contains(&one.body), "{}", one.body);
        assert!(one.signature.starts_with("v1,"), "{}", one.signature);
    }
}

#[tokio::test]
async fn events_arrive_while_the_server_runs() {
    let database = database().await;
    let receiver = Receiver::start().await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    for number in 1..=3 {
        database.create_events(1).await;
        receiver.until(number).await;
    }
    drop(server);
    database.until_delivered(1, 3).await;
    assert_eq!(receiver.count(), 3);
}

#[tokio::test]
async fn a_payment_and_its_refund_are_delivered_within_moments() {
    let database = database().await;
    let receiver = Receiver::start().await;
    let server = start(&database).await;
    let url = format!(r#"{{"url": "{}"}}"#, receiver.url("hook"));
    let key = [("idempotency-key", "hook"), ("content-type", "application/json")];
    let created = server.request(Method::POST, "/webhook-endpoint", &key, &url).await;
    assert_eq!(created.status, 201, "{}", created.body);
    let payment = server.paid("k", 100).await;
    assert_eq!(server.refund(&payment, "r", r#"{"amount": 40}"#).await.status, 201);
    let received = receiver.until(2).await;
    assert_eq!(received[0].json()["type"], "payment.created");
    assert_eq!(received[1].json()["type"], "refund.created");
    assert!(received.iter().all(|one| one.payment() == payment));
}

#[tokio::test]
async fn every_attempt_has_the_same_id_and_body() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    database.create_events(3).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let _server = start(&database).await;
    receiver.until(3).await;
    receiver.answer(Answer::Status(200));
    // The first retry comes after five seconds.
    let received = receiver.until(6).await;
    let mut by_id: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for one in &received {
        by_id.entry(&one.id).or_default().push(one);
    }
    assert_eq!(by_id.len(), 3);
    for attempts in by_id.values() {
        assert_eq!(attempts.len(), 2);
        assert_eq!(attempts[0].body, attempts[1].body);
        let pause = attempts[1].at - attempts[0].at;
        assert!(pause > Duration::from_millis(3900), "{pause:?}");
    }
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
}

#[tokio::test]
async fn events_of_a_payment_arrive_in_order_and_wait_behind_a_failure() {
    let database = database().await;
    let receiver = Receiver::start().await;
    // The payments themselves are refused once.
    let seen = Mutex::new(BTreeSet::new());
    receiver.answer_by(move |one| {
        let first = seen.lock().unwrap().insert(one.id.clone());
        Answer::Status(if first && one.position() <= 5 { 500 } else { 200 })
    });
    database.create_refunded(10).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let _server = start(&database).await;
    database.until_delivered(1, 30).await;
    receiver.until(20).await;
    let others = receiver.received().len();
    let received = receiver.until(35).await;
    assert!(others < 35, "payments without a failure did not wait");
    let mut accepted: BTreeMap<String, Vec<i64>> = BTreeMap::new();
    for one in received {
        accepted.entry(one.payment()).or_default().push(one.position());
    }
    assert_eq!(accepted.len(), 10);
    for positions in accepted.values_mut() {
        // The refused attempt comes first.
        positions.dedup();
        assert!(positions.is_sorted() && positions.len() == 3, "{positions:?}");
    }
}

#[tokio::test]
async fn a_parked_event_no_longer_holds_later_ones_and_a_replay_delivers_it() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|one| Answer::Status(if one.position() == 1 { 500 } else { 200 }));
    database.create_refunded(1).await;
    let endpoint = database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    database.until_delivered(1, 3).await;
    assert_eq!(receiver.positions("hook"), [1]);
    drop(server);
    database
        .execute("UPDATE webhook_failures SET attempts = 11, next_at = now() WHERE attempts > 0")
        .await;
    let server = start(&database).await;
    let parked = "SELECT count(*) FROM webhook_failures WHERE next_at IS NULL AND attempts = 12";
    database.until(parked, |count| count == 1).await;
    receiver.until(4).await;
    assert_eq!(receiver.positions("hook"), [1, 1, 2, 3]);

    receiver.answer(Answer::Status(200));
    database
        .execute(&format!(
            "UPDATE webhook_endpoints SET replay_from = 1, replay_to = 2, replay_number = 1 WHERE endpoint_id = '{endpoint}'"
        ))
        .await;
    let received = receiver.until(6).await;
    assert_eq!(receiver.positions("hook"), [1, 1, 2, 3, 1, 2]);
    assert_eq!(received[0].id, received[4].id);
    assert_eq!(received[0].body, received[4].body);
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    database
        .until("SELECT count(*) FROM webhook_endpoints WHERE replay_from IS NULL", |count| {
            count == 1
        })
        .await;
    drop(server);
    assert_eq!(receiver.count(), 6);
}

#[tokio::test]
async fn an_endpoint_that_hangs_and_one_that_refuses_do_not_delay_another() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer_by(|one| match one.path.as_str() {
        "/hangs" => Answer::Never,
        "/refuses" => Answer::Status(503),
        _ => Answer::Status(200),
    });
    for path in ["hangs", "refuses", "works"] {
        database.create_endpoint(&receiver.url(path), 0).await;
    }
    database.create_events(1).await;
    let _server = start(&database).await;
    until("all are called", async || receiver.count() >= 3).await;
    database.create_events(500).await;
    until("the one that works has all", async || receiver.positions("works").len() == 501).await;
    // Eight calls at once. Calls that were under way when the eighth failed may fail, too.
    assert!(receiver.positions("hangs").len() <= 8);
    assert!(receiver.positions("refuses").len() < 24);
    let rows = "SELECT count(*) FROM webhook_failures WHERE attempts = 0";
    database.until(rows, |count| count == 8).await;
}

#[tokio::test]
async fn the_breaker_stops_calls_and_closes_with_the_first_success() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::Status(500));
    database.create_events(100).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let server = start(&database).await;
    receiver.until(8).await;
    let paused = "SELECT count(*) FROM webhook_endpoints WHERE resume_at > now() AND failing_since IS NOT NULL";
    database.until(paused, |count| count == 1).await;
    let failed = receiver.count();
    // Calls that were under way when the eighth failed may fail, too.
    assert!(failed < 16, "{failed}");
    // It stays open when another server takes over.
    drop(server);
    database
        .execute("UPDATE webhook_endpoints SET resume_at = now() + interval '20 seconds'")
        .await;
    let server = start(&database).await;
    let other = Receiver::start().await;
    database.create_endpoint(&other.url("other"), 0).await;
    other.until(100).await;
    assert_eq!(receiver.count(), failed);
    drop(server);

    receiver.answer(Answer::Status(200));
    database.execute("UPDATE webhook_endpoints SET resume_at = now()").await;
    let _server = start(&database).await;
    database.until_delivered(2, 100).await;
    database.until("SELECT count(*) FROM webhook_failures", |count| count == 0).await;
    assert_eq!(receiver.count(), failed + 100);
    let healthy = "SELECT count(*) FROM webhook_endpoints WHERE url LIKE '%/hook'
         AND failing_since IS NULL AND resume_at IS NULL";
    database.until(healthy, |count| count == 1).await;
}

#[tokio::test]
async fn a_retry_after_is_honoured() {
    let database = database().await;
    let receiver = Receiver::start().await;
    receiver.answer(Answer::RetryAfter(429, 9));
    database.create_events(1).await;
    database.create_endpoint(&receiver.url("hook"), 0).await;
    let _server = start(&database).await;
    receiver.until(1).await;
    receiver.answer(Answer::Status(200));
    let received = receiver.until(2).await;
    let pause = received[1].at - received[0].at;
    assert!(pause >= Duration::from_millis(8900), "{pause:?}");
}
