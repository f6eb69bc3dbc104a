//! The layer's statements: one function each, over whole batches.

use chrono::{DateTime, Utc};
use sqlx::{
    Arguments, AssertSqlSafe, PgConnection, Row,
    error::BoxDynError,
    postgres::{PgArguments, PgRow},
};
use uuid::Uuid;

use super::{insert::Insert, key::ScopedKey, response::Response};

/// A key to claim, with what will be remembered of the request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claim<'a> {
    pub(super) scope: &'a ScopedKey,
    pub(super) lock_number: i64,
    pub(super) execution_id: Uuid,
    pub(super) operation: &'static str,
    pub(super) fingerprint: &'a [u8],
}

/// A key that is used up, as it stands in the tables.
#[derive(Debug)]
pub(super) struct UsedKey {
    pub(super) execution_id: Uuid,
    pub(super) operation: String,
    pub(super) fingerprint: Vec<u8>,
    pub(super) created_at: DateTime<Utc>,
    /// `None` when the response can't be replayed any more.
    pub(super) response: Option<Response>,
    pub(super) replayable_until: Option<DateTime<Utc>>,
    /// Whether all of this stays true for [`KEPT`](super::recent::KEPT) at least, short of a change by hand,
    /// and where keys don't expire.
    pub(super) lasts: bool,
}

/// An execution whose response is stored, and until when it can be replayed; `None`: as long as its key.
pub(super) type Remembered = (Uuid, Option<DateTime<Utc>>);

/// Takes the advisory locks of these keys, for the transaction, and says of each whether it got it.
///
/// For [`forget`] alone, which must see everything committed before its lock was had: so the locks
/// come in a statement of their own.
pub(super) async fn lock(
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
pub(super) async fn forget(
    conn: &mut PgConnection,
    scopes: &[&ScopedKey],
    ttl: f64,
) -> Result<(), sqlx::Error> {
    let (accounts, keys) = columns(scopes);
    sqlx::query(
        "WITH old AS (
             DELETE FROM idempotency_keys AS k
             USING unnest($1::uuid[], $2::text[]) AS wanted(account_id, key)
             WHERE k.account_id = wanted.account_id AND k.key = wanted.key COLLATE \"C\"
               AND k.created_at <= now() - make_interval(secs => $3)
             RETURNING k.execution_id
         )
         DELETE FROM idempotency_responses AS r USING old WHERE r.execution_id = old.execution_id",
    )
    // Planned anew each time: a plan made for small tables would join them by reading all of them.
    .persistent(false)
    .bind(accounts)
    .bind(keys)
    .bind(ttl)
    .execute(conn)
    .await?;
    Ok(())
}

/// Who passes keys by that are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Judge {
    /// The unique constraint: they are never an error.
    Constraint,
    /// The statement's snapshot, which spares the log what ON CONFLICT writes: a record for each row to say
    /// that it stays. A key that was committed since the snapshot was taken breaks the unique constraint,
    /// and nothing of the statement happens.
    Snapshot,
    /// Nobody: each of them breaks the unique constraint, and nothing of the statement happens. It spares the
    /// look.
    Nobody,
}

/// What one statement does about keys that are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Used {
    /// It finds out what they stand for.
    LookedUp,
    /// It leaves them alone.
    PassedBy,
    /// There should be none: one is an error, and nothing of the statement happens.
    Unexpected,
}

