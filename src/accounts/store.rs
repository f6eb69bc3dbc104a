//! SQL statements for accounts and API keys.

use std::time::Duration;

use serde::Serialize;
use sqlx::{FromRow, PgConnection};
use uuid::Uuid;

use super::{api_key::KeyHash, name::Name};
use crate::{db::timestamp::Timestamp, ids::AccountId};

/// A row of `accounts`.
#[derive(Debug, Clone, FromRow, Serialize)]
#[expect(clippy::struct_field_names, reason = "the names of the columns")]
pub(crate) struct Account {
    pub(crate) account_id: AccountId,
    pub(crate) name: String,
    pub(crate) created_at: Timestamp,
}

/// The public fields of an API key and its account.
#[derive(Debug, Clone, FromRow, Serialize)]
pub(crate) struct ListedKey {
    pub(crate) api_key_id: Uuid,
    pub(crate) account_id: AccountId,
    pub(crate) account: String,
    pub(crate) name: String,
    pub(crate) ending: String,
    pub(crate) created_at: Timestamp,
    pub(crate) last_used_at: Option<Timestamp>,
    pub(crate) revoked_at: Option<Timestamp>,
}

/// A valid key, as the directory keeps it.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct ValidKey {
    pub(crate) api_key_id: Uuid,
    pub(crate) account_id: AccountId,
    pub(crate) hash: Vec<u8>,
}

/// Inserts an account, or returns `None` if the name is taken.
pub(crate) async fn insert_account(
    conn: &mut PgConnection,
    account_id: AccountId,
    name: &Name,
) -> Result<Option<Account>, sqlx::Error> {
    sqlx::query_as(
        "INSERT INTO accounts (account_id, name) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING
         RETURNING account_id, name, created_at",
    )
    .bind(account_id)
    .bind(name.as_str())
    .fetch_optional(conn)
    .await
}

/// Returns all accounts, oldest first.
pub(crate) async fn accounts(conn: &mut PgConnection) -> Result<Vec<Account>, sqlx::Error> {
    sqlx::query_as(
        "SELECT account_id, name, created_at FROM accounts ORDER BY created_at, account_id",
    )
    .fetch_all(conn)
    .await
}

/// Finds an account by name or id.
pub(crate) async fn find_account(
    conn: &mut PgConnection,
    name_or_id: &str,
) -> Result<Option<Account>, sqlx::Error> {
    sqlx::query_as(
        "SELECT account_id, name, created_at FROM accounts WHERE name = $1 OR account_id = $2",
    )
    .bind(name_or_id)
    .bind(Uuid::parse_str(name_or_id).ok())
    .fetch_optional(conn)
    .await
}

/// Returns the only account, or `None` if there are several.
pub(crate) async fn only_account(conn: &mut PgConnection) -> Result<Option<Account>, sqlx::Error> {
    sqlx::query_as(
        "SELECT account_id, name, created_at FROM accounts WHERE (SELECT count(*) FROM accounts) = 1",
    )
    .fetch_optional(conn)
    .await
}

/// Waits for executions in progress, and blocks new ones until the transaction ends. Its statements end before requests
/// reach their deadline.
pub(crate) async fn hold_up_executions(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SET LOCAL statement_timeout = '5s'").execute(&mut *conn).await?;
    sqlx::query("LOCK TABLE idempotency_keys IN SHARE MODE").execute(conn).await.map(drop)
}

/// Returns whether an account has executed a request whose idempotency key is still kept: for `key_ttl`, or permanently.
pub(crate) async fn has_used_keys(
    conn: &mut PgConnection,
    account_id: AccountId,
    key_ttl: Option<Duration>,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (
             SELECT FROM idempotency_keys WHERE account_id = $1 AND operation <> 'void'
                AND created_at > coalesce(now() - make_interval(secs => $2), '-infinity')
         )",
    )
    .bind(account_id)
    .bind(key_ttl.map(|ttl| ttl.as_secs_f64()))
    .fetch_one(conn)
    .await
}

