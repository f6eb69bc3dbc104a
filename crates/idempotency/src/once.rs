//! The layer for callers who own their transaction.

use std::time::Duration;

use sqlx::{Connection, PgConnection, Postgres, Transaction};

use super::{
    AccountId, Error, Execution, Fingerprint, IdempotencyKey, Outcome, Response, execution_id,
    key::ScopedKey,
    sql::{self, Claim},
};

/// The time that keys and responses are kept, in PostgreSQL's time.
#[derive(Debug, Clone, Copy)]
pub struct Lifetimes {
    /// The time that the response of a success can be replayed; `None`: as long as its key.
    pub response: Option<Duration>,
    /// The time that a key stays used; `None`: permanently. The same for all who use the table.
    pub key: Option<Duration>,
}

/// Responses for a day, and keys permanently.
impl Default for Lifetimes {
    fn default() -> Self {
        Self { response: Some(Duration::from_hours(24)), key: None }
    }
}

/// Half of what the sweeper leaves to transactions that began before a key expired.
const LONGEST_AGE: Duration = Duration::from_mins(30);

/// Executes something exactly once for this key of this account, in the caller's transaction, and returns what
/// the key stands for.
///
/// With a new key, `execute` has the effect, and its response is stored with the key. With a used one it is not
/// called: the outcome is the stored response, or why there is none. [`Outcome::InFlight`] says that another
/// transaction is executing the key: let the client retry.
///
/// **Nothing has happened until the caller commits.** Send no response before, and none if COMMIT fails. An error
/// of `execute` rolls back to where `once` began, key included, and leaves the transaction usable. Keys are shared
/// with an [`Engine`](super::Engine) on the same tables.
///
/// `once` announces nothing, because the caller may take further locks after it. To announce an
/// [`Outcome::New`] of success, call [`announce`](super::announce) last.
///
/// ```
/// use payonce_idempotency::{AccountId, Error, Fingerprint, IdempotencyKey, Lifetimes, Operation, Outcome, Response, once};
/// use sqlx::PgPool;
/// ///
/// const GREET: Operation = Operation::new("greet");
///
/// async fn greet(pool: &PgPool, account: AccountId, key: IdempotencyKey, name: &str) -> Result<Outcome, Error> {
///     let fingerprint = Fingerprint::of(GREET).field("name", name.as_bytes());
///     let mut tx = pool.begin().await?;
///     let outcome = once(&mut tx, account, key, &fingerprint, Lifetimes::default(), async |execution, conn| {
///         let insert = sqlx::query("INSERT INTO greetings (id, name) VALUES ($1, $2)");
///         insert.bind(execution.id).bind(name).execute(conn).await?;
///         Ok(Response::new(201, format!("{name:?}")))
///     })
///     .await?;
///     tx.commit().await?;
///     Ok(outcome)
/// }
/// ```
///
/// # Errors
/// Those of `execute` and of the database. After any of them the same request may be sent again.
pub async fn once(
    tx: &mut Transaction<'_, Postgres>,
    account_id: AccountId,
    key: IdempotencyKey,
    fingerprint: &Fingerprint,
    kept: Lifetimes,
    execute: impl AsyncFnOnce(Execution, &mut PgConnection) -> Result<Response, Error>,
) -> Result<Outcome, Error> {
    let mut savepoint = savepoint(tx).await?;
    let scope = ScopedKey { key, account_id };
    let execution = Execution { id: execution_id::next(), account_id };
    let outcome = if claim(&mut savepoint, &scope, execution, fingerprint, kept).await? {
        let response = execute(execution, &mut savepoint).await?;
        store(&mut savepoint, execution, response, kept).await?
    } else {
        find(&mut savepoint, &scope, fingerprint, kept).await?
    };
    release(savepoint).await?;
    Ok(outcome)
}

/// Returns whether the key was new, and is this execution's now.
async fn claim(
    conn: &mut PgConnection,
    scope: &ScopedKey,
    execution: Execution,
    fingerprint: &Fingerprint,
    kept: Lifetimes,
) -> Result<bool, Error> {
    let claim = Claim {
        scope,
        lock_number: scope.lock_number(),
        execution_id: execution.id,
        operation: fingerprint.operation().as_str(),
        fingerprint: fingerprint.as_bytes(),
    };
    if let Some(ttl) = kept.key {
        refuse_old_transaction(conn).await?;
        if sql::lock(conn, &[claim]).await? == [true] {
            sql::forget(conn, &[scope], ttl.as_secs_f64()).await?;
        }
    }
    Ok(!sql::claim(conn, &[claim]).await?.is_empty())
}

/// A transaction sees the time of its BEGIN: to an old one, an expired key that was swept would not have expired.
async fn refuse_old_transaction(conn: &mut PgConnection) -> Result<(), Error> {
    let age: f64 =
        sqlx::query_scalar("SELECT extract(epoch FROM clock_timestamp() - now())::float8")
            .fetch_one(conn)
            .await?;
    if age > LONGEST_AGE.as_secs_f64() {
        return Err(Error::other(format!(
            "the transaction began {age:.0} seconds ago; where keys expire, {LONGEST_AGE:?} are the most"
        )));
    }
    Ok(())
}

async fn store(
    conn: &mut PgConnection,
    execution: Execution,
    response: Response,
    kept: Lifetimes,
) -> Result<Outcome, Error> {
    let execution_id = execution.id;
    let ttl = kept.response.map(|ttl| ttl.as_secs_f64());
    let missing = || Error::other(format!("the response of {execution_id} was not stored"));
    let stored =
        sql::store(conn, &[(execution, &response)], ttl).await?.pop().ok_or_else(missing)?;
    Ok(Outcome::New { execution_id, response, replayable_until: stored.replayable_until })
}

async fn find(
    conn: &mut PgConnection,
    scope: &ScopedKey,
    fingerprint: &Fingerprint,
    kept: Lifetimes,
) -> Result<Outcome, Error> {
    let ttl = kept.key.map(|ttl| ttl.as_secs_f64());
    let Some((_, record)) = sql::used(conn, &[scope], ttl).await?.pop().transpose()? else {
        return Ok(Outcome::InFlight);
    };
    // COMMIT then waits for synchronous standbys: what is acknowledged again may be on none of them yet.
    sql::write_to_log(conn).await?;
    record.outcome_for(fingerprint)
}

/// An error, a panic or a dropped future rolls back to here.
#[expect(clippy::disallowed_methods, reason = "begins no transaction, since the caller has one")]
async fn savepoint<'t>(
    tx: &'t mut Transaction<'_, Postgres>,
) -> Result<Transaction<'t, Postgres>, Error> {
    Ok(tx.begin().await?)
}

#[expect(clippy::disallowed_methods, reason = "releases a savepoint, and commits nothing")]
async fn release(savepoint: Transaction<'_, Postgres>) -> Result<(), Error> {
    Ok(savepoint.commit().await?)
}
