//! For clients that lost an answer: what became of a request, and making sure that it never happens.

pub(crate) mod openapi;
pub mod policy;

use std::time::Duration;

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};
use chrono::{DateTime, Utc};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::{
    accounts::Caller,
    db::timestamp::Timestamp,
    http::{
        idempotent::IdempotentRequest,
        json::Members,
        problem::{Kind, Problem},
    },
    idempotency::{BatchCommand, IdempotencyKey, Outcome, Record, RecordState, Response},
    ids::{AccountId, ExecutionId, PaymentId},
    payments::{
        self,
        command::{CreatePayment, location},
    },
    refunds::{self, command::CreateRefund},
    state::AppState,
};

/// How clients void a key.
const VOIDING: &str = "POST /idempotency-key/void";

/// What to say where a key can't be looked up: nothing of what its request did.
const UNREAD: &str = "It could not be read what became of this key. That says nothing of the request that was sent \
                      with it. Ask again after Retry-After.";

/// The same after the key was voided, or was found used.
const UNREAD_VOIDED: &str = "Either the key is voided or a request was executed with it, and which of them could not be \
                             read. Void it again after Retry-After: that changes nothing, and tells.";

/// What a key stands for, for its client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is committed with it.
    Unknown,
    /// Its request was executed.
    Completed,
    /// Its request was refused, for good.
    Refused,
    /// Its request was executed, and its answer is kept no longer.
    Expired,
    /// Nothing was executed with it, nor will be.
    Voided,
}

impl State {
    /// Its name, as clients get it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Completed => "completed",
            Self::Refused => "refused",
            Self::Expired => "expired",
            Self::Voided => "voided",
        }
    }

    /// What it means, where keys are `kept` for so long, to whoever voids them by `voiding`.
    fn meaning(self, kept: Option<&str>, voiding: &str) -> String {
        let meaning = match self {
            Self::Unknown => {
                let nothing = kept.map_or_else(
                    || "Nothing is committed with this key.".to_owned(),
                    |kept| format!("Nothing was committed with this key in the last {kept}."),
                );
                format!(
                    "{nothing} That is no promise: the request may still be under way. To make sure that it is never \
                     executed, void the key ({voiding}); or send the same request again."
                )
            }
            Self::Completed => {
                "It was executed, once. The same request with this key gets the stored answer."
                    .to_owned()
            }
            Self::Refused => {
                "It was refused, for good. The same request with this key gets the same refusal."
                    .to_owned()
            }
            Self::Expired => {
                "It was executed, once; `resource` is what it made. Its answer is kept no longer, and nothing is ever \
                 executed again with this key."
                    .to_owned()
            }
            Self::Voided => kept.map_or_else(
                || "Nothing was executed with this key, and nothing ever will be.".to_owned(),
                |kept| format!("Nothing was executed with this key in the {kept} before it was voided."),
            ),
        };
        match kept {
            None => meaning,
            Some(kept) => {
                format!("{meaning} (Keys are kept for {kept} here, and are new after that.)")
            }
        }
    }
}

/// The answer. What a state has nothing to say about is null.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// What the key stands for.
    pub state: State,
    /// What was executed.
    pub operation: Option<String>,
    /// Names the execution.
    pub execution_id: Option<ExecutionId>,
    /// Where what was made can be read.
    pub resource: Option<String>,
    /// Of the first answer.
    pub status: Option<u16>,
    /// When the key was used.
    pub first_used_at: Option<Timestamp>,
    /// Until when the answer can be replayed.
    pub replayable_until: Option<Timestamp>,
    /// What all of that means.
    pub detail: String,
}

impl Shown {
    /// Without words yet.
    fn new(state: State, first_used_at: Option<DateTime<Utc>>) -> Self {
        Self {
            state,
            operation: None,
            execution_id: None,
            resource: None,
            status: None,
            first_used_at: first_used_at.map(Timestamp),
            replayable_until: None,
            detail: String::new(),
        }
    }
}

/// `GET /idempotency-key`: what became of the request that was sent with the key in the header.
///
/// # Errors
/// `unauthorized`, `idempotency-key-missing`, `idempotency-key-invalid`, `too-many-requests`, `database-unavailable`.
pub async fn show(
    request: IdempotentRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    read(&request, &state).await.map_err(|problem| problem.with_detail(UNREAD))
}

