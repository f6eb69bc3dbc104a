//! One batch, one transaction: claim the keys, execute what is new, store the responses, COMMIT.
//!
//! A batch whose effect is one INSERT is one statement, which does all of it and is its own transaction. Another
//! batch, or one that lost a race, is BEGIN, one or more statements for each step, and COMMIT. Used keys are looked
//! up separately: see `look_up`.

use std::{
    any::TypeId,
    collections::{BTreeMap, HashMap, HashSet},
    panic::{AssertUnwindSafe, catch_unwind},
};

use log::debug;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use uuid::Uuid;

use super::{
    failed::{Cause, Failed},
    steps::Steps,
    timeouts::Timeouts,
};
use crate::{
    Announced, Execution, Record, Response, Settings, announce,
    error::breaks_unique_constraint,
    insert::Insert,
    observer::{Observer, Step},
    queue::{Job, Request},
    sql::{self, Claim, Committed, Stored},
};

/// A role or database may have another default. Under REPEATABLE READ the loser of a race could not read what the
/// winner committed.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

/// The way to run a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// As one statement, if its effect is one INSERT.
    Usual,
    /// Step by step with short time-outs, to find the command that holds up the others.
    Searching,
    /// Step by step, so that an error tells which step failed.
    Stepwise,
}

/// Settings of all batches.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// The time that a response can be replayed, in seconds; `None`: as long as its key.
    pub(crate) response_ttl: Option<f64>,
    /// The time that a key is kept, in seconds; `None`: permanently.
    pub(crate) key_ttl: Option<f64>,
    /// True if executions with success are announced.
    pub(crate) announce: bool,
    pub(super) timeouts: Timeouts,
}

impl Terms {
    pub(super) fn of(settings: &Settings) -> Self {
        Self {
            response_ttl: settings.response_ttl.map(|ttl| ttl.as_secs_f64()),
            key_ttl: settings.key_ttl.map(|ttl| ttl.as_secs_f64()),
            announce: settings.announce,
            timeouts: Timeouts::within(settings.request_deadline),
        }
    }
}

/// Runs a batch, sorted by key with each key once, in one transaction. Returns the records of the executions;
/// `None` for a key that was used or is in flight elsewhere, and has to be looked up.
pub(crate) async fn run(
    conn: &mut PgConnection,
    batch: &[Job],
    terms: Terms,
    mode: Mode,
    observer: &dyn Observer,
) -> Result<Vec<Option<Record>>, Failed> {
    let steps = Steps::new(observer, terms.timeouts.batch);
    // Where keys expire, old ones must be locked and deleted first.
    let plain = terms.key_ttl.is_none() && mode == Mode::Usual;
    if let Some(insert) = if plain { insert_of(batch)? } else { None } {
        let run = in_one_statement(conn, batch, insert, terms);
        match steps.run(Step::OneStatement, run).await {
            // A key was used since the statement began, and PostgreSQL rolled it back. A transaction claims before it
            // executes: there a used key is no error, and only a unique violation by the effect fails again.
            Err(Failed { cause: Cause::Error(error), .. }) if breaks_unique_constraint(&error) => {
                debug!("a statement of {} lost a race, and is run as a transaction", batch.len());
            }
            run => return run,
        }
    }
    in_a_transaction(conn, batch, terms, mode, &steps).await
}

/// The effect of the batch, if all its commands have one type and the effect is one INSERT.
fn insert_of(batch: &[Job]) -> Result<Option<Insert>, Failed> {
    let Some(Job { leader: first, .. }) = batch.first() else { return Ok(None) };
    if batch.iter().any(|job| job.leader.kind() != first.kind()) {
        return Ok(None);
    }
    let insert = || {
        let entries = batch.iter().map(|job| job.leader.entry());
        let insert = first.command.insert_all(entries.collect())?;
        insert.map(|insert| insert.complete(batch.len())).transpose()
    };
    let insert = catch_unwind(AssertUnwindSafe(insert));
    let insert = insert.map_err(|_panic| Cause::Panic).and_then(|done| done.map_err(Cause::Error));
    insert.map_err(|cause| Failed { step: None, cause })
}

/// The statement is its own transaction: PostgreSQL begins it, and commits it.
async fn in_one_statement(
    conn: &mut PgConnection,
    batch: &[Job],
    insert: Insert,
    terms: Terms,
) -> Result<Vec<Option<Record>>, sqlx::Error> {
    let claims: Vec<Claim<'_>> = batch.iter().map(claim_of).collect();
    let event = batch.first().and_then(|job| job.leader.command.event());
    let event = event.filter(|_| terms.announce);
    let Committed { responses, first_used_at, replayable_until } =
        sql::commit(conn, &claims, insert, event, terms.response_ttl).await?;
    let records = batch.iter().zip(responses).map(|(job, response)| {
        let response = response?;
        let until = replayable_until.filter(|_| response.is_of_success());
        Some(job.leader.record(response, first_used_at, until))
    });
    Ok(records.collect())
}

