//! An account sees and changes only its own endpoints.

use reqwest::Method;
use serde_json::json;

use crate::webhooks::{
    change::change,
    create::{ENDPOINT, create, created, post, start},
};

#[tokio::test]
async fn an_account_sees_and_changes_only_its_own_endpoints() {
    let server = start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let (path, secret) = created(&ada, "k").await;
    assert_eq!(bob.get("/webhook-endpoint").await.json(), json!({ "webhook_endpoints": [] }));
    bob.get(&path).await.assert_problem(404, "not-found");
    change(&bob, &path, r#"{"enabled": false}"#).await.assert_problem(404, "not-found");
    bob.request(Method::DELETE, &path, &[], "").await.assert_problem(404, "not-found");
    let rotate = format!("{path}/rotate");
    let refused = post(&bob, &rotate, "r", "").await;
    refused.assert_problem(404, "not-found");
    assert_eq!(post(&bob, &rotate, "r", "").await.body, refused.body, "the refusal is stored");

    let before = ada.get(&path).await;
    assert_eq!(
        (before.field("enabled"), before.field("previous_secret_until")),
        ("true".into(), "null".into())
    );
    let again = create(&ada, "k", ENDPOINT).await;
    assert_eq!((again.status, again.field("secret")), (200, secret.clone()));
    // The same key of another account is another key.
    let other = create(&bob, "k", ENDPOINT).await;
    assert_eq!(other.status, 201);
    assert_ne!(other.field("secret"), secret);
}

#[tokio::test]
async fn a_replay_counts_only_the_events_of_its_own_account() {
    let server = start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    let events = format!(
        "INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
         VALUES ('{}', 1, 1, '{{1}}', ARRAY[gen_random_uuid()], now())",
        ada.id
    );
    server.database.execute(&events).await;
    let (path, _) = created(&bob, "k").await;
    let refused = post(&bob, &format!("{path}/replay"), "p", r#"{"from": 1, "to": 1}"#).await;
    refused.assert_problem(400, "invalid-webhook-endpoint");
}

#[tokio::test]
async fn every_request_needs_an_api_key_once_there_is_one() {
    let server = start().await;
    let ada = server.account("ada").await;
    let (path, _) = created(&ada, "k").await;
    for (method, path) in [
        (Method::POST, "/webhook-endpoint".to_owned()),
        (Method::GET, "/webhook-endpoint".to_owned()),
        (Method::GET, path.clone()),
        (Method::PATCH, path.clone()),
        (Method::DELETE, path.clone()),
        (Method::POST, format!("{path}/rotate")),
        (Method::POST, format!("{path}/replay")),
    ] {
        let headers = [("content-type", "application/json"), ("idempotency-key", "x")];
        let refused = server.request(method, &path, &headers, ENDPOINT).await;
        refused.assert_problem(401, "unauthorized");
    }
    assert_eq!(ada.get(&path).await.status, 200);
}
