//! `POST /webhook-endpoint/{endpoint_id}/replay`.

use payonce_testing::TestServer;
use serde_json::json;

use crate::webhooks::create::{LOCAL, created, post};

/// Starts a server that announces nothing, so that the test gives the positions.
async fn start() -> TestServer {
    TestServer::start_with(&[&LOCAL[..], &["--events", "off"]].concat()).await
}

/// Creates payments with events at the positions from 11 on, as if older events had expired. No server delivers them.
async fn with_events(server: &TestServer, payments: i64) {
    let events = format!(
        "WITH made AS (
             INSERT INTO payments (transaction_id, account_id, user_id, amount)
             SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'user', 100
             FROM generate_series(1, {payments})
             RETURNING account_id, transaction_id
         )
         INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
         SELECT account_id, 11, 1, '{{1}}', array_agg(transaction_id), now() FROM made GROUP BY account_id"
    );
    server.database.execute("UPDATE webhook_endpoints SET lease_until = 'infinity'").await;
    server.database.execute(&events).await;
}

#[tokio::test]
async fn a_replay_is_shown_and_its_retry_starts_no_other() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    with_events(&server, 3).await;
    let replay = format!("{path}/replay");
    let first = post(&server, &replay, "p", r#"{"from": 11, "to": 13}"#).await;
    assert_eq!(first.status, 200, "{}", first.body);
    let id = path.rsplit('/').next().unwrap();
    assert_eq!(first.json(), json!({ "endpoint_id": id, "replay": { "from": 11, "to": 13 } }));
    assert_eq!(first.header("location"), path);
    let shown = async || server.get(&path).await.json()["replay"].clone();
    assert_eq!(shown().await, json!({ "from": 11, "to": 13 }));

    let second = post(&server, &replay, "p2", r#"{"from": 12, "to": 12}"#).await;
    assert_eq!(second.status, 200);
    assert_eq!(shown().await, json!({ "from": 12, "to": 12 }), "it takes the place of the first");
    let again = post(&server, &replay, "p", r#"{"to": 13, "from": 11}"#).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), ("true", &first.body));
    assert_eq!(shown().await, json!({ "from": 12, "to": 12 }));
    assert_eq!(server.database.number("SELECT replay_number FROM webhook_endpoints").await, 2);
    let reused = post(&server, &replay, "p", r#"{"from": 12, "to": 13}"#).await;
    reused.assert_problem(422, "idempotency-key-reused");
    assert_eq!(reused.json()["members"], json!(["from"]));
}

#[tokio::test]
async fn only_events_that_are_kept_are_sent_once_more() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let replay = format!("{path}/replay");
    let none = post(&server, &replay, "p", r#"{"from": 1, "to": 1}"#).await;
    none.assert_problem(400, "invalid-webhook-endpoint");
    with_events(&server, 3).await;
    for (body, pointer, text) in [
        (json!({ "from": 10, "to": 13 }), "/from", "expected at least 11"),
        (json!({ "from": 1, "to": 1 }), "/from", "expected at least 11"),
        (json!({ "from": 11, "to": 14 }), "/to", "expected at most 13"),
        (json!({ "from": 14, "to": 14 }), "/to", "expected at most 13"),
        (json!({ "from": 99, "to": 100 }), "/from", "expected at most 13"),
        (json!({ "from": 12, "to": 11 }), "", "from to be at most to"),
        (json!({ "from": 0, "to": 11 }), "/from", "whole number from 1"),
        (json!({ "from": 11.5, "to": 12 }), "/from", "whole number from 1"),
        (json!({ "from": 11 }), "/to", "missing"),
    ] {
        let refused = post(&server, &replay, "p", &body.to_string()).await;
        refused.assert_problem(400, "invalid-webhook-endpoint");
        assert_eq!(refused.pointers(), [pointer], "{body}");
        assert!(refused.body.contains(text), "{body}: {}", refused.body);
    }
    let replayed = post(&server, &replay, "p", r#"{"from": 11, "to": 13}"#).await;
    assert_eq!(replayed.status, 200, "no refusal has used the key: {}", replayed.body);
    // Its events expire; a retry still gets the stored response.
    server.database.execute("UPDATE event_runs SET first_position = 101").await;
    let again = post(&server, &replay, "p", r#"{"from": 11, "to": 13}"#).await;
    assert_eq!((again.status, again.body), (200, replayed.body));
}

#[tokio::test]
async fn a_replay_to_an_unknown_endpoint_is_refused() {
    let server = start().await;
    with_events(&server, 1).await;
    let body = r#"{"from": 11, "to": 11}"#;
    let unknown = "/webhook-endpoint/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0/replay";
    let refused = post(&server, unknown, "p", body).await;
    refused.assert_problem(404, "not-found");
    assert_eq!(refused.header("idempotent-replayed"), "false");
    post(&server, "/webhook-endpoint/x/replay", "p2", body).await.assert_problem(404, "not-found");
}
