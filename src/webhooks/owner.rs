//! The statements by which owners change their endpoints. None of them touches the columns of delivery, so a change
//! never waits for a call.

use std::time::Duration;

use sqlx::PgConnection;

use super::{
    body::{Changes, NewEndpoint},
    endpoint::{EventTypes, MAX_ENDPOINTS, Range},
    secrets::{KeyId, Keyring, Sealed, Secret},
};
use crate::{
    db::timestamp::Timestamp,
    events::{
        Position,
        page::{self, Gone},
    },
    ids::{AccountId, EndpointId},
};

/// Time for receivers to get a new secret: the previous one signs as well.
pub const OVERLAP: Duration = Duration::from_hours(24);

/// Inserts an endpoint that receives the events after the last one, and returns when it was created; `None` if the
/// account has too many. It belongs into a transaction: creations of an account wait for each other, because each
/// counts the others.
///
/// # Errors
/// When the database fails.
pub async fn create(
    conn: &mut PgConnection,
    (account_id, endpoint_id): (AccountId, EndpointId),
    new: &NewEndpoint,
    secret: &Sealed,
) -> Result<Option<Timestamp>, sqlx::Error> {
    sqlx::query(
        "SELECT pg_advisory_xact_lock(hashtextextended('webhook endpoints of ' || $1::text, 0))",
    )
    .bind(account_id)
    .execute(&mut *conn)
    .await?;
    let NewEndpoint { url, event_types, description, enabled } = new;
    sqlx::query_scalar(
        "INSERT INTO webhook_endpoints (account_id, endpoint_id, url, event_types, description, enabled, key_id,
             secret, after_position)
         SELECT $1, $2, $3, $4, $5, $6, $7, $8, coalesce((
             SELECT first_position + cardinality(subjects) - 1 FROM event_runs WHERE account_id = $1
             ORDER BY first_position DESC LIMIT 1
         ), 0)
         WHERE (SELECT count(*) FROM webhook_endpoints WHERE account_id = $1) < $9
         RETURNING created_at",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .bind(url)
    .bind(event_types.as_ref().unwrap_or(&EventTypes::ALL))
    .bind(description.as_deref().unwrap_or_default())
    .bind(enabled.unwrap_or(true))
    .bind(secret.key_id.as_bytes())
    .bind(&secret.bytes)
    .bind(MAX_ENDPOINTS)
    .fetch_optional(conn)
    .await
}

