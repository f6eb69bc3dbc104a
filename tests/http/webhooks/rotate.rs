//! `POST /webhook-endpoint/{endpoint_id}/rotate`.

use chrono::{DateTime, TimeDelta, Utc};
use payonce::webhooks::{endpoint::Endpoint, secrets::Keyring};
use payonce_testing::{TestDatabase, server::WEBHOOK_SECRET};

use crate::webhooks::create::{created, post, start, start_with_secret};

/// The secrets that sign at this time, of the only endpoint.
pub async fn signing(database: &TestDatabase, list: &str, at: DateTime<Utc>) -> Vec<String> {
    let mut conn = database.connect().await;
    let read = sqlx::query_as("SELECT * FROM webhook_endpoints").fetch_one(&mut conn).await;
    let endpoint: Endpoint = read.unwrap();
    let secrets = endpoint.secrets(&Keyring::parse(list).unwrap(), at).unwrap();
    secrets.iter().map(|secret| secret.reveal().as_str().to_owned()).collect()
}

#[tokio::test]
async fn after_a_rotation_both_secrets_sign_for_a_day() {
    let server = start().await;
    let (path, first) = created(&server, "k").await;
    let rotated = post(&server, &format!("{path}/rotate"), "r", "{}").await;
    assert_eq!(rotated.status, 200, "{}", rotated.body);
    assert_eq!(
        (rotated.header("location"), rotated.header("idempotent-replayed")),
        (&*path, "false")
    );
    assert_eq!(rotated.field("endpoint_id"), path.rsplit('/').next().unwrap());
    let second = rotated.field("secret");
    assert_ne!(first, second);
    let until: DateTime<Utc> = rotated.field("previous_secret_until").parse().unwrap();
    let left = until - Utc::now();
    assert!(left > TimeDelta::hours(23) && left <= TimeDelta::hours(24), "{left}");
    assert_eq!(
        server.get(&path).await.field("previous_secret_until"),
        rotated.field("previous_secret_until")
    );

    let signing = async |at| signing(&server.database, WEBHOOK_SECRET, at).await;
    assert_eq!(signing(until - TimeDelta::seconds(1)).await, [second.clone(), first]);
    assert_eq!(signing(until + TimeDelta::seconds(1)).await, std::slice::from_ref(&second));

    let third = post(&server, &format!("{path}/rotate"), "r2", "").await.field("secret");
    assert_eq!(signing(Utc::now()).await, [third, second], "the first signs no more");
}

#[tokio::test]
async fn a_retry_of_a_rotation_gets_the_same_bytes_and_rotates_nothing() {
    let server = start().await;
    let (path, _) = created(&server, "k").await;
    let rotate = format!("{path}/rotate");
    let first = post(&server, &rotate, "r", "").await;
    let second = post(&server, &rotate, "r2", "").await;
    assert_ne!(first.field("secret"), second.field("secret"));
    let again = post(&server, &rotate, "r", "{}").await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (200, "true"));
    assert_eq!(again.body, first.body);
    let newest = signing(&server.database, WEBHOOK_SECRET, Utc::now()).await;
    assert_eq!(newest, [second.field("secret"), first.field("secret")]);
}

#[tokio::test]
async fn a_rotation_of_an_unknown_endpoint_is_refused() {
    let server = start().await;
    let unknown = "/webhook-endpoint/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0/rotate";
    let refused = post(&server, unknown, "r", "").await;
    refused.assert_problem(404, "not-found");
    assert_eq!(refused.header("idempotent-replayed"), "false");
    post(&server, "/webhook-endpoint/x/rotate", "r2", "").await.assert_problem(404, "not-found");
    let (path, _) = created(&server, "r2").await;
    let wrong = post(&server, &format!("{path}/rotate"), "r3", r#"{"a": 1}"#).await;
    wrong.assert_problem(400, "invalid-webhook-endpoint");
    let reused = post(&server, &format!("{path}/rotate"), "r", "").await;
    reused.assert_problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn a_rotation_recovers_an_endpoint_whose_secret_cannot_be_decrypted() {
    let mut server = start().await;
    let (path, _) = created(&server, "k").await;
    server.stop();
    let other = "another-webhook-secret-of-32-chars";
    let server = start_with_secret(&server.database, Some(other)).await;
    let rotated = post(&server, &format!("{path}/rotate"), "r", "").await;
    assert_eq!((rotated.status, rotated.field("previous_secret_until")), (200, "null".to_owned()));
    assert_eq!(signing(&server.database, other, Utc::now()).await, [rotated.field("secret")]);
}
