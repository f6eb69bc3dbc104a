//! `PATCH` and `DELETE /webhook-endpoint/{endpoint_id}`.

use payonce_testing::{
    TestServer,
    client::{Client, Response},
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::webhooks::create::{ENDPOINT, URL, create, created, start};

pub async fn change(client: &Client, path: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json")];
    client.request(Method::PATCH, path, &headers, body).await
}

async fn fail(server: &TestServer, reason: &str) {
    let sql = format!(
        "UPDATE webhook_endpoints SET enabled = {}, disabled_reason = {reason}, failing_since = now(),
             resume_at = now() + interval '1 hour'",
        reason == "NULL"
    );
    server.database.execute(&sql).await;
}

#[tokio::test]
async fn a_change_changes_the_named_fields_and_no_others() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let mut expected = server.get(&path).await.json();
    for (name, value) in [
        ("url", json!("http://127.0.0.1:9/other")),
        ("event_types", json!(["refund.created"])),
        ("event_types", Value::Null),
        ("description", json!("for the warehouse")),
        ("description", json!("")),
        ("enabled", json!(false)),
        ("enabled", json!(true)),
    ] {
        expected[name] = value.clone();
        let body = json!({ name: value }).to_string();
        for _ in 0..2 {
            let changed = change(&server, &path, &body).await;
            assert_eq!((changed.status, changed.json()), (200, expected.clone()), "{name}");
            assert_eq!(changed.header("cache-control"), "no-store");
        }
        assert_eq!(server.get(&path).await.json(), expected);
    }
}

#[tokio::test]
async fn concurrent_changes_of_different_fields_are_all_kept() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    for round in 0..10 {
        let description = format!("round {round}");
        let url = format!("{URL}/{round}");
        let (described, moved) = (json!({ "description": description }), json!({ "url": url }));
        let (one, other) = (described.to_string(), moved.to_string());
        let (one, other) =
            tokio::join!(change(&server, &path, &one), change(&server, &path, &other));
        assert_eq!((one.status, other.status), (200, 200));
        let shown = server.get(&path).await;
        assert_eq!((shown.field("description"), shown.field("url")), (description, url));
    }
}

