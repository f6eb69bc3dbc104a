//! `GET /webhook-endpoint` and `GET /webhook-endpoint/{endpoint_id}`.

use serde_json::{Value, json};

use crate::webhooks::create::{created, sequence, start};

#[tokio::test]
async fn an_endpoint_shows_how_its_delivery_goes_and_never_its_secret() {
    let server = start().await;
    let (path, secret) = created(&server, "k").await;
    sequence(&server.database, 1, 10, "2 hours").await;
    sequence(&server.database, 11, 10, "100 seconds").await;
    let delivered = "
        UPDATE webhook_endpoints SET failing_since = '2026-11-24T09:00:00Z', last_success_at = '2026-11-24T08:00:00Z',
            last_status = 500, last_error = 'it responded with 500', lost_from = 3, lost_to = 5;
        INSERT INTO webhook_progress (account_id, endpoint_id, replay, number, position, done)
        SELECT account_id, endpoint_id, replay, number, position, done FROM webhook_endpoints, (VALUES
            (0, 1, 5, 0), (0, 2, 12, 10), (7, 3, 99, 0)
        ) AS progress(replay, number, position, done);
        INSERT INTO webhook_failures (account_id, endpoint_id, position, type, version, subject, payment_id, at, attempts, next_at)
        SELECT account_id, endpoint_id, position, 1, 1, gen_random_uuid(), gen_random_uuid(), now(), 1, next_at
        FROM webhook_endpoints, (VALUES (1, now()), (2, now()), (3, NULL)) AS failed(position, next_at)";
    server.database.execute(delivered).await;
    let shown = server.get(&path).await;
    assert_eq!((shown.status, shown.header("cache-control")), (200, "no-store"));
    let mut shown = shown.json();
    // Of the events after 12, two are done.
    let seconds = shown["behind"]["seconds"].take().as_i64().unwrap();
    assert!((100..200).contains(&seconds), "{seconds}");
    for (name, value) in [
        ("behind", json!({ "events": 6, "seconds": null })),
        ("failures", json!({ "open": 2, "parked": 1 })),
        ("failing_since", json!("2026-11-24T09:00:00.000Z")),
        ("last_success_at", json!("2026-11-24T08:00:00.000Z")),
        ("last_status", json!(500)),
        ("last_error", json!("it responded with 500")),
        ("lost", json!({ "from": 3, "to": 5 })),
        ("replay", Value::Null),
        ("disabled_reason", Value::Null),
        ("previous_secret_until", Value::Null),
    ] {
        assert_eq!(shown[name], value, "{name}");
    }
    let text = shown.to_string();
    assert!(!text.contains(secret.strip_prefix("whsec_").unwrap()), "{text}");
    assert!(shown.get("secret").is_none(), "{text}");
}

#[tokio::test]
async fn an_endpoint_behind_events_that_have_expired_is_as_late_as_the_oldest_kept() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    sequence(&server.database, 51, 2, "1000 seconds").await;
    let behind = server.get(&path).await.json()["behind"].clone();
    assert_eq!(behind["events"], 52);
    let seconds = behind["seconds"].as_i64().unwrap();
    assert!((1000..1100).contains(&seconds), "{seconds}");
}

#[tokio::test]
async fn the_list_has_the_endpoints_oldest_first_as_each_shows_itself() {
    let server = start().await;
    let mut paths = Vec::new();
    for key in ["a", "b", "c"] {
        paths.push(created(&server, key).await.0);
    }
    let list = server.get("/webhook-endpoint").await;
    assert_eq!((list.status, list.header("cache-control")), (200, "no-store"));
    let list = list.json();
    for (path, listed) in paths.iter().zip(list["webhook_endpoints"].as_array().unwrap()) {
        assert_eq!(server.get(path).await.json(), *listed);
    }
    server.get("/webhook-endpoint/x").await.assert_problem(404, "not-found");
    let unknown = "/webhook-endpoint/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    server.get(unknown).await.assert_problem(404, "not-found");
}