/// Changes an endpoint. Returns whether the account has it. A new URL or enabling it begins a new life: its former
/// failures do not disable it.
///
/// # Errors
/// When the database fails.
pub async fn change(
    conn: &mut PgConnection,
    account_id: AccountId,
    endpoint_id: EndpointId,
    changes: &Changes,
) -> Result<bool, sqlx::Error> {
    let Changes { url, event_types, description, enabled } = changes;
    let changed = sqlx::query(
        "UPDATE webhook_endpoints SET
             url = coalesce($3, url), event_types = coalesce($4, event_types),
             description = coalesce($5, description), enabled = coalesce($6, enabled),
             disabled_reason = CASE WHEN $6 IS NULL THEN disabled_reason END,
             failing_since = CASE WHEN $3 <> url OR ($6 AND NOT enabled) THEN NULL ELSE failing_since END,
             resume_at = CASE WHEN $3 <> url OR ($6 AND NOT enabled) THEN NULL ELSE resume_at END
         WHERE account_id = $1 AND endpoint_id = $2",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .bind(url)
    .bind(event_types)
    .bind(description)
    .bind(enabled)
    .execute(conn)
    .await?;
    Ok(changed.rows_affected() > 0)
}

/// Deletes an endpoint with its progress and its failures. Returns whether the account had it.
///
/// # Errors
/// When the database fails.
pub async fn delete(
    conn: &mut PgConnection,
    account_id: AccountId,
    endpoint_id: EndpointId,
) -> Result<bool, sqlx::Error> {
    let deleted =
        sqlx::query("DELETE FROM webhook_endpoints WHERE account_id = $1 AND endpoint_id = $2")
            .bind(account_id)
            .bind(endpoint_id)
            .execute(conn)
            .await?;
    Ok(deleted.rows_affected() > 0)
}

/// A rotated secret.
#[derive(Debug)]
pub struct Rotation {
    /// The new secret as it is stored.
    pub sealed: Sealed,
    /// Until when the previous secret signs as well; `None` if it cannot be decrypted, and so can sign nothing.
    pub previous_until: Option<Timestamp>,
}

/// Replaces the secret of an endpoint; the previous one signs as well for [`OVERLAP`]. `None` if the account does not
/// have the endpoint. It belongs into a transaction.
///
/// # Errors
/// When the database fails, or the operating system has no random numbers.
pub async fn rotate(
    conn: &mut PgConnection,
    keyring: &Keyring,
    (account_id, endpoint_id): (AccountId, EndpointId),
    secret: &Secret,
) -> Result<Option<Rotation>, sqlx::Error> {
    let locked: Option<(Vec<u8>, Vec<u8>)> = sqlx::query_as(
        "SELECT key_id, secret FROM webhook_endpoints WHERE account_id = $1 AND endpoint_id = $2
         FOR NO KEY UPDATE",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .fetch_optional(&mut *conn)
    .await?;
    let Some((key_id, bytes)) = locked else { return Ok(None) };
    let before = Sealed { key_id: KeyId::of_stored(&key_id)?, bytes };
    let sealed = keyring.seal(account_id, endpoint_id, secret)?;
    // Both secrets of a row are under one key.
    let previous = keyring.open(account_id, endpoint_id, &before).ok();
    let previous = previous.map(|secret| keyring.seal(account_id, endpoint_id, &secret));
    let previous_until = sqlx::query_scalar(
        "UPDATE webhook_endpoints SET key_id = $3, secret = $4, previous_secret = $5,
             previous_until = CASE WHEN $5 IS NOT NULL THEN now() + make_interval(secs => $6) END
         WHERE account_id = $1 AND endpoint_id = $2
         RETURNING previous_until",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .bind(sealed.key_id.as_bytes())
    .bind(&sealed.bytes)
    .bind(previous.transpose()?.map(|previous| previous.bytes))
    .bind(OVERLAP.as_secs_f64())
    .fetch_one(conn)
    .await?;
    Ok(Some(Rotation { sealed, previous_until }))
}

/// A position of a replay that no kept event has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotKept {
    /// The field of the request.
    pub field: &'static str,
    /// The expectation.
    pub expected: String,
}

/// Checks that all events of a replay are kept.
///
/// # Errors
/// When the database fails.
pub async fn check_kept(
    conn: &mut PgConnection,
    account_id: AccountId,
    Range { from, to }: Range,
) -> Result<Result<(), NotKept>, sqlx::Error> {
    let beyond = |field, newest: Position| {
        let expected = match newest {
            Position::START => {
                "expected the position of an event, and there is none yet".to_owned()
            }
            newest => format!("expected at most {newest}, the position of the newest event"),
        };
        Err(NotKept { field, expected })
    };
    Ok(match page::read(conn, account_id, from.before(), 1, &[]).await? {
        Ok(page) if page.last_position < to => beyond("to", page.last_position),
        Ok(_) => Ok(()),
        Err(Gone::Rewound { last_position }) => beyond("from", last_position),
        Err(Gone::Expired { oldest_position, .. }) => {
            let expected =
                format!("expected at least {oldest_position}, the oldest position that is kept");
            Err(NotKept { field: "from", expected })
        }
    })
}

/// Has the events at these positions sent once more, instead of those of an earlier replay that still runs. Returns
/// whether the account has the endpoint.
///
/// # Errors
/// When the database fails.
pub async fn replay(
    conn: &mut PgConnection,
    account_id: AccountId,
    endpoint_id: EndpointId,
    Range { from, to }: Range,
) -> Result<bool, sqlx::Error> {
    let replayed = sqlx::query(
        "UPDATE webhook_endpoints SET replay_from = $3, replay_to = $4, replay_number = replay_number + 1
         WHERE account_id = $1 AND endpoint_id = $2",
    )
    .bind(account_id)
    .bind(endpoint_id)
    .bind(from)
    .bind(to)
    .execute(conn)
    .await?;
    Ok(replayed.rows_affected() > 0)
}
