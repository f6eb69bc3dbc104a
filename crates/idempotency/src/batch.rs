//! One batch, one transaction: claim the keys, execute what is new, remember the responses, COMMIT.
//!
//! Where all of the batch comes to one INSERT, the whole transaction is one statement, which claims,
//! executes, remembers and commits. Else, or where that lost a race, it is a BEGIN, a statement or more for
//! each of these, and a COMMIT. Used keys are read in a statement of its own: before any is claimed where most
//! are likely to be used, else afterwards.

use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap, HashSet},
};

use chrono::{DateTime, Utc};
use log::debug;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::{
    error::breaks_unique_constraint,
    insert::Insert,
    observer::{Observer, Step, timed},
    response::Response,
    store::{self, Claim, Stored, UsedKey},
    submission::{Running, Submission},
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

/// A response that was stored just now.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) response: Response,
    /// `None`: as long as its key.
    pub(super) replayable_until: Option<DateTime<Utc>>,
}

/// What a key turned out to stand for, for the command that came with it.
#[derive(Debug)]
pub(super) enum Fate {
    /// Its key was new; it was executed, and is committed.
    New(Executed),
    /// Its key was used before.
    Used(UsedKey),
}

/// Runs a batch, sorted by key with each key once, in one transaction, and returns what became of each of
/// its members; `None` where the key was used, or is in flight elsewhere, and has to be looked up.
///
/// `commit_sent` is set before what commits goes out: an error after that leaves the batch in doubt,
/// unless the server itself reports it.
pub(super) async fn run(
    conn: &mut PgConnection,
    batch: &[Running],
    terms: Terms,
    searching: bool,
    observer: &dyn Observer,
    commit_sent: &mut bool,
) -> Result<Vec<Option<Fate>>, sqlx::Error> {
    // What is too old must be locked and deleted first, and a search has a lock_timeout of its own.
    let plain = terms.key_ttl.is_none() && !searching;
    if let Some(insert) = if plain { insert_of(batch)? } else { None } {
        let run = in_one_statement(conn, batch, insert, terms.response_ttl, commit_sent);
        match timed(observer, Step::OneStatement, run).await {
            // A key was used since the statement began, and PostgreSQL rolled it back. In a transaction, which claims
            // before it executes anything, that is no error; one that the effect made is one again.
            Err(error) if breaks_unique_constraint(&error) => {
                debug!("a statement of {} lost a race, and is run as a transaction", batch.len());
                *commit_sent = false;
            }
            run => return run,
        }
    }
    in_a_transaction(conn, batch, terms, searching, observer, commit_sent).await
}

/// The batch as an INSERT, if it is all of one type that comes to one.
fn insert_of(batch: &[Running]) -> Result<Option<Insert>, sqlx::Error> {
    let Some(Running { leader: first, .. }) = batch.first() else { return Ok(None) };
    if batch.iter().any(|running| running.leader.kind() != first.kind()) {
        return Ok(None);
    }
    let executions = batch.iter().map(|running| running.leader.execution());
    let insert = first.command.insert_all(executions.collect())?;
    insert.map(|insert| insert.complete(batch.len())).transpose()
}

/// The statement is its own transaction: PostgreSQL begins it, and commits it.
async fn in_one_statement(
    conn: &mut PgConnection,
    batch: &[Running],
    mut insert: Insert,
    response_ttl: Option<f64>,
    commit_sent: &mut bool,
) -> Result<Vec<Option<Fate>>, sqlx::Error> {
    let claims: Vec<Claim<'_>> = batch.iter().map(claim_of).collect();
    let responses = std::mem::take(&mut insert.responses);
    *commit_sent = true;
    let committed = store::commit(conn, &claims, insert, &responses, response_ttl).await?;
    let mut new = committed.new.into_iter().peekable();
    let executed = batch.iter().zip(responses).map(|(running, response)| {
        new.next_if_eq(&running.leader.execution_id)?;
        let until = committed.replayable_until.filter(|_| response.is_of_success());
        Some(Fate::New(Executed { response, replayable_until: until }))
    });
    Ok(executed.collect())
}

/// The layer's only BEGIN and its only COMMIT.
#[expect(clippy::disallowed_methods, reason = "the one COMMIT")]
async fn in_a_transaction(
    conn: &mut PgConnection,
    batch: &[Running],
    terms: Terms,
    searching: bool,
    observer: &dyn Observer,
    commit_sent: &mut bool,
) -> Result<Vec<Option<Fate>>, sqlx::Error> {
    let mut transaction = conn.begin_with(if searching { BEGIN_SEARCHING } else { BEGIN }).await?;
    let mut executed = match claim_and_execute(&mut transaction, batch, terms, observer).await {
        Ok(executed) => executed,
        Err(error) => {
            // A ROLLBACK that fails tells more than its cause: the connection is gone.
            transaction.rollback().await?;
            return Err(error);
        }
    };
    *commit_sent = true;
    timed(observer, Step::Commit, transaction.commit()).await?;
    let fates =
        batch.iter().map(|running| executed.remove(&running.leader.execution_id).map(Fate::New));
    Ok(fates.collect())
}