/// The INSERT that claims keys, sorted. Its arguments begin at `$first`: account ids, keys, execution ids,
/// operations, fingerprints and lock numbers.
///
/// Whoever passes by what is used up, the unique constraint decides. The advisory lock only makes sure that
/// nobody waits for a key that another server is executing.
///
/// The arrays are opened in a SELECT list: in FROM each of them would be stored as rows on the way. Rows are
/// inserted in their order. Were they not one day, two servers could meet in a deadlock, which is run again.
fn claim_sql(first: usize, judge: Judge) -> String {
    let [accounts, keys, ids, operations, fingerprints, locks] = places(first);
    let (unused, on_conflict) = match judge {
        Judge::Constraint => ("", "ON CONFLICT (key, account_id) DO NOTHING"),
        // In this form it is a look into the index for each, whatever the tables' size.
        Judge::Snapshot => (
            "AND (SELECT true FROM idempotency_keys AS k
                  WHERE k.account_id = claim.account_id AND k.key = claim.key COLLATE \"C\") IS NULL",
            "",
        ),
        Judge::Nobody => ("", ""),
    };
    format!(
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
         SELECT account_id, key, execution_id, operation, fingerprint
         FROM (SELECT unnest({accounts}::uuid[]) AS account_id, unnest({keys}::text[]) AS key,
                      unnest({ids}::uuid[]) AS execution_id, unnest({operations}::text[]) AS operation,
                      unnest({fingerprints}::bytea[]) AS fingerprint, unnest({locks}::bigint[]) AS lock_number) AS claim
         WHERE pg_try_advisory_xact_lock(lock_number) {unused}
         {on_conflict}
         RETURNING execution_id"
    )
}

