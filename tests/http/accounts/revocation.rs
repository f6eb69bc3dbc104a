//! A revoked API key is refused by every server within five seconds.

use std::time::{Duration, Instant};

use payonce_testing::{
    PAYMENT, TestServer,
    client::Client,
    wait::{last_accepted, until},
};

use crate::accounts::api_keys::assert_unauthorized;

/// Every server refuses a revoked key within this time.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

const INVALID: &str = "Bearer error=\"invalid_token\"";

/// Sends requests until the key is refused, and returns how late it was accepted for the last time.
pub(crate) async fn wait_until_refused(client: &Client) -> Duration {
    last_accepted(Instant::now(), async || {
        let response = client.get("/payment/x").await;
        if response.status != 404 {
            assert_unauthorized(&response, INVALID);
        }
        response.status == 404
    })
    .await
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_every_server_within_the_promised_time() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    assert_eq!(ada.at(&other).get("/payment/x").await.status, 404);
    server.database.revoke(&ada.api_key_id);
    let there = ada.at(&other);
    let (here, there) = tokio::join!(wait_until_refused(&ada), wait_until_refused(&there));
    assert!(here < REVOKED_WITHIN && there < REVOKED_WITHIN, "{here:?} {there:?}");
    // The same for a key that was revoked by SQL.
    assert_eq!(bob.get("/payment/x").await.status, 404);
    server.database.execute("UPDATE api_keys SET revoked_at = now()").await;
    assert!(wait_until_refused(&bob).await < REVOKED_WITHIN);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_triggers_are_off_is_refused() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    // As in a restore of a dump or logical replication.
    let replica = "SET session_replication_role = replica; UPDATE api_keys SET revoked_at = now()";
    server.database.execute(&format!("{replica} WHERE api_key_id = '{}'", ada.api_key_id)).await;
    assert!(wait_until_refused(&ada).await < REVOKED_WITHIN);
    // Logical replication fires no statement trigger at all.
    let silent = "ALTER TABLE api_keys DISABLE TRIGGER ALL; UPDATE api_keys SET revoked_at = now()";
    server.database.execute(silent).await;
    wait_until_refused(&bob).await;
}

#[tokio::test]
async fn anonymous_access_ends_with_a_key_that_is_inserted_while_triggers_are_off() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/payment/x").await.status, 404);
    let restore = "SET session_replication_role = replica; ALTER TABLE api_keys DISABLE TRIGGER ALL;
        INSERT INTO api_keys (api_key_id, account_id, name, hash, ending, revoked_at)
        VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'restored', sha256('x'), 'abcd', now())";
    server.database.execute(restore).await;
    until("anonymous calls end", async || server.get("/payment/x").await.status == 401).await;
}

#[tokio::test]
async fn revoking_a_key_leaves_the_other_keys_of_its_account_valid() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let second = server.database.create_api_key("ada");
    let second = server.showing(&format!("Bearer {}", second["api_key"].as_str().unwrap()));
    let taken = ada.pay("k", PAYMENT).await;
    server.database.revoke(&ada.api_key_id);
    wait_until_refused(&ada).await;
    assert_eq!(second.pay("k", PAYMENT).await.body, taken.body);
}