#[tokio::test]
async fn enabling_an_endpoint_and_moving_it_forget_its_failures() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let forgotten =
        "SELECT count(*) FROM webhook_endpoints WHERE failing_since IS NULL AND resume_at IS NULL";
    for (reason, body, expected) in [
        ("'failing'", r#"{"enabled": true}"#, (json!(true), Value::Null, 1)),
        ("'gone'", r#"{"enabled": true}"#, (json!(true), Value::Null, 1)),
        ("'gone'", r#"{"enabled": false}"#, (json!(false), Value::Null, 0)),
        ("'gone'", r#"{"description": "d"}"#, (json!(false), json!("gone"), 0)),
        ("NULL", r#"{"url": "http://127.0.0.1:9/moved"}"#, (json!(true), Value::Null, 1)),
        ("NULL", r#"{"url": "http://127.0.0.1:9/moved"}"#, (json!(true), Value::Null, 0)),
        ("NULL", r#"{"enabled": true}"#, (json!(true), Value::Null, 0)),
    ] {
        fail(&server, reason).await;
        let changed = change(&server, &path, body).await.json();
        let found = server.database.number(forgotten).await;
        let state = (changed["enabled"].clone(), changed["disabled_reason"].clone(), found);
        assert_eq!(state, expected, "{reason} {body}");
    }
}

#[tokio::test]
async fn an_invalid_change_is_refused_and_changes_nothing() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let before = server.get(&path).await.json();
    for (body, pointers) in [
        ("", json!([""])),
        ("{}", json!([""])),
        ("[]", json!([""])),
        (r#"{"enabled": null}"#, json!(["/enabled"])),
        (r#"{"description": "d", "url": "http://10.0.0.1/"}"#, json!(["/url"])),
        (r#"{"description": "d", "url": "https://nowhere.invalid/"}"#, json!(["/url"])),
        (r#"{"description": "d", "event_types": ["x"]}"#, json!(["/event_types"])),
        (r#"{"description": "d", "secret": "s"}"#, json!(["/secret"])),
        (r#"{"description": "d", "description": "e"}"#, json!(["/description"])),
    ] {
        let refused = change(&server, &path, body).await;
        refused.assert_problem(400, "invalid-webhook-endpoint");
        assert_eq!(json!(refused.pointers()), pointers, "{body}: {}", refused.body);
    }
    change(&server, &path, "{").await.assert_problem(400, "malformed-json");
    let change_of = r#"{"description": "d"}"#;
    let plain =
        server.request(Method::PATCH, &path, &[("content-type", "text/plain")], change_of).await;
    plain.assert_problem(415, "unsupported-media-type");
    change(&server, &format!("{path}?enabled=false"), change_of)
        .await
        .assert_problem(400, "invalid-query");
    let large = json!({ "description": "x".repeat(20_000) }).to_string();
    change(&server, &path, &large).await.assert_problem(413, "body-too-large");
    assert_eq!(server.get(&path).await.json(), before);
}

#[tokio::test]
async fn a_deleted_endpoint_is_not_found_and_its_progress_is_gone() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let progress =
        "INSERT INTO webhook_progress (account_id, endpoint_id, replay, number, position, done)
                    SELECT account_id, endpoint_id, 0, 1, 7, 0 FROM webhook_endpoints";
    server.database.execute(progress).await;
    let query = server.request(Method::DELETE, &format!("{path}?force=1"), &[], "").await;
    query.assert_problem(400, "invalid-query");
    let deleted = server.request(Method::DELETE, &path, &[], "").await;
    assert_eq!((deleted.status, deleted.body.as_str()), (204, ""));
    assert_eq!(server.database.number("SELECT count(*) FROM webhook_progress").await, 0);
    server.request(Method::DELETE, &path, &[], "").await.assert_problem(404, "not-found");
    server.get(&path).await.assert_problem(404, "not-found");
    change(&server, &path, r#"{"enabled": true}"#).await.assert_problem(404, "not-found");
    assert_eq!(server.get("/webhook-endpoint").await.json(), json!({ "webhook_endpoints": [] }));
}

#[tokio::test]
async fn other_methods_and_web_pages_of_other_servers_are_refused() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    for (path, allow) in [
        ("/webhook-endpoint", "GET, HEAD, POST"),
        (path.as_str(), "DELETE, GET, HEAD, PATCH"),
        (&format!("{path}/rotate"), "POST"),
        (&format!("{path}/replay"), "POST"),
    ] {
        let refused = server.request(Method::PUT, path, &[], ENDPOINT).await;
        refused.assert_problem(405, "method-not-allowed");
        assert_eq!(refused.header("allow"), allow);
    }
    let origin = [("origin", "https://evil.example"), ("content-type", "application/json")];
    for method in [Method::PATCH, Method::DELETE] {
        let refused = server.request(method, &path, &origin, r#"{"enabled": false}"#).await;
        refused.assert_problem(401, "unauthorized");
    }
    assert_eq!(server.get(&path).await.field("enabled"), "true");
}

#[tokio::test]
async fn a_change_whose_outcome_is_unknown_says_so() {
    let server =
        TestServer::start_with(&["--request-deadline", "1s", "--in-flight-wait", "500ms"]).await;
    let path = created_anywhere(&server).await;
    let mut holder = server.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE webhook_endpoints").execute(&mut holder).await.unwrap();
    for method in [Method::PATCH, Method::DELETE] {
        let headers = [("content-type", "application/json")];
        let unknown = server.request(method, &path, &headers, r#"{"enabled": false}"#).await;
        unknown.assert_problem(503, "outcome-unknown");
        assert!(unknown.field("detail").contains("may or may not"), "{}", unknown.body);
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    server
        .database
        .until("SELECT count(*) FROM pg_locks WHERE NOT granted", |count| count == 0)
        .await;
    let _either = server.request(Method::DELETE, &path, &[], "").await.status;
    server.request(Method::DELETE, &path, &[], "").await.assert_problem(404, "not-found");
}

/// Creates an endpoint with an address that needs no look-up, and returns its path.
async fn created_anywhere(server: &TestServer) -> String {
    let response = create(server, "k", r#"{"url": "https://1.1.1.1/", "enabled": false}"#).await;
    assert_eq!(response.status, 201, "{}", response.body);
    response.header("location").to_owned()
}