/// Adds the arguments of [`claim_sql`].
fn add_claims(arguments: &mut PgArguments, claims: &[Claim<'_>]) -> Result<(), BoxDynError> {
    let scopes: Vec<&ScopedKey> = claims.iter().map(|claim| claim.scope).collect();
    let (accounts, keys) = columns(&scopes);
    arguments.add(accounts)?;
    arguments.add(keys)?;
    arguments.add(claims.iter().map(|claim| claim.execution_id).collect::<Vec<_>>())?;
    arguments.add(claims.iter().map(|claim| claim.operation).collect::<Vec<_>>())?;
    arguments.add(claims.iter().map(|claim| claim.fingerprint).collect::<Vec<_>>())?;
    arguments.add(claims.iter().map(|claim| claim.lock_number).collect::<Vec<_>>())
}

/// The INSERT that stores responses. Its arguments begin at `$first`: execution ids, statuses, headers,
/// bodies, and for how many seconds a response with a status of success can be replayed (NULL: as long as
/// its key; the others, refusals, always as long as their key). `source` is joined to the responses by
/// `execution_id`: which of them are to be stored.
fn remember_sql(first: usize, source: &str) -> String {
    let [ids, statuses, headers, bodies, seconds] = places(first);
    format!(
        "INSERT INTO idempotency_responses (execution_id, status, headers, body, replayable_until)
         SELECT execution_id, status, headers, body,
                CASE WHEN status BETWEEN 200 AND 299 THEN now() + make_interval(secs => {seconds}) END
         FROM (SELECT unnest({ids}::uuid[]) AS execution_id, unnest({statuses}::smallint[]) AS status,
                      unnest({headers}::text[]) AS headers, unnest({bodies}::bytea[]) AS body) AS response {source}
         RETURNING execution_id, replayable_until"
    )
}

/// Adds the arguments of [`remember_sql`].
fn add_responses<'a>(
    arguments: &mut PgArguments,
    ids: Vec<Uuid>,
    responses: impl IntoIterator<Item = &'a Response>,
    ttl: Option<f64>,
) -> Result<(), BoxDynError> {
    let (mut statuses, mut headers, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
    for response in responses {
        statuses.push(i16::try_from(response.status()).unwrap_or(i16::MAX));
        headers.push(response.header_lines()?);
        bodies.push(response.body().as_ref());
    }
    arguments.add(ids)?;
    arguments.add(statuses)?;
    arguments.add(headers)?;
    arguments.add(bodies)?;
    arguments.add(ttl)
}

/// The names of so many arguments from `$first` on.
fn places<const N: usize>(first: usize) -> [String; N] {
    std::array::from_fn(|place| format!("${}", first + place))
}

/// Claims keys, and returns the execution ids of those that were new.
pub(super) async fn claim(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
) -> Result<Vec<Uuid>, sqlx::Error> {
    let mut arguments = PgArguments::default();
    add_claims(&mut arguments, claims).map_err(sqlx::Error::Encode)?;
    sqlx::query_scalar_with(AssertSqlSafe(claim_sql(1, Judge::Constraint)), arguments)
        .fetch_all(conn)
        .await
}

/// What one statement made of a batch.
pub(super) struct Committed {
    /// Those whose keys were new.
    pub(super) new: Vec<Remembered>,
    /// What the others stand for, with their places in the batch; without those that were committed only
    /// while this ran, and without what can't be read.
    pub(super) used: Vec<(usize, UsedKey)>,
}

/// Claims keys, runs an INSERT for those that were new, stores their responses, and commits: one
/// statement, which is its own transaction.
///
/// That each of them got its row and its response is made sure of before anything is committed.
/// `responses` are in the order of `claims`.
pub(super) async fn commit(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
    insert: Insert,
    responses: &[Response],
    ttl: Option<f64>,
    used: Used,
) -> Result<Committed, sqlx::Error> {
    let mut arguments = insert.arguments.map_err(sqlx::Error::Encode)?;
    let first_claim = arguments.len() + 1;
    add_claims(&mut arguments, claims).map_err(sqlx::Error::Encode)?;
    let first_response = arguments.len() + 1;
    let ids = claims.iter().map(|claim| claim.execution_id).collect();
    add_responses(&mut arguments, ids, responses, ttl).map_err(sqlx::Error::Encode)?;
    let [accounts, keys, ids] = places(first_claim);
    let judge = if used == Used::Unexpected { Judge::Nobody } else { Judge::Snapshot };
    let used = if used == Used::LookedUp {
        format!(
            "UNION ALL
             SELECT NULL, NULL, {USED_KEY}
             FROM unnest({accounts}::uuid[], {keys}::text[], {ids}::uuid[])
                  WITH ORDINALITY AS wanted(account_id, key, execution_id, place) {LOOK_UP}
             WHERE wanted.execution_id NOT IN (SELECT execution_id FROM claimed)"
        )
    } else {
        String::new()
    };
    let sql = format!(
        "WITH claimed AS (
             {claim}
         ), inserted AS (
             {insert} RETURNING 1
         ), remembered AS (
             {remember}
         ), counts AS (
             SELECT (SELECT count(*) FROM claimed) AS claimed, (SELECT count(*) FROM inserted) AS inserted,
                    count(*) AS remembered, array_agg(execution_id) AS ids, array_agg(replayable_until) AS ends
             FROM remembered
         )
         SELECT CASE WHEN claimed = inserted AND claimed = remembered THEN ids
                -- No text is a uuid: an error that tells the numbers, and undoes everything.
                ELSE ARRAY[format('%s claimed, %s inserted, %s remembered', claimed, inserted, remembered)::uuid]
                END AS ids, ends,
                NULL::bigint AS place, NULL::uuid AS execution_id, NULL AS operation, NULL::bytea AS fingerprint,
                NULL::timestamptz AS created_at, NULL::smallint AS status, NULL AS headers, NULL::bytea AS body,
                NULL::timestamptz AS replayable_until, NULL::boolean AS lasts
         FROM counts
         {used}",
        claim = claim_sql(first_claim, judge),
        insert = insert.sql,
        remember = remember_sql(first_response, "JOIN claimed USING (execution_id)"),
    );
    // All rows, to the end: that is where PostgreSQL says whether the statement was committed.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(conn).await?;
    let mut committed = Committed { new: Vec::new(), used: Vec::new() };
    for row in &rows {
        // All that is new comes in one row: one for each would cost more than what is in it.
        if row.try_get::<Option<i64>, _>("place")?.is_none() {
            let ids: Option<Vec<Uuid>> = row.try_get("ids")?;
            let ends: Option<Vec<Option<DateTime<Utc>>>> = row.try_get("ends")?;
            committed.new = ids.into_iter().flatten().zip(ends.into_iter().flatten()).collect();
        } else if let Ok(used) = used_key(row) {
            committed.used.push(used);
        }
    }
    Ok(committed)
}

/// What is read of a used key.
const USED_KEY: &str = "wanted.place, k.execution_id, k.operation, k.fingerprint, k.created_at,
                r.status, r.headers, r.body, r.replayable_until, r.lasts";

