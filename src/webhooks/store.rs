//! The statements of webhook endpoints.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    endpoint::{DisabledReason, Endpoint, Range},
    reseal::SealedSecrets,
    secrets::KeyId,
};
use crate::ids::{AccountId, EndpointId};

/// The columns of an [`Endpoint`].
macro_rules! endpoint_columns {
    () => {
        "account_id, endpoint_id, url, event_types, enabled, after_position, replay_from, replay_to, replay_number, \
         failing_since, lost_from, lost_to, lease_epoch, key_id, secret, previous_secret, previous_until"
    };
}

/// Takes the leases of up to `limit` enabled endpoints that no server has.
///
/// # Errors
/// When the database fails.
pub async fn lease(
    conn: &mut PgConnection,
    lasting: Duration,
    limit: i64,
) -> Result<Vec<Endpoint>, sqlx::Error> {
    sqlx::query_as(concat!(
        "UPDATE webhook_endpoints SET lease_epoch = lease_epoch + 1, lease_until = now() + make_interval(secs => $1)
         WHERE (account_id, endpoint_id) IN (
             SELECT account_id, endpoint_id FROM webhook_endpoints WHERE enabled AND lease_until < now()
             ORDER BY lease_until LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
         )
         RETURNING ",
        endpoint_columns!()
    ))
    .bind(lasting.as_secs_f64())
    .bind(limit)
    .fetch_all(conn)
    .await
}

/// Prolongs a lease, and reads the endpoint as it is now. `None`: the lease is lost, or the endpoint was changed,
/// disabled or deleted.
///
/// # Errors
/// When the database fails.
pub async fn renew(
    conn: &mut PgConnection,
    leased: &Endpoint,
    lasting: Duration,
) -> Result<Option<Endpoint>, sqlx::Error> {
    sqlx::query_as(concat!(
        "UPDATE webhook_endpoints SET lease_until = now() + make_interval(secs => $4)
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3 AND enabled
         RETURNING ",
        endpoint_columns!()
    ))
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .bind(lasting.as_secs_f64())
    .fetch_optional(conn)
    .await
}

/// Gives up a lease, so that another server can take it at once.
///
/// # Errors
/// When the database fails.
pub async fn release(conn: &mut PgConnection, leased: &Endpoint) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE webhook_endpoints SET lease_until = '-infinity'
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3",
    )
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .execute(conn)
    .await
    .map(drop)
}

/// What a call found out about an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health<'a> {
    /// It accepted an event.
    Accepted {
        /// The status of its response.
        status: u16,
    },
    /// It did not.
    Failed {
        /// The status of its response, if there was one.
        status: Option<u16>,
        /// What happened, without secrets and queries of URLs.
        error: &'a str,
    },
}

/// Stores the last result of a call; a success ends `failing_since`. Returns whether the lease still holds.
///
/// # Errors
/// When the database fails.
pub async fn note_health(
    conn: &mut PgConnection,
    leased: &Endpoint,
    health: Health<'_>,
) -> Result<bool, sqlx::Error> {
    let (status, error) = match health {
        Health::Accepted { status } => (Some(status), None),
        Health::Failed { status, error } => (status, Some(error)),
    };
    let noted = sqlx::query(
        "UPDATE webhook_endpoints SET
             last_status = $4, last_error = left($5, 500),
             last_success_at = CASE WHEN $5 IS NULL THEN now() ELSE last_success_at END,
             failing_since = CASE WHEN $5 IS NOT NULL THEN coalesce(failing_since, now()) END
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3",
    )
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .bind(status.and_then(|status| i16::try_from(status).ok()))
    .bind(error)
    .execute(conn)
    .await?;
    Ok(noted.rows_affected() > 0)
}

/// Disables an endpoint, which ends the lease. Returns whether the lease still held.
///
/// # Errors
/// When the database fails.
pub async fn disable(
    conn: &mut PgConnection,
    leased: &Endpoint,
    reason: DisabledReason,
) -> Result<bool, sqlx::Error> {
    let disabled = sqlx::query(
        "UPDATE webhook_endpoints SET enabled = false, disabled_reason = $4, lease_epoch = lease_epoch + 1,
             lease_until = '-infinity'
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3",
    )
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .bind(reason.name())
    .execute(conn)
    .await?;
    Ok(disabled.rows_affected() > 0)
}

/// Adds events that expired before they were sent. Returns whether the lease still holds.
///
/// # Errors
/// When the database fails.
pub async fn note_lost(
    conn: &mut PgConnection,
    leased: &Endpoint,
    lost: Range,
) -> Result<bool, sqlx::Error> {
    let noted = sqlx::query(
        "UPDATE webhook_endpoints SET lost_from = least(lost_from, $4), lost_to = greatest(lost_to, $5)
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3",
    )
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .bind(lost.from)
    .bind(lost.to)
    .execute(conn)
    .await?;
    Ok(noted.rows_affected() > 0)
}

/// Ends the replay, unless another has begun. Returns whether it was ended.
///
/// # Errors
/// When the database fails.
pub async fn end_replay(conn: &mut PgConnection, leased: &Endpoint) -> Result<bool, sqlx::Error> {
    let ended = sqlx::query(
        "UPDATE webhook_endpoints SET replay_from = NULL, replay_to = NULL
         WHERE account_id = $1 AND endpoint_id = $2 AND lease_epoch = $3 AND replay_number = $4",
    )
    .bind(leased.account_id)
    .bind(leased.endpoint_id)
    .bind(leased.lease_epoch)
    .bind(leased.replay_number)
    .execute(conn)
    .await?;
    Ok(ended.rows_affected() > 0)
}

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
