//! The layer's statements: one function each, over whole batches.

use chrono::{DateTime, Utc};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{AccountId, Execution, Operation, Record, RecordState, Response, key::ScopedKey};

pub(crate) use columns::Columns;

pub(crate) use commit::{Committed, commit};
pub(crate) use locks::{TableLock, locked_table};

mod columns;
mod commit;
mod locks;

/// A key to claim, with the facts about its request that are stored.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claim<'a> {
    pub(crate) scope: &'a ScopedKey,
    pub(crate) lock_number: i64,
    pub(crate) execution_id: Uuid,
    pub(crate) operation: &'static str,
    pub(crate) fingerprint: &'a [u8],
}

/// An execution whose response is stored.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub(crate) struct Stored {
    pub(crate) execution_id: Uuid,
    /// By the database's clock.
    pub(crate) first_used_at: DateTime<Utc>,
    /// Until when its response can be replayed; `None`: as long as its key.
    pub(crate) replayable_until: Option<DateTime<Utc>>,
}

/// Tries to take the advisory locks of these keys until the transaction ends, and returns which it got. A separate
/// statement before [`forget`], which must see everything that was committed before it got the locks.
pub(crate) async fn lock(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
) -> Result<Vec<bool>, sqlx::Error> {
    let numbers: Vec<i64> = claims.iter().map(|claim| claim.lock_number).collect();
    sqlx::query_scalar(
        "SELECT pg_try_advisory_xact_lock(number)
         FROM unnest($1::bigint[]) WITH ORDINALITY AS lock(number, place) ORDER BY place",
    )
    .bind(numbers)
    .fetch_all(conn)
    .await
}

/// Deletes those of these keys that are older than `ttl` (seconds), with their responses.
pub(crate) async fn forget(
    conn: &mut PgConnection,
    scopes: &[&ScopedKey],
    ttl: f64,
) -> Result<(), sqlx::Error> {
    let (accounts, keys) = by_column(scopes);
    sqlx::query(
        "WITH old AS (
             DELETE FROM idempotency_keys AS k
             USING unnest($1::uuid[], $2::text[]) AS wanted(account_id, key)
             WHERE k.account_id = wanted.account_id AND k.key = wanted.key COLLATE \"C\"
               AND k.created_at <= now() - make_interval(secs => $3)
             RETURNING k.account_id, k.execution_id
         )
         DELETE FROM idempotency_responses AS r USING old
         WHERE r.execution_id = old.execution_id AND r.account_id = old.account_id",
    )
    // Planned each time: a plan for small tables would read whole tables for the join.
    .persistent(false)
    .bind(accounts)
    .bind(keys)
    .bind(ttl)
    .execute(conn)
    .await?;
    Ok(())
}

/// Claims keys, sorted, and returns the execution ids of those that were new.
///
/// The unique constraint is the only judge. The advisory lock only prevents waiting for a key that another server is
/// executing. Rows are inserted in order; if two servers deadlock nevertheless, the batch runs again.
pub(crate) async fn claim(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut columns = Columns::new();
    add_claims(&mut columns, claims);
    columns.add("_operation", claims.iter().map(|claim| claim.operation).collect::<Vec<_>>());
    let sql = format!(
        "{insert} FROM ({claims}) AS claim WHERE {unlocked} ON CONFLICT (key, account_id) DO NOTHING
         RETURNING execution_id",
        insert = claim_sql("_operation"),
        claims = columns.select(&columns.names()),
        unlocked = UNLOCKED,
    );
    sqlx::query_scalar_with(AssertSqlSafe(sql), columns.into_arguments()?).fetch_all(conn).await
}