/// The key `k` of each row of `wanted`, and its response `r`, if that can still be replayed.
///
/// One at a time, by index: a plan that joins whole tables would do while they are small, and be kept. The
/// second is that of [`KEPT`](super::recent::KEPT).
const LOOK_UP: &str = "
         CROSS JOIN LATERAL (
             SELECT execution_id, operation, fingerprint, created_at FROM idempotency_keys
             WHERE account_id = wanted.account_id AND key = wanted.key COLLATE \"C\"
             LIMIT 1
         ) AS k
         LEFT JOIN LATERAL (
             SELECT status, headers, body, replayable_until,
                    replayable_until IS NULL OR replayable_until > now() + interval '1 second' AS lasts
             FROM idempotency_responses
             WHERE execution_id = k.execution_id AND (replayable_until IS NULL OR replayable_until > now())
             LIMIT 1
         ) AS r ON true";

/// What became of keys that are used up, each with its place among those asked for, or why it can't be read. A key that nobody has
/// used, or that somebody is using right now, is not in the answer; nor is one older than `key_ttl` (seconds),
/// which another server is about to use anew.
pub(super) async fn used(
    conn: &mut PgConnection,
    scopes: &[&ScopedKey],
    key_ttl: Option<f64>,
) -> Result<Vec<Result<(usize, UsedKey), sqlx::Error>>, sqlx::Error> {
    let (accounts, keys) = columns(scopes);
    let sql = format!(
        "SELECT {USED_KEY}
         FROM unnest($1::uuid[], $2::text[]) WITH ORDINALITY AS wanted(account_id, key, place) {LOOK_UP}
         WHERE $3::float8 IS NULL OR k.created_at > now() - make_interval(secs => $3)"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(accounts)
        .bind(keys)
        .bind(key_ttl)
        .fetch_all(conn)
        .await?;
    Ok(rows.iter().map(used_key).collect())
}

fn used_key(row: &PgRow) -> Result<(usize, UsedKey), sqlx::Error> {
    let execution_id: Uuid = row.try_get("execution_id")?;
    let response = match row.try_get::<Option<i16>, _>("status")? {
        None => None,
        Some(status) => {
            let unreadable = |column: &str| {
                let place =
                    format!("idempotency_responses.{column} of {execution_id} is unreadable");
                sqlx::Error::Decode(place.into())
            };
            let status = u16::try_from(status).map_err(|_| unreadable("status"))?;
            let response =
                Response::from_stored(status, row.try_get("headers")?, row.try_get("body")?);
            Some(response.map_err(|_| unreadable("headers"))?)
        }
    };
    // WITH ORDINALITY counts from 1.
    let place = usize::try_from(row.try_get::<i64, _>("place")? - 1).unwrap_or(usize::MAX);
    let used = UsedKey {
        execution_id,
        operation: row.try_get("operation")?,
        fingerprint: row.try_get("fingerprint")?,
        created_at: row.try_get("created_at")?,
        response,
        replayable_until: row.try_get("replayable_until")?,
        lasts: row.try_get::<Option<bool>, _>("lasts")?.unwrap_or(false),
    };
    Ok((place, used))
}

/// Stores responses, and returns which.
pub(super) async fn remember(
    conn: &mut PgConnection,
    responses: &[(Uuid, Response)],
    ttl: Option<f64>,
) -> Result<Vec<Remembered>, sqlx::Error> {
    let mut arguments = PgArguments::default();
    let ids = responses.iter().map(|(execution_id, _)| *execution_id).collect();
    let bodies = responses.iter().map(|(_, response)| response);
    add_responses(&mut arguments, ids, bodies, ttl).map_err(sqlx::Error::Encode)?;
    sqlx::query_as_with(AssertSqlSafe(remember_sql(1, "")), arguments).fetch_all(conn).await
}

/// Makes this transaction's COMMIT wait for synchronous standbys even if it writes no row.
pub(super) async fn write_to_log(conn: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query("SELECT pg_logical_emit_message(true, 'payonce', '')").execute(conn).await?;
    Ok(())
}

/// Whether this backend still waits for a standby to confirm a COMMIT.
pub(super) async fn waits_for_standby(
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

/// The two columns that say which keys are meant.
fn columns<'a>(scopes: &[&'a ScopedKey]) -> (Vec<Uuid>, Vec<&'a str>) {
    scopes.iter().map(|scope| (scope.account_id, scope.key.as_str())).unzip()
}