async fn claim_and_execute(
    conn: &mut PgConnection,
    batch: &[Running],
    terms: Terms,
    observer: &dyn Observer,
) -> Result<HashMap<Uuid, Executed>, sqlx::Error> {
    let claimed = timed(observer, Step::Claim, claim(conn, batch, terms.key_ttl)).await?;
    let new = |running: &&Running| claimed.contains(&running.leader.execution_id);
    let new: Vec<&Running> = batch.iter().filter(new).collect();
    if new.is_empty() {
        return Ok(HashMap::new());
    }
    let executed = timed(observer, Step::Execute, execute(conn, &new)).await?;
    timed(observer, Step::Remember, remember(conn, executed, terms.response_ttl)).await
}

/// The execution ids of those whose key was new, and is theirs now.
async fn claim(
    conn: &mut PgConnection,
    batch: &[Running],
    key_ttl: Option<f64>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let mut claims: Vec<Claim<'_>> = batch.iter().map(claim_of).collect();
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

fn claim_of(Running { leader, .. }: &Running) -> Claim<'_> {
    Claim {
        scope: &leader.scope,
        lock_number: leader.lock_number,
        execution_id: leader.execution_id,
        operation: leader.operation,
        fingerprint: leader.fingerprint.as_bytes(),
    }
}

/// Executes the commands, those of one type at once, and returns each one's response.
///
/// The types take turns in the order of their operations' names, on every server, so that rows that
/// several of them lock are locked in one order.
async fn execute<'a>(
    conn: &mut PgConnection,
    new: &[&'a Running],
) -> Result<Vec<(&'a Submission, Response)>, sqlx::Error> {
    let mut by_type: BTreeMap<(&str, TypeId), Vec<&Submission>> = BTreeMap::new();
    for Running { leader, .. } in new {
        by_type.entry(leader.kind()).or_default().push(leader);
    }
    let mut executed = Vec::with_capacity(new.len());
    for ((operation, _), submissions) in by_type {
        let Some(first) = submissions.first() else { continue };
        let executions = submissions.iter().map(|submission| submission.execution());
        let responses = first.command.execute_all(executions.collect(), conn).await?;
        one_for_each(operation, &responses, submissions.len())?;
        executed.extend(submissions.into_iter().zip(responses));
    }
    Ok(executed)
}

async fn remember(
    conn: &mut PgConnection,
    executed: Vec<(&Submission, Response)>,
    response_ttl: Option<f64>,
) -> Result<HashMap<Uuid, Executed>, sqlx::Error> {
    let responses = executed.iter().map(|(submission, response)| Stored {
        account_id: submission.scope.account_id,
        execution_id: submission.execution_id,
        response,
    });
    let responses: Vec<_> = responses.collect();
    let stored = store::remember(conn, &responses, response_ttl).await?;
    let stored: HashMap<Uuid, _> = stored.into_iter().collect();
    let remembered = executed.into_iter().map(|(submission, response)| {
        let execution_id = submission.execution_id;
        let missing = || defect(format!("the response of {execution_id} was not stored"));
        let replayable_until = *stored.get(&execution_id).ok_or_else(missing)?;
        Ok((execution_id, Executed { response, replayable_until }))
    });
    remembered.collect()
}

/// When keys are looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// Before any is claimed. What can't be read is passed by, and is an error the next time, to its own
    /// request alone.
    First,
    /// Those that were not claimed.
    Last,
}

/// What keys stand for that were used before; `None` for one that is new, or that somebody else is using right
/// now.
///
/// `commit_sent` is set before that goes out which is to be on a standby before anybody hears of it.
pub(super) async fn look_up(
    conn: &mut PgConnection,
    batch: &[Running],
    look: Look,
    terms: Terms,
    commit_sent: &mut bool,
) -> Result<Vec<Option<UsedKey>>, sqlx::Error> {
    let scopes: Vec<_> = batch.iter().map(|running| &running.leader.scope).collect();
    let found = store::used(conn, &scopes, terms.key_ttl).await?.into_iter();
    let found: Vec<_> = match look {
        Look::First => found.flatten().collect(),
        Look::Last => found.collect::<Result<_, _>>()?,
    };
    // What is about to be acknowledged again may have been committed by a connection that was lost, or
    // a server that was restarted, before its standby had it.
    if terms.synchronous_standby && !found.is_empty() {
        *commit_sent = true;
        store::write_to_log(conn).await?;
    }
    let mut used: Vec<Option<UsedKey>> = batch.iter().map(|_| None).collect();
    for (place, key) in found {
        if let Some(place) = used.get_mut(place) {
            *place = Some(key);
        }
    }
    Ok(used)
}

fn one_for_each(operation: &str, responses: &[Response], wanted: usize) -> Result<(), sqlx::Error> {
    let given = responses.len();
    let right = given == wanted;
    right
        .then_some(())
        .ok_or_else(|| defect(format!("{operation}: {given} responses to {wanted} commands")))
}

/// Something that can't happen, and of which nothing may be committed.
fn defect(what: String) -> sqlx::Error {
    sqlx::Error::Encode(what.into())
}
