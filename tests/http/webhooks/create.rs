//! `POST /webhook-endpoint`: creates an endpoint, once.

use std::sync::Arc;

use futures_util::future::join_all;
use payonce::{config::Settings, webhooks::secrets::Keyring};
use payonce_testing::{
    TestDatabase, TestServer,
    client::{Client, Response},
    server::settings,
};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Connection;

/// A URL that a test server may call, and where nothing listens.
pub const URL: &str = "http://127.0.0.1:9/hook";

/// A body with this URL alone.
pub const ENDPOINT: &str = r#"{"url": "http://127.0.0.1:9/hook"}"#;

/// Webhooks may be sent to this machine.
pub const LOCAL: [&str; 2] = ["--webhook-allowed-networks", "127.0.0.0/8"];

pub async fn start() -> TestServer {
    TestServer::start_with(&LOCAL).await
}

/// Starts a server with this `WEBHOOK_SECRET` on this database.
pub async fn start_with_secret(database: &Arc<TestDatabase>, list: Option<&str>) -> TestServer {
    let webhook_secret = list.map(|list| Keyring::parse(list).unwrap());
    let settings = Settings { webhook_secret, ..settings(&LOCAL) };
    TestServer::start_configured(database, &database.options, settings).await
}

/// Sends a `POST` with a key.
pub async fn post(client: &Client, path: &str, key: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json"), ("idempotency-key", key)];
    client.request(Method::POST, path, &headers, body).await
}

pub async fn create(client: &Client, key: &str, body: &str) -> Response {
    post(client, "/webhook-endpoint", key, body).await
}

/// Creates an endpoint, and returns its path and its secret.
pub async fn created(client: &Client, key: &str) -> (String, String) {
    let response = create(client, key, ENDPOINT).await;
    assert_eq!(response.status, 201, "{}", response.body);
    (response.header("location").to_owned(), response.field("secret"))
}

/// Inserts a run of this many events for the default account, which no server delivers to the endpoints that exist.
/// Nothing reads its subjects.
pub async fn sequence(database: &TestDatabase, first: i64, events: i64, age: &str) {
    let run = format!(
        "INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
         SELECT '00000000-0000-0000-0000-000000000000', {first}, 1, '{{1}}', array_agg(gen_random_uuid()),
                now() - interval '{age}'
         FROM generate_series(1, {events})"
    );
    database.execute("UPDATE webhook_endpoints SET lease_until = 'infinity'").await;
    database.execute(&run).await;
}

#[tokio::test]
async fn a_new_endpoint_has_the_defaults_and_a_secret() {
    let server = start().await;
    let response = create(&server, "k", ENDPOINT).await;
    assert_eq!(response.status, 201, "{}", response.body);
    let body = response.json();
    let id = body["endpoint_id"].as_str().unwrap();
    assert_eq!(response.header("location"), format!("/webhook-endpoint/{id}"));
    assert_eq!(response.header("idempotent-replayed"), "false");
    assert_eq!(response.header("cache-control"), "no-store");
    let mut expected = json!({
        "endpoint_id": id, "url": URL, "event_types": null, "description": "", "enabled": true
    });
    expected["created_at"] = body["created_at"].clone();
    expected["secret"] = body["secret"].clone();
    assert_eq!(body, expected);
    let secret = body["secret"].as_str().unwrap();
    assert!(secret.starts_with("whsec_") && secret.len() == 50, "{secret}");
}

#[tokio::test]
async fn all_fields_of_the_body_are_kept() {
    let server = start().await;
    let body = json!({
        "url": "http://127.0.0.1:9/a?b=c", "event_types": ["refund.created", "payment.created"],
        "description": "größe", "enabled": false
    });
    let response = create(&server, "k", &body.to_string()).await;
    assert_eq!(response.status, 201, "{}", response.body);
    let shown = server.get(response.header("location")).await.json();
    for name in ["url", "description", "enabled"] {
        assert_eq!((&response.json()[name], &shown[name]), (&body[name], &body[name]), "{name}");
    }
    let types = json!(["payment.created", "refund.created"]);
    assert_eq!((&response.json()["event_types"], &shown["event_types"]), (&types, &types));
    assert_eq!(shown["created_at"], response.json()["created_at"]);
}

