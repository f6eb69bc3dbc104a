//! Endpoints and events by SQL, so that a test has thousands of them at once.

use payonce::{
    ids::{AccountId, EndpointId},
    webhooks::secrets::{Keyring, Secret},
};
use uuid::Uuid;

use super::{TestDatabase, server::WEBHOOK_SECRET};

/// Servers may call receivers on this machine.
pub const LOCAL_RECEIVERS: [&str; 2] = ["--webhook-allowed-networks", "127.0.0.0/8"];

/// The same for the program, with its secret.
pub const VARIABLES: [(&str, &str); 2] =
    [("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8"), ("WEBHOOK_SECRET", WEBHOOK_SECRET)];

const ACCOUNT: &str = "'00000000-0000-0000-0000-000000000000'";

impl TestDatabase {
    /// Creates an endpoint of the anonymous account that receives all events after this position.
    pub async fn create_endpoint(&self, url: &str, after: i64) -> EndpointId {
        self.create_endpoint_under(WEBHOOK_SECRET, url, after).await
    }

    /// The same, with its secret encrypted under this `WEBHOOK_SECRET`.
    pub async fn create_endpoint_under(&self, keyring: &str, url: &str, after: i64) -> EndpointId {
        let endpoint_id = EndpointId::from(Uuid::now_v7());
        let secret = Secret::generate().unwrap();
        let keyring = Keyring::parse(keyring).unwrap();
        let sealed = keyring.seal(AccountId::DEFAULT, endpoint_id, &secret).unwrap();
        let mut conn = self.connect().await;
        sqlx::query(
            "INSERT INTO webhook_endpoints
                 (account_id, endpoint_id, url, event_types, description, key_id, secret, after_position)
             VALUES ($1, $2, $3, '{}', '', $4, $5, $6)",
        )
        .bind(AccountId::DEFAULT)
        .bind(endpoint_id)
        .bind(url)
        .bind(sealed.key_id.as_bytes())
        .bind(&sealed.bytes)
        .bind(after)
        .execute(&mut conn)
        .await
        .unwrap();
        endpoint_id
    }

    /// Creates so many payments with an event each.
    pub async fn create_events(&self, count: i64) {
        self.execute(&format!(
            "WITH last AS (
                 SELECT coalesce(max(first_position + cardinality(subjects) - 1), 0) AS position FROM event_runs
             ), made AS (
                 INSERT INTO payments (transaction_id, account_id, user_id, amount)
                 SELECT gen_random_uuid(), {ACCOUNT}, 'user', 100 FROM generate_series(1, {count})
                 RETURNING transaction_id
             ), numbered AS (SELECT transaction_id, row_number() OVER () - 1 AS number FROM made)
             INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
             SELECT {ACCOUNT}, position + 1 + number / 100 * 100, 1, '{{1}}', array_agg(transaction_id), now()
             FROM numbered, last GROUP BY number / 100, position"
        ))
        .await;
    }

    /// Creates so many payments, at most 20, with an event each, and then two refunds of each, with an event each.
    pub async fn create_refunded(&self, payments: i64) {
        self.execute(&format!(
            "WITH last AS (
                 SELECT coalesce(max(first_position + cardinality(subjects) - 1), 0) AS position FROM event_runs
             ), made AS (
                 INSERT INTO payments (transaction_id, account_id, user_id, amount, refunded, refund_count)
                 SELECT gen_random_uuid(), {ACCOUNT}, 'user', 100, 2, 2 FROM generate_series(1, {payments})
                 RETURNING transaction_id
             ), refunded AS (
                 INSERT INTO refunds (refund_id, transaction_id, account_id, amount, refunded_after, ordinal)
                 SELECT gen_random_uuid(), transaction_id, {ACCOUNT}, 1, ordinal, ordinal
                 FROM made, generate_series(1, 2) AS ordinal
                 RETURNING refund_id, ordinal
             ), events AS (
                 SELECT transaction_id AS subject, 1 AS type, 0 AS ordinal FROM made
                 UNION ALL SELECT refund_id, 2, ordinal FROM refunded
             )
             INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
             SELECT {ACCOUNT}, position + 1, 1, array_agg(type ORDER BY ordinal), array_agg(subject ORDER BY ordinal),
                    now()
             FROM events, last GROUP BY position"
        ))
        .await;
    }

    /// Waits until everything up to this position is done at all endpoints.
    pub async fn until_delivered(&self, endpoints: i64, position: i64) {
        let done = format!(
            "SELECT count(*) FROM webhook_endpoints AS e WHERE {position} <= (
                 SELECT position FROM webhook_progress AS p
                 WHERE p.endpoint_id = e.endpoint_id AND replay = 0 ORDER BY number DESC LIMIT 1)"
        );
        self.until(&done, |count| count == endpoints).await;
    }
}