/// Adds the columns that [`claim_sql`] reads, and the numbers of their advisory locks.
fn add_claims(columns: &mut Columns, claims: &[Claim<'_>]) {
    let scopes: Vec<&ScopedKey> = claims.iter().map(|claim| claim.scope).collect();
    let (accounts, keys) = by_column(&scopes);
    columns.add("account_id", accounts);
    columns.add("_key", keys);
    columns.add("execution_id", claims.iter().map(|claim| claim.execution_id).collect::<Vec<_>>());
    columns.add("_fingerprint", claims.iter().map(|claim| claim.fingerprint).collect::<Vec<_>>());
    columns.add(LOCK, claims.iter().map(|claim| claim.lock_number).collect::<Vec<_>>());
}

const LOCK: &str = "_lock";

/// True if no other server is executing the key: takes its advisory lock until the transaction ends.
const UNLOCKED: &str = "pg_try_advisory_xact_lock(_lock)";

/// The INSERT that claims keys, up to its FROM, which has the columns of [`add_claims`].
fn claim_sql(operation: &str) -> String {
    format!(
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         SELECT account_id, _key, execution_id, {operation}, _fingerprint"
    )
}

/// The columns of responses to store.
const RESPONSE: [&str; 5] = ["account_id", "execution_id", "_status", "_headers", "_body"];

/// Adds the columns of [`RESPONSE`], except the two ids.
fn add_responses<'a>(
    columns: &mut Columns,
    responses: impl IntoIterator<Item = &'a Response>,
) -> Result<(), sqlx::Error> {
    let (mut statuses, mut headers, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for response in responses {
        statuses.push(i16::try_from(response.status()).unwrap_or(i16::MAX));
        headers.push(response.header_lines().map_err(|error| sqlx::Error::Encode(error.into()))?);
        bodies.push(response.body().as_ref());
    }
    columns.add("_status", statuses);
    columns.add("_headers", headers);
    columns.add("_body", bodies);
    Ok(())
}

/// As [`Response::is_of_success`] decides.
const SUCCESS: &str = "_status BETWEEN 200 AND 299";

/// The INSERT that stores responses, up to its FROM, which has the columns of [`RESPONSE`].
/// `seconds` is the place of the argument that says for how long a success can be replayed; NULL: as long as its key.
/// Refusals can always be replayed as long as their key.
fn store_sql(seconds: usize) -> String {
    format!(
        "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
         SELECT account_id, execution_id, _status, _headers, _body,
                CASE WHEN {SUCCESS} THEN now() + make_interval(secs => ${seconds}) END"
    )
}

/// The records of used keys, each with its place among these keys, or why it cannot be read. A key that is new or in
/// flight has no record; nor has one older than `key_ttl` (seconds), which another server may be about to claim.
pub(crate) async fn used(
    conn: &mut PgConnection,
    scopes: &[&ScopedKey],
    key_ttl: Option<f64>,
) -> Result<Vec<Result<(usize, Record), sqlx::Error>>, sqlx::Error> {
    let (accounts, keys) = by_column(scopes);
    // LATERAL with LIMIT 1 looks each key up by index. A plain join planned for small tables would read all of them.
    let rows = sqlx::query(
        "SELECT wanted.place, k.execution_id, k.operation, k.fingerprint, k.created_at,
                r.status, r.headers, r.body, r.replayable_until
         FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted(account_id, key, place)
         CROSS JOIN LATERAL (
             SELECT account_id, execution_id, operation, fingerprint, created_at FROM idempotency_keys
             WHERE account_id = wanted.account_id AND key = wanted.key COLLATE \"C\"
             LIMIT 1
         ) AS k
         LEFT JOIN LATERAL (
             SELECT status, headers, body, replayable_until FROM idempotency_responses
             WHERE execution_id = k.execution_id AND account_id = k.account_id
               AND (replayable_until IS NULL OR replayable_until > now())
             LIMIT 1
         ) AS r ON true
         WHERE $3::float8 IS NULL OR k.created_at > now() - make_interval(secs => $3)",
    )
    .bind(accounts)
    .bind(keys)
    .bind(key_ttl)
    .fetch_all(conn)
    .await?;
    Ok(rows.iter().map(record).collect())
}

fn record(row: &PgRow) -> Result<(usize, Record), sqlx::Error> {
    let operation: String = row.try_get("operation")?;
    let execution_id = row.try_get("execution_id")?;
    let record = Record {
        execution_id,
        state: match response(row, execution_id)? {
            _ if operation == Operation::VOID.as_str() => RecordState::Voided,
            Some(response) => {
                let replayable_until = row.try_get("replayable_until")?;
                RecordState::Stored { response, replayable_until }
            }
            None => RecordState::Expired,
        },
        operation,
        fingerprint: row.try_get("fingerprint")?,
        first_used_at: row.try_get("created_at")?,
    };
    // WITH ORDINALITY counts from 1.
    let place = usize::try_from(row.try_get::<i64, _>("place")? - 1).unwrap_or(usize::MAX);
    Ok((place, record))
}

fn response(row: &PgRow, execution_id: Uuid) -> Result<Option<Response>, sqlx::Error> {
    let Some(status) = row.try_get::<Option<i16>, _>("status")? else { return Ok(None) };
    let unreadable = |column: &str| {
        let what = format!("idempotency_responses.{column} of {execution_id} is unreadable");
        sqlx::Error::Decode(what.into())
    };
    let status = u16::try_from(status).map_err(|_| unreadable("status"))?;
    let response = Response::from_stored(status, row.try_get("headers")?, row.try_get("body")?);
    Ok(Some(response.map_err(|_| unreadable("headers"))?))
}

/// Stores the responses of executions, and returns the executions whose response was stored.
pub(crate) async fn store(
    conn: &mut PgConnection,
    responses: &[(Execution, &Response)],
    ttl: Option<f64>,
) -> Result<Vec<Stored>, sqlx::Error> {
    let executions = || responses.iter().map(|(execution, _)| execution);
    let mut columns = Columns::new();
    columns.add("account_id", executions().map(|one| one.account_id).collect::<Vec<_>>());
    columns.add("execution_id", executions().map(|one| one.id).collect::<Vec<_>>());
    add_responses(&mut columns, responses.iter().map(|(_, response)| *response))?;
    let responses = columns.select(&RESPONSE);
    let mut arguments = columns.into_arguments()?;
    arguments.add(ttl).map_err(sqlx::Error::Encode)?;
    let sql = format!(
        "{insert} FROM ({responses}) AS response RETURNING execution_id, now() AS first_used_at, replayable_until",
        insert = store_sql(arguments.len()),
    );
    sqlx::query_as_with(AssertSqlSafe(sql), arguments).fetch_all(conn).await
}

/// Makes COMMIT wait for synchronous standbys even if the transaction writes no row.
pub(crate) async fn write_to_log(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_logical_emit_message(true, 'idempotency', '')").execute(conn).await?;
    Ok(())
}

/// Returns whether this backend waits for a standby to confirm a COMMIT.
pub(crate) async fn waits_for_standby(
    conn: &mut PgConnection,
    backend: i32,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1 AND wait_event = 'SyncRep')",
    )
    .bind(backend)
    .fetch_one(conn)
    .await
}

/// The accounts and the keys.
fn by_column<'a>(scopes: &[&'a ScopedKey]) -> (Vec<AccountId>, Vec<&'a str>) {
    scopes.iter().map(|scope| (scope.account_id, scope.key.as_str())).unzip()
}
