//! Concurrent requests with one key create one payment.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::future::join_all;
use payonce_testing::{PAYMENT, TestDatabase, TestServer, client::Response};

/// Sends concurrent duplicates of one request to these servers in turn.
async fn storm(servers: &[&TestServer], copies: usize) -> Vec<Response> {
    join_all((0..copies).map(|copy| servers[copy % servers.len()].pay("storm", PAYMENT))).await
}

/// Asserts that exactly one payment was created and every response shows it.
async fn assert_one_payment(responses: &[Response], database: &TestDatabase) {
    let mut statuses = BTreeMap::new();
    for response in responses {
        *statuses.entry(response.status).or_insert(0) += 1;
        assert_eq!(response.body, responses[0].body);
        let replayed = if response.status == 201 { "false" } else { "true" };
        assert_eq!(response.header("idempotent-replayed"), replayed);
    }
    assert_eq!(statuses, BTreeMap::from([(200, responses.len() - 1), (201, 1)]));
    assert_eq!(database.payments().await, 1);
}

#[tokio::test]
async fn fifty_concurrent_duplicates_create_one_payment() {
    let server = TestServer::start().await;
    assert_one_payment(&storm(&[&server], 50).await, &server.database).await;
}

#[tokio::test]
async fn five_hundred_concurrent_duplicates_create_one_payment() {
    let server = TestServer::start().await;
    assert_one_payment(&storm(&[&server], 500).await, &server.database).await;
}

#[tokio::test]
async fn five_hundred_concurrent_duplicates_to_two_servers_create_one_payment() {
    let server = TestServer::start().await;
    let other = server.another().await;
    assert_one_payment(&storm(&[&server, &other], 500).await, &server.database).await;
}

#[tokio::test]
async fn each_of_many_keys_sent_to_two_servers_creates_one_payment() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let keys: Vec<String> = (0..300).map(|key| format!("key-{key}")).collect();
    let pairs = join_all(keys.iter().map(async |key| {
        let (one, two) = tokio::join!(server.pay(key, PAYMENT), other.pay(key, PAYMENT));
        (one.status + two.status, one.body == two.body)
    }))
    .await;
    assert!(pairs.iter().all(|pair| *pair == (401, true)), "{pairs:?}");
    assert_eq!(server.database.payments().await, 300);
}

#[tokio::test]
async fn concurrent_different_requests_with_one_key_create_one_payment() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let bodies: Vec<String> =
        (1..=5).map(|amount| format!(r#"{{"user_id": "user_1", "amount": {amount}}}"#)).collect();
    let responses = join_all((0..100).map(async |copy| {
        let server = if copy % 2 == 0 { &server } else { &other };
        let place = copy % bodies.len();
        (place, server.pay("k", &bodies[place]).await)
    }))
    .await;
    let (winner, first) =
        responses.iter().find(|(_, response)| response.status == 201).expect("one is new");
    assert_eq!(responses.iter().filter(|(_, response)| response.status == 201).count(), 1);
    for (place, response) in &responses {
        if place == winner {
            assert_eq!(response.body, first.body);
        } else {
            response.assert_problem(422, "idempotency-key-reused");
            assert_eq!(response.field("members"), r#"["amount"]"#);
        }
    }
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_stricter_default_isolation_level_changes_nothing() {
    for level in ["repeatable read", "serializable"] {
        let database = Arc::new(TestDatabase::create().await);
        database.set(&format!("default_transaction_isolation = '{level}'")).await;
        let server = TestServer::start_on(&database, &[]).await;
        let other = server.another().await;
        assert_one_payment(&storm(&[&server, &other], 200).await, &database).await;
    }
}

#[tokio::test]
async fn duplicates_of_one_request_take_one_place_in_the_queue() {
    // Twice as many requests as the queue has places.
    let server = TestServer::start_with(&["--committers", "1", "--queue-limit", "100"]).await;
    assert_one_payment(&storm(&[&server], 200).await, &server.database).await;
}