#[tokio::test]
async fn a_retry_gets_the_same_bytes_also_after_a_rotation_and_after_the_deletion() {
    let server = start().await;
    let first = create(&server, "k", ENDPOINT).await;
    let path = first.header("location").to_owned();
    let again = async || {
        let again = create(&server, "k", ENDPOINT).await;
        assert_eq!((again.status, again.header("idempotent-replayed")), (200, "true"));
        assert_eq!(
            (again.body, again.headers["location"].clone()),
            (first.body.clone(), first.headers["location"].clone())
        );
    };
    again().await;
    let rotated = post(&server, &format!("{path}/rotate"), "r", "").await;
    assert_ne!(rotated.field("secret"), first.field("secret"));
    again().await;
    assert_eq!(server.request(Method::DELETE, &path, &[], "").await.status, 204);
    again().await;
    assert_eq!(server.database.number("SELECT count(*) FROM webhook_endpoints").await, 0);
}

#[tokio::test]
async fn another_request_with_the_key_is_refused_and_its_differing_fields_are_named() {
    let server = start().await;
    created(&server, "k").await;
    for (body, members) in [
        (r#"{"url": "http://127.0.0.1:9/other"}"#, json!(["url"])),
        (r#"{"url": "http://127.0.0.1:9/hook", "enabled": true}"#, json!(["enabled"])),
        (
            r#"{"url": "http://127.0.0.1:9/hook", "event_types": null, "description": ""}"#,
            json!(["event_types", "description"]),
        ),
    ] {
        let response = create(&server, "k", body).await;
        response.assert_problem(422, "idempotency-key-reused");
        assert_eq!(response.json()["members"], members);
    }
    server.pay("k", payonce_testing::PAYMENT).await.assert_problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn neither_rows_nor_stored_responses_have_the_secret_in_clear_text() {
    let server = start().await;
    let (path, first) = created(&server, "k").await;
    let second = post(&server, &format!("{path}/rotate"), "r", "").await.field("secret");
    for secret in [first, second] {
        let encoded = secret.strip_prefix("whsec_").unwrap();
        for rows in [
            format!("idempotency_responses AS r WHERE position(convert_to('{encoded}', 'UTF8') IN body) > 0"),
            format!(
                "webhook_endpoints AS e WHERE position(decode('{encoded}', 'base64') IN secret) > 0
                 OR position(decode('{encoded}', 'base64') IN previous_secret) > 0 OR e::text LIKE '%{encoded}%'"
            ),
        ] {
            assert_eq!(server.database.number(&format!("SELECT count(*) FROM {rows}")).await, 0, "{rows}");
        }
    }
    let stored = "SELECT count(*) FROM idempotency_responses WHERE convert_from(body, 'UTF8') LIKE '%\"secret\":%'";
    assert_eq!(server.database.number(stored).await, 2);
}

#[tokio::test]
async fn an_invalid_body_is_refused_field_by_field_and_does_not_use_the_key() {
    let server = start().await;
    let long = format!("https://example.com/{}", "a".repeat(2048));
    let description = "a".repeat(501);
    for (body, pointers) in [
        (json!({}), json!(["/url"])),
        (json!({ "url": 1 }), json!(["/url"])),
        (json!({ "url": "example.com" }), json!(["/url"])),
        (json!({ "url": "ftp://example.com/" }), json!(["/url"])),
        (json!({ "url": "https://user:se-cret@example.com/" }), json!(["/url"])),
        (json!({ "url": long }), json!(["/url"])),
        (json!({ "url": "http://10.0.0.1/" }), json!(["/url"])),
        (json!({ "url": "https://169.254.169.254/latest" }), json!(["/url"])),
        (json!({ "url": "https://nowhere.invalid/" }), json!(["/url"])),
        (json!({ "url": "http://1.1.1.1/" }), json!(["/url"])),
        (json!({ "url": URL, "event_types": [] }), json!(["/event_types"])),
        (json!({ "url": URL, "event_types": "payment.created" }), json!(["/event_types"])),
        (
            json!({ "url": URL, "event_types": ["payment.created", "payment.created"] }),
            json!(["/event_types"]),
        ),
        (json!({ "url": URL, "description": description }), json!(["/description"])),
        (json!({ "url": URL, "description": "a\u{7}" }), json!(["/description"])),
        (json!({ "url": URL, "description": null }), json!(["/description"])),
        (json!({ "url": URL, "enabled": "yes" }), json!(["/enabled"])),
        (json!({ "url": 1, "enabled": 1, "secret": "x" }), json!(["/url", "/enabled", "/secret"])),
    ] {
        let response = create(&server, "k", &body.to_string()).await;
        response.assert_problem(400, "invalid-webhook-endpoint");
        assert_eq!(json!(response.pointers()), pointers, "{body}: {}", response.body);
        assert!(!response.body.contains("se-cret"), "{}", response.body);
    }
    create(&server, "k", "{").await.assert_problem(400, "malformed-json");
    create(&server, "a b", ENDPOINT).await.assert_problem(400, "idempotency-key-invalid");
    let untyped = [("idempotency-key", "k")];
    let untyped = server.request(Method::POST, "/webhook-endpoint", &untyped, ENDPOINT).await;
    untyped.assert_problem(415, "unsupported-media-type");
    assert_eq!(create(&server, "k", ENDPOINT).await.status, 201);
}

#[tokio::test]
async fn unknown_event_types_are_named() {
    let server = start().await;
    let long = "x".repeat(5000);
    let body =
        json!({ "url": URL, "event_types": ["payment.created", "payment.deleted", long, "a\"b"] });
    let response = create(&server, "k", &body.to_string()).await;
    response.assert_problem(400, "invalid-webhook-endpoint");
    let detail = response.json()["errors"][0]["detail"].clone();
    let detail = detail.as_str().unwrap();
    assert!(detail.contains(r#"unknown event type "payment.deleted""#), "{detail}");
    assert!(detail.contains(r#""a\"b""#) && detail.contains("refund.created"), "{detail}");
    assert!(detail.len() < 400, "{detail}");
}

#[tokio::test]
async fn without_a_webhook_secret_the_problem_says_how_to_make_one() {
    let database = Arc::new(TestDatabase::create().await);
    let server = start_with_secret(&database, None).await;
    let refused = create(&server, "k", ENDPOINT).await;
    refused.assert_problem(503, "webhooks-not-configured");
    assert!(refused.field("detail").contains("openssl rand -base64 32"), "{}", refused.body);
    assert!(refused.field("detail").contains("WEBHOOK_SECRET"), "{}", refused.body);
    drop(server);
    let server = TestServer::start_on(&database, &LOCAL).await;
    assert_eq!(create(&server, "k", ENDPOINT).await.status, 201);
}

#[tokio::test]
async fn an_account_never_gets_a_51st_endpoint_however_many_are_created_at_once() {
    let server = start().await;
    let other = TestServer::start_on(&server.database, &LOCAL).await;
    let keys: Vec<String> = (0..64).map(|number| format!("k{number}")).collect();
    let responses = join_all(keys.iter().enumerate().map(|(number, key)| {
        create(if number % 2 == 0 { &server } else { &other }, key, ENDPOINT)
    }))
    .await;
    let refused: Vec<(&String, &Response)> =
        keys.iter().zip(&responses).filter(|(_, response)| response.status == 402).collect();
    let made = responses.iter().filter(|response| response.status == 201).count();
    assert_eq!((made, refused.len()), (50, 14), "{:?}", responses.last());
    let list = server.get("/webhook-endpoint").await.json();
    assert_eq!(list["webhook_endpoints"].as_array().unwrap().len(), 50);

    let (key, first) = refused[0];
    first.assert_problem(402, "too-many-webhook-endpoints");
    let path = list["webhook_endpoints"][0]["endpoint_id"].as_str().unwrap();
    let path = format!("/webhook-endpoint/{path}");
    assert_eq!(server.request(Method::DELETE, &path, &[], "").await.status, 204);
    let again = create(&server, key, ENDPOINT).await;
    assert_eq!((again.status, &again.body), (402, &first.body), "the refusal is stored");
    assert_eq!(create(&server, "another", ENDPOINT).await.status, 201);
    create(&server, "one-more", ENDPOINT).await.assert_problem(402, "too-many-webhook-endpoints");
}

#[tokio::test]
async fn two_servers_that_create_the_last_endpoint_at_once_create_one() {
    let server = start().await;
    let other = TestServer::start_on(&server.database, &LOCAL).await;
    created(&server, "k").await;
    // Each creation waits after it has counted the endpoints.
    let prepare = "
        INSERT INTO webhook_endpoints
            (account_id, endpoint_id, url, event_types, description, key_id, secret, after_position)
        SELECT account_id, gen_random_uuid(), url, event_types, description, key_id, secret, after_position
        FROM webhook_endpoints, generate_series(1, 48);
        CREATE FUNCTION wait_for_holder() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            PERFORM pg_advisory_xact_lock_shared(1, 1);
            RETURN NEW;
        END $$;
        CREATE TRIGGER held BEFORE INSERT ON webhook_endpoints FOR EACH ROW EXECUTE FUNCTION wait_for_holder()";
    server.database.execute(prepare).await;
    server.database.disable_lock_timeout().await;
    let mut holder = server.database.connect().await;
    sqlx::raw_sql("SELECT pg_advisory_lock(1, 1)").execute(&mut holder).await.unwrap();
    let release = async {
        server.database.until_locks_are_waited_for(2).await;
        holder.close().await.unwrap();
    };
    let (one, two, ()) =
        tokio::join!(create(&server, "a", ENDPOINT), create(&other, "b", ENDPOINT), release);
    let mut statuses = [one.status, two.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 402], "{} {}", one.body, two.body);
}

#[tokio::test]
async fn a_retry_gets_its_response_although_its_url_is_refused_by_now() {
    let mut server = start().await;
    let first = create(&server, "k", ENDPOINT).await;
    server.stop();
    let server = TestServer::start_on(&server.database, &[]).await;
    create(&server, "new", ENDPOINT).await.assert_problem(400, "invalid-webhook-endpoint");
    let again = create(&server, "k", ENDPOINT).await;
    assert_eq!((again.status, again.body), (200, first.body));
    let other = create(&server, "k", r#"{"url": "http://127.0.0.1:9/other"}"#).await;
    other.assert_problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn a_response_whose_secret_cannot_be_decrypted_any_more_has_expired() {
    let mut server = start().await;
    let (path, _) = created(&server, "k").await;
    server.stop();
    let server = start_with_secret(&server.database, Some(&"x".repeat(32))).await;
    let again = create(&server, "k", ENDPOINT).await;
    again.assert_problem(410, "idempotency-key-expired");
    assert_eq!(again.header("location"), path);
    assert!(again.field("detail").contains("rotate"), "{}", again.body);
}

#[tokio::test]
async fn only_events_after_the_creation_are_sent() {
    let server = start().await;
    sequence(&server.database, 1, 100, "1 hour").await;
    sequence(&server.database, 101, 7, "1 minute").await;
    let (path, _) = created(&server, "k").await;
    let after: i64 = server.database.number("SELECT after_position FROM webhook_endpoints").await;
    assert_eq!(after, 107);
    assert_eq!(server.get(&path).await.json()["behind"], json!({ "events": 0, "seconds": 0 }));
}

#[tokio::test]
async fn the_state_of_the_key_names_the_endpoint() {
    let server = start().await;
    let (path, secret) = created(&server, "k").await;
    let rotate = format!("{path}/rotate");
    assert_eq!(post(&server, &rotate, "r", "").await.status, 200);
    let state = async |key: &str| {
        let state = server.state(key).await;
        assert!(!state.body.contains(&secret), "{}", state.body);
        let state: Value = state.json();
        ["state", "operation", "resource", "status"].map(|name| state[name].clone())
    };
    let made = [json!("create-webhook-endpoint"), json!(path), json!(201)];
    assert_eq!(state("k").await, [&[json!("completed")], &made[..]].concat()[..]);
    let rotated = json!("rotate-webhook-secret");
    assert_eq!(state("r").await, [json!("completed"), rotated.clone(), json!(path), json!(200)]);
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    assert_eq!(state("k").await, [&[json!("expired")], &made[..]].concat()[..]);
    assert_eq!(state("r").await, [json!("expired"), rotated, Value::Null, json!(200)]);
    let again = create(&server, "k", ENDPOINT).await;
    again.assert_problem(410, "idempotency-key-expired");
    assert_eq!(again.header("location"), path);
    post(&server, &rotate, "r", "").await.assert_problem(410, "idempotency-key-expired");
}