/// `POST /idempotency-key/void`: uses the key up, unless a request with it was executed; and says which.
///
/// # Errors
/// Those of [`show`], and those of every idempotent request that waits for the database.
pub async fn void(
    request: IdempotentRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let deadline = Instant::now() + state.request_deadline;
    read_nothing(request.body())?;
    let Caller { account_id } = request.caller();
    let voided = state.engine.void(account_id.into(), request.key().clone()).await;
    request.note_outcome(&voided);
    if voided? == Outcome::InFlight {
        return Err(Kind::KeyInFlight.into());
    }
    // From here on no problem may say that nothing was done.
    let unread = |cause: &str| {
        Problem::new(Kind::OutcomeUnknown).with_detail(UNREAD_VOIDED).caused_by(cause)
    };
    match timeout_at(deadline, read(&request, &state)).await {
        Ok(shown) => shown.map_err(|problem| unread(&problem.to_string())),
        Err(_elapsed) => Err(unread("not read in time")),
    }
}

/// The key is the whole request: no body, or an empty object.
fn read_nothing(body: &[u8]) -> Result<(), Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let expected = "an empty JSON object, or no body at all";
    Members::read(body, Kind::MalformedJson, expected)?.finish(Some(()))
}

async fn read(request: &IdempotentRequest, state: &AppState) -> Result<HttpResponse, Problem> {
    let Caller { account_id } = request.caller();
    let find = async |conn: &mut PgConnection| {
        look_up(conn, account_id, request.key().clone(), state.key_ttl, VOIDING).await
    };
    let shown = state.reads.run_for(account_id, find).await?;
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

/// What became of the request that was sent with a key; keys are kept for `key_ttl`, and whoever asks voids
/// them by `voiding`.
///
/// # Errors
/// When the database fails.
pub async fn look_up(
    conn: &mut PgConnection,
    account_id: AccountId,
    key: IdempotencyKey,
    key_ttl: Option<Duration>,
    voiding: &str,
) -> Result<Shown, sqlx::Error> {
    let shown = match Record::find(conn, account_id.into(), key, key_ttl).await? {
        Some(record) => known(conn, account_id, record).await?,
        None => Shown::new(State::Unknown, None),
    };
    let kept = key_ttl.map(|ttl| humantime::format_duration(ttl).to_string());
    Ok(Shown { detail: shown.state.meaning(kept.as_deref(), voiding), ..shown })
}

async fn known(
    conn: &mut PgConnection,
    account_id: AccountId,
    record: Record,
) -> Result<Shown, sqlx::Error> {
    let Record { execution_id, operation, first_used_at, state, .. } = record;
    let execution_id = ExecutionId::from(execution_id);
    let used = |state| Shown::new(state, Some(first_used_at));
    let executed = |state| Shown { execution_id: Some(execution_id), ..used(state) };
    Ok(match state {
        RecordState::Voided => used(State::Voided),
        RecordState::Stored { response, replayable_until } => {
            let success = (200..300).contains(&response.status());
            Shown {
                operation: Some(operation),
                resource: stored_location(&response),
                status: Some(response.status()),
                replayable_until: replayable_until.map(Timestamp),
                ..executed(if success { State::Completed } else { State::Refused })
            }
        }
        RecordState::Expired => {
            let made = made_by(conn, account_id, &operation, execution_id).await?;
            Shown {
                operation: Some(operation),
                status: made.is_some().then_some(StatusCode::CREATED.as_u16()),
                resource: made.map(location),
                ..executed(State::Expired)
            }
        }
    })
}

fn stored_location(response: &Response) -> Option<String> {
    let mut headers = response.headers();
    headers.find(|(name, _)| *name == "location").map(|(_, value)| value.to_owned())
}

/// The payment at which an execution's effect can be read, from the operation's own tables: these are kept
/// when the answer is not.
async fn made_by(
    conn: &mut PgConnection,
    account_id: AccountId,
    operation: &str,
    execution_id: ExecutionId,
) -> Result<Option<PaymentId>, sqlx::Error> {
    const PAY: &str = CreatePayment::OPERATION.as_str();
    const REFUND: &str = CreateRefund::OPERATION.as_str();
    match operation {
        PAY => payments::created_by(conn, account_id, execution_id).await,
        REFUND => refunds::payment_of(conn, account_id, Uuid::from(execution_id).into()).await,
        _ => Ok(None),
    }
}