/// Ends anonymous calls permanently, as the first API key does.
pub(crate) async fn end_anonymous_calls(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE api_key_changes SET changes = changes + 1").execute(conn).await.map(drop)
}

/// Returns whether there is an API key, even a revoked one.
pub(crate) async fn has_keys(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("SELECT EXISTS (SELECT FROM api_keys)").fetch_one(conn).await
}

/// Counts the valid keys.
pub(crate) async fn count_valid_keys(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("SELECT count(*) FROM api_keys WHERE revoked_at IS NULL")
        .fetch_one(conn)
        .await
}

/// Inserts an API key.
pub(crate) async fn insert_key(
    conn: &mut PgConnection,
    api_key_id: Uuid,
    account_id: AccountId,
    name: &Name,
    hash: KeyHash,
    ending: &str,
) -> Result<ListedKey, sqlx::Error> {
    sqlx::query_as(
        "WITH k AS (
             INSERT INTO api_keys (api_key_id, account_id, name, hash, ending)
             VALUES ($1, $2, $3, $4, $5) RETURNING *
         )
         SELECT k.api_key_id, k.account_id, a.name AS account, k.name, k.ending, k.created_at,
                k.last_used_at, k.revoked_at
         FROM k JOIN accounts AS a USING (account_id)",
    )
    .bind(api_key_id)
    .bind(account_id)
    .bind(name.as_str())
    .bind(hash.as_bytes())
    .bind(ending)
    .fetch_one(conn)
    .await
}

/// Returns the API keys of one account or of all, oldest first, including revoked ones.
pub(crate) async fn keys(
    conn: &mut PgConnection,
    account_id: Option<AccountId>,
) -> Result<Vec<ListedKey>, sqlx::Error> {
    sqlx::query_as(
        "SELECT k.api_key_id, k.account_id, a.name AS account, k.name, k.ending, k.created_at,
                k.last_used_at, k.revoked_at
         FROM api_keys AS k JOIN accounts AS a USING (account_id)
         WHERE $1::uuid IS NULL OR k.account_id = $1 ORDER BY k.created_at, k.api_key_id",
    )
    .bind(account_id)
    .fetch_all(conn)
    .await
}

/// Revokes a key, if it is not revoked yet. Returns `None` for an unknown key.
pub(crate) async fn revoke(
    conn: &mut PgConnection,
    api_key_id: Uuid,
) -> Result<Option<ListedKey>, sqlx::Error> {
    sqlx::query_as(
        "WITH k AS (
             UPDATE api_keys SET revoked_at = coalesce(revoked_at, now())
             WHERE api_key_id = $1 RETURNING *
         )
         SELECT k.api_key_id, k.account_id, a.name AS account, k.name, k.ending, k.created_at,
                k.last_used_at, k.revoked_at
         FROM k JOIN accounts AS a USING (account_id)",
    )
    .bind(api_key_id)
    .fetch_optional(conn)
    .await
}

/// Returns the number of changes of API keys: 0 if there has never been one. A key that was inserted while triggers were
/// off counts as a change.
pub(crate) async fn changes(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT CASE WHEN changes = 0 AND EXISTS (SELECT FROM api_keys) THEN 1 ELSE changes END
         FROM api_key_changes",
    )
    .fetch_one(conn)
    .await
}

/// Returns all valid keys.
pub(crate) async fn valid_keys(conn: &mut PgConnection) -> Result<Vec<ValidKey>, sqlx::Error> {
    sqlx::query_as("SELECT api_key_id, account_id, hash FROM api_keys WHERE revoked_at IS NULL")
        .fetch_all(conn)
        .await
}

/// Stores the time of these keys' last use. Locked rows are skipped: another server is probably storing the same, and
/// two servers that wait for each other would deadlock.
pub(crate) async fn note_use(
    conn: &mut PgConnection,
    api_key_ids: &[Uuid],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE api_keys SET last_used_at = now() WHERE api_key_id IN (
             SELECT api_key_id FROM api_keys WHERE api_key_id = ANY($1) FOR NO KEY UPDATE SKIP LOCKED
         )",
    )
    .bind(api_key_ids)
    .execute(conn)
    .await?;
    Ok(())
}
