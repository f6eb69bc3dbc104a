//! The statements of webhook endpoints.

use sqlx::PgConnection;

use super::{reseal::SealedSecrets, secrets::KeyId};
use crate::ids::{AccountId, EndpointId};

/// The columns of an [`Endpoint`].
macro_rules! endpoint_columns {
    () => {
        "account_id, endpoint_id, url, event_types, enabled, after_position, replay_from, replay_to, replay_number, \
         failing_since, lost_from, lost_to, lease_epoch, key_id, secret, previous_secret, previous_until"
    };
}

pub(super) use endpoint_columns;

/// Returns whether there is an endpoint.
pub(super) async fn any(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM webhook_endpoints)").fetch_one(conn).await
}

/// The secrets that are encrypted under other keys than this one, of endpoints after this one in their order.
pub(super) async fn sealed_under_others(
    conn: &mut PgConnection,
    newest: KeyId,
    after: Option<(AccountId, EndpointId)>,
    limit: i64,
) -> Result<Vec<SealedSecrets>, sqlx::Error> {
    let (account_id, endpoint_id) = after.unzip();
    sqlx::query_as(
        "SELECT account_id, endpoint_id, key_id, secret, previous_secret FROM webhook_endpoints
         WHERE key_id <> $1 AND ($2 IS NULL OR (account_id, endpoint_id) > ($2, $3))
         ORDER BY account_id, endpoint_id LIMIT $4",
    )
    .bind(newest.as_bytes())
    .bind(account_id)
    .bind(endpoint_id)
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Replaces encrypted secrets, unless they have changed. Returns the number of changed rows.
pub(super) async fn replace_secrets(
    conn: &mut PgConnection,
    found: &SealedSecrets,
    new: &SealedSecrets,
) -> Result<u64, sqlx::Error> {
    let replaced = sqlx::query(
        "UPDATE webhook_endpoints SET key_id = $5, secret = $6, previous_secret = $7
         WHERE account_id = $1 AND endpoint_id = $2 AND secret = $3 AND previous_secret IS NOT DISTINCT FROM $4",
    )
    .bind(found.account_id)
    .bind(found.endpoint_id)
    .bind(&found.secret)
    .bind(&found.previous_secret)
    .bind(&new.key_id)
    .bind(&new.secret)
    .bind(&new.previous_secret)
    .execute(conn)
    .await?;
    Ok(replaced.rows_affected())
}