/// The layer's only BEGIN and its only COMMIT.
#[expect(clippy::disallowed_methods, reason = "the one COMMIT")]
async fn in_a_transaction(
    conn: &mut PgConnection,
    batch: &[Job],
    terms: Terms,
    mode: Mode,
    steps: &Steps<'_>,
) -> Result<Vec<Option<Record>>, Failed> {
    let begin = match mode {
        Mode::Searching => format!(
            "{BEGIN}; SET LOCAL lock_timeout = {}; SET LOCAL statement_timeout = {}",
            terms.timeouts.search_lock.as_millis(),
            terms.timeouts.search_statement.as_millis(),
        ),
        Mode::Usual | Mode::Stepwise => BEGIN.to_owned(),
    };
    let mut transaction = steps.untimed(conn.begin_with(AssertSqlSafe(begin))).await?;
    let mut executed = match claim_and_execute(&mut transaction, batch, terms, steps).await {
        Ok(executed) => executed,
        Err(failed) => {
            // After anything but an error the connection is closed, and PostgreSQL rolls back by itself.
            if matches!(failed.cause, Cause::Error(_)) {
                // If ROLLBACK fails, the connection is lost: that matters more than the first error.
                steps.untimed(transaction.rollback()).await?;
            }
            return Err(failed);
        }
    };
    steps.run(Step::Commit, transaction.commit()).await?;
    let records = batch.iter().map(|job| executed.remove(&job.leader.execution_id));
    Ok(records.collect())
}

async fn claim_and_execute(
    conn: &mut PgConnection,
    batch: &[Job],
    terms: Terms,
    steps: &Steps<'_>,
) -> Result<HashMap<Uuid, Record>, Failed> {
    let claimed = steps.run(Step::Claim, claim(conn, batch, terms.key_ttl)).await?;
    let new = |job: &&Job| claimed.contains(&job.leader.execution_id);
    let new: Vec<&Job> = batch.iter().filter(new).collect();
    if new.is_empty() {
        return Ok(HashMap::new());
    }
    let executed = steps.run(Step::Execute, execute(conn, &new)).await?;
    let announced = if terms.announce { announced(&executed) } else { Vec::new() };
    let records = steps.run(Step::Store, store(conn, executed, terms.response_ttl)).await?;
    if !announced.is_empty() {
        // The last statement before COMMIT: see `announce`.
        let announce = async { Ok(announce(conn, &announced).await?) };
        steps.run(Step::Announce, announce).await?;
    }
    Ok(records)
}

/// The executions to announce, in the order in which they were executed.
fn announced(executed: &[(&Request, Response)]) -> Vec<Announced> {
    let successes = executed.iter().filter(|(_, response)| response.is_of_success());
    let announced = successes.filter_map(|(request, _)| {
        let Execution { id: execution_id, account_id } = request.execution();
        Some(Announced { account_id, execution_id, event: request.command.event()? })
    });
    announced.collect()
}

/// Claims the keys, and returns the execution ids of those that were new.
async fn claim(
    conn: &mut PgConnection,
    batch: &[Job],
    key_ttl: Option<f64>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let mut claims: Vec<Claim<'_>> = batch.iter().map(claim_of).collect();
    if let Some(ttl) = key_ttl {
        // An expired key is found and deleted under its lock: otherwise two servers could both delete it, and both
        // execute.
        let mut locked = sql::lock(conn, &claims).await?.into_iter();
        claims.retain(|_| locked.next().unwrap_or(false));
        let scopes: Vec<_> = claims.iter().map(|claim| claim.scope).collect();
        sql::forget(conn, &scopes, ttl).await?;
    }
    Ok(sql::claim(conn, &claims).await?.into_iter().collect())
}

fn claim_of(Job { leader, .. }: &Job) -> Claim<'_> {
    Claim {
        scope: &leader.scope,
        lock_number: leader.lock_number,
        execution_id: leader.execution_id,
        operation: leader.operation,
        fingerprint: leader.fingerprint.as_bytes(),
    }
}

/// Executes the commands, those of one type together, and returns their responses. Every server takes the types in
/// the order of their operations' names, so that rows that several types lock are locked in one order.
async fn execute<'a>(
    conn: &mut PgConnection,
    new: &[&'a Job],
) -> Result<Vec<(&'a Request, Response)>, sqlx::Error> {
    let mut by_type: BTreeMap<(&str, TypeId), Vec<&Request>> = BTreeMap::new();
    for Job { leader, .. } in new {
        by_type.entry(leader.kind()).or_default().push(leader);
    }
    let mut executed = Vec::with_capacity(new.len());
    for ((operation, _), requests) in by_type {
        let Some(first) = requests.first() else { continue };
        let entries = requests.iter().map(|request| request.entry());
        let responses = first.command.execute_all(entries.collect(), conn).await?;
        one_for_each(operation, &responses, requests.len())?;
        executed.extend(requests.into_iter().zip(responses));
    }
    Ok(executed)
}

async fn store(
    conn: &mut PgConnection,
    executed: Vec<(&Request, Response)>,
    response_ttl: Option<f64>,
) -> Result<HashMap<Uuid, Record>, sqlx::Error> {
    let responses = executed.iter().map(|(request, response)| (request.execution(), response));
    let responses: Vec<_> = responses.collect();
    let stored = sql::store(conn, &responses, response_ttl).await?;
    let stored: HashMap<Uuid, Stored> =
        stored.into_iter().map(|stored| (stored.execution_id, stored)).collect();
    let records = executed.into_iter().map(|(request, response)| {
        let id = request.execution_id;
        let missing = || defect(format!("the response of {id} was not stored"));
        let Stored { first_used_at, replayable_until, .. } =
            *stored.get(&id).ok_or_else(missing)?;
        Ok((id, request.record(response, first_used_at, replayable_until)))
    });
    records.collect()
}

fn one_for_each(operation: &str, responses: &[Response], wanted: usize) -> Result<(), sqlx::Error> {
    let given = responses.len();
    let right = given == wanted;
    right
        .then_some(())
        .ok_or_else(|| defect(format!("{operation}: {given} responses to {wanted} commands")))
}

/// An error that rolls the batch back because of a defect.
fn defect(what: String) -> sqlx::Error {
    sqlx::Error::Encode(what.into())
}
