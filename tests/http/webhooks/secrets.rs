//! `WEBHOOK_SECRET`: a changed list, and no secret in a log.

use std::sync::Arc;

use chrono::Utc;
use payonce::webhooks::reseal::reseal;
use payonce::webhooks::secrets::{Keyring, OpenError};
use payonce_testing::{TestDatabase, binary::Serve, wait::until};
use serde_json::Value;

use crate::{
    logs::requests::send,
    webhooks::{
        create::{ENDPOINT, created, post, start_with_secret},
        rotate::signing,
    },
};

const OLD: &str = "the-old-webhook-secret-of-a-server";
const NEW: &str = "the-new-webhook-secret-of-a-server";

#[tokio::test]
async fn a_new_first_entry_encrypts_all_secrets_and_receivers_notice_nothing() {
    let database = Arc::new(TestDatabase::create().await);
    let server = start_with_secret(&database, Some(OLD)).await;
    let (path, first) = created(&server, "k").await;
    let second = post(&server, &format!("{path}/rotate"), "r", "").await.field("secret");
    drop(server);
    let expected = [second, first];
    assert_eq!(signing(&database, OLD, Utc::now()).await, expected);

    let both = format!("{NEW},{OLD}");
    let server = start_with_secret(&database, Some(&both)).await;
    let newest = Keyring::parse(NEW).unwrap().newest();
    let under_newest =
        format!("SELECT count(*) FROM webhook_endpoints WHERE encode(key_id, 'hex') = '{newest}'");
    database.until(&under_newest, |count| count == 1).await;
    drop(server);
    assert_eq!(signing(&database, NEW, Utc::now()).await, expected);
}

#[tokio::test]
async fn secrets_of_an_unknown_entry_are_left_alone_and_reported() {
    let database = Arc::new(TestDatabase::create().await);
    let server = start_with_secret(&database, Some(OLD)).await;
    for key in ["a", "b"] {
        created(&server, key).await;
    }
    drop(server);
    let mut conn = database.connect().await;
    let found = reseal(&mut conn, &Keyring::parse(NEW).unwrap()).await.unwrap();
    let unknown = OpenError::UnknownKey(Keyring::parse(OLD).unwrap().newest());
    assert_eq!((found.endpoints, found.unreadable, found.error), (0, 2, Some(unknown)));
    let found = reseal(&mut conn, &Keyring::parse(&format!("{NEW},{OLD}")).unwrap()).await.unwrap();
    assert_eq!((found.endpoints, found.unreadable, found.error), (2, 0, None));

    let serve = Serve::start(&database.options, &[("WEBHOOK_SECRET", OLD)]);
    until("the report", async || serve.log().contains("nothing is sent to 2 webhook endpoints"))
        .await;
    let log = serve.log();
    assert!(log.contains("WEBHOOK_SECRET") && !log.contains(OLD) && !log.contains(NEW), "{log}");
    drop(serve);
    let serve = Serve::start(&database.options, &[]);
    until("the report", async || serve.log().contains("WEBHOOK_SECRET is not set")).await;
}

#[tokio::test]
async fn no_log_line_has_a_secret_or_the_query_of_a_url() {
    let database = TestDatabase::create().await;
    let variables = [
        ("WEBHOOK_SECRET", OLD),
        ("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"),
        ("RUST_LOG", "trace"),
    ];
    let serve = Serve::start(&database.options, &variables);
    let keyed = |key: &str| format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
    let body = ENDPOINT.replace("hook", "hook?token=se-cret-token");
    let created = send(&serve, "POST /webhook-endpoint", &keyed("k"), &body).await;
    let created: Value = serde_json::from_str(&created).unwrap();
    let path = format!("/webhook-endpoint/{}", created["endpoint_id"].as_str().unwrap());
    let rotated = send(&serve, &format!("POST {path}/rotate"), &keyed("r"), "").await;
    let rotated: Value = serde_json::from_str(&rotated).unwrap();
    send(&serve, "POST /webhook-endpoint", &keyed("k"), &body).await;
    send(&serve, "POST /webhook-endpoint", &keyed("k"), ENDPOINT).await;
    for request in
        ["GET /webhook-endpoint".to_owned(), format!("GET {path}"), format!("DELETE {path}")]
    {
        send(&serve, &request, "", "").await;
    }
    let log = serve.log();
    assert!(log.contains("create-webhook-endpoint"), "{log}");
    for secret in [&created["secret"], &rotated["secret"]] {
        let secret = secret.as_str().unwrap().strip_prefix("whsec_").unwrap();
        assert!(!log.contains(secret), "{secret}");
    }
    for secret in ["whsec_", "se-cret-token", OLD] {
        assert!(
            !log.contains(secret),
            "{secret}: {}",
            log.lines().find(|line| line.contains(secret)).unwrap()
        );
    }
}
