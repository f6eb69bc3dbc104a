//! One batch, one transaction: claim the keys, execute what is new, remember the responses, COMMIT.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap, HashSet},
};

use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    command::Execution,
    queue::{Running, Submission},
    response::Response,
    store::{self, Claim, UsedKey},
};

/// Said explicitly, since a role or database may default to something else: under REPEATABLE READ
/// the loser of a race could not read what the winner committed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The same for parts of a batch that are run only to find out whose row is locked: a tenth of the
/// usual lock_timeout, since everybody else waits meanwhile.
const BEGIN_SEARCHING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL lock_timeout = 10";

/// What batches on one connection have in common.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// How long a response can be replayed, in seconds; `None` is for ever.
    pub(super) response_ttl: Option<f64>,
    /// How long a key is kept, in seconds; `None` is for ever.
    pub(super) key_ttl: Option<f64>,
    /// Whether the server waits for a standby before it acknowledges a COMMIT.
    pub(super) synchronous_standby: bool,
}

/// What a key turned out to be, for whoever sent it.
#[derive(Debug)]
pub(super) enum Verdict {
    /// The key was new, the command was executed, and this is stored.
    Executed(Response),
    /// The key stands for this execution, whose response may be gone.
    Used { execution_id: Uuid, fingerprint: Vec<u8>, response: Option<Response> },
}

/// Runs a batch, sorted by key with each key once, in one transaction, and returns a verdict for
/// each of its members; `None` where the key is in flight elsewhere.
///
/// This is the layer's only BEGIN and its only COMMIT. `commit_sent` is set before the COMMIT goes
/// out: an error after that leaves the batch in doubt, unless the server itself reports it.
#[expect(clippy::disallowed_methods, reason = "the one COMMIT")]
pub(super) async fn run(
    conn: &mut PgConnection,
    batch: &[Running],
    terms: Terms,
    searching: bool,
    commit_sent: &mut bool,
) -> Result<Vec<Option<Verdict>>, sqlx::Error> {
    let mut transaction = conn.begin_with(if searching { BEGIN_SEARCHING } else { BEGIN }).await?;
    match verdicts(&mut transaction, batch, terms).await {
        Ok(verdicts) => {
            *commit_sent = true;
            transaction.commit().await?;
            Ok(verdicts)
        }
        Err(error) => {
            // A ROLLBACK that fails tells more than its cause: the connection is gone.
            transaction.rollback().await?;
            Err(error)
        }
    }
}

async fn verdicts(
    conn: &mut PgConnection,
    batch: &[Running],
    terms: Terms,
) -> Result<Vec<Option<Verdict>>, sqlx::Error> {
    let claimed = claim(conn, batch, terms.key_ttl).await?;
    let (new, old): (Vec<&Running>, Vec<&Running>) =
        batch.iter().partition(|running| claimed.contains(&running.leader.execution_id));

    let mut verdicts = find_used(conn, &old, terms.key_ttl).await?;
    // What is about to be acknowledged again may have been committed by a connection that was lost, or
    // a server that was restarted, before its standby had it.
    let unconfirmed = terms.synchronous_standby && !verdicts.is_empty();
    if !new.is_empty() {
        let executed = execute(conn, &new).await?;
        remember(conn, &executed, terms.response_ttl).await?;
        verdicts
            .extend(executed.into_iter().map(|(id, response)| (id, Verdict::Executed(response))));
    }
    if unconfirmed {
        store::write_to_log(conn).await?;
    }
    Ok(batch.iter().map(|running| verdicts.remove(&running.leader.execution_id)).collect())
}

/// The execution ids of those whose key was new, and is theirs now.
async fn claim(
    conn: &mut PgConnection,
    batch: &[Running],
    key_ttl: Option<f64>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let mut claims: Vec<Claim<'_>> = batch
        .iter()
        .map(|Running { leader, .. }| Claim {
            scope: &leader.scope,
            lock_number: leader.lock_number,
            execution_id: leader.execution_id,
            operation: leader.operation,
            fingerprint: leader.fingerprint.as_bytes(),
        })
        .collect();
    if let Some(ttl) = key_ttl {
        // Deciding that a key is too old, and deleting it, under its lock: without it two servers
        // could both delete, and both execute.
        let mut locked = store::lock(conn, &claims).await?.into_iter();
        claims.retain(|_| locked.next().unwrap_or(false));
        let scopes: Vec<_> = claims.iter().map(|claim| claim.scope).collect();
        store::forget(conn, &scopes, ttl).await?;
    }
    Ok(store::claim(conn, &claims).await?.into_iter().collect())
}

/// What those keys stand for that were used before, by the execution id of who asks.
async fn find_used(
    conn: &mut PgConnection,
    old: &[&Running],
    key_ttl: Option<f64>,
) -> Result<HashMap<Uuid, Verdict>, sqlx::Error> {
    if old.is_empty() {
        return Ok(HashMap::new());
    }
    let scopes: Vec<_> = old.iter().map(|running| &running.leader.scope).collect();
    let used = store::used(conn, &scopes, key_ttl).await?.into_iter();
    Ok(used
        .filter_map(|UsedKey { place, execution_id, fingerprint, response }| {
            let asks = old.get(place)?.leader.execution_id;
            Some((asks, Verdict::Used { execution_id, fingerprint, response }))
        })
        .collect())
}

/// Executes the commands, those of one type at once, and returns each one's response.
///
/// The types take turns in the order of their operations' names, on every server, so that rows that
/// several of them lock are locked in one order.
async fn execute(
    conn: &mut PgConnection,
    new: &[&Running],
) -> Result<Vec<(Uuid, Response)>, sqlx::Error> {
    let mut by_type: BTreeMap<(&str, TypeId), Vec<&Submission>> = BTreeMap::new();
    for Running { leader, .. } in new {
        let command: &dyn Any = &*leader.command;
        by_type.entry((leader.operation, command.type_id())).or_default().push(leader);
    }
    let mut executed = Vec::with_capacity(new.len());
    for ((operation, _), submissions) in by_type {
        let Some(first) = submissions.first() else { continue };
        let executions = submissions.iter().map(|submission| Execution {
            execution_id: submission.execution_id,
            account_id: submission.scope.account_id,
            command: &*submission.command,
        });
        let responses = first.command.execute_all(executions.collect(), conn).await?;
        if responses.len() != submissions.len() {
            let (given, wanted) = (responses.len(), submissions.len());
            return Err(defect(format!("{operation}: {given} responses to {wanted} commands")));
        }
        executed
            .extend(submissions.iter().map(|submission| submission.execution_id).zip(responses));
    }
    Ok(executed)
}

async fn remember(
    conn: &mut PgConnection,
    executed: &[(Uuid, Response)],
    response_ttl: Option<f64>,
) -> Result<(), sqlx::Error> {
    let stored = store::remember(conn, executed, response_ttl).await?;
    match usize::try_from(stored) {
        Ok(stored) if stored == executed.len() => Ok(()),
        _ => Err(defect(format!("{stored} of {} responses stored", executed.len()))),
    }
}

/// Something that can't happen, and of which nothing may be committed.
fn defect(what: String) -> sqlx::Error {
    sqlx::Error::Encode(what.into())
}
