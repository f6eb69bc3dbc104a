//! For clients that received no response: look up a key, and void it so that its request is never executed.

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
        json::Fields,
        problem::{Kind, Problem},
    },
    idempotency::{BatchCommand, IdempotencyKey, Outcome, Record, RecordState, Response},
    ids::{AccountId, ExecutionId},
    payments::{
        self,
        command::{CreatePayment, location},
    },
    refunds::{self, command::CreateRefund},
    state::AppState,
    webhooks::{
        self,
        command::{CreateEndpoint, ReplayEvents, RotateSecret},
        shown,
    },
};

/// The way for clients to void a key.
const VOIDING: &str = "POST /idempotency-key/void";

/// The detail of a failed look-up, which says nothing about the request.
const UNREAD: &str = "The key could not be read. Its request may or may not have been executed. Ask again after \
                      Retry-After.";

/// The detail of a failed look-up after the key was voided or found used.
const UNREAD_VOIDED: &str = "Either the key is voided, or a request was executed with it: its state could not be read. \
                             Void it again after Retry-After: that changes nothing, and shows the state.";

/// The state of a key, as clients see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nothing is committed with the key.
    Unknown,
    /// Its request was executed.
    Completed,
    /// Its request was refused permanently.
    Refused,
    /// Its request was executed, and its response is no longer stored.
    Expired,
    /// No request was or will be executed with the key.
    Voided,
}

impl State {
    /// The name in responses.
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

    /// The meaning in words. `kept` is the key lifetime, if any; `voiding` is how to void a key.
    fn meaning(self, kept: Option<&str>, voiding: &str) -> String {
        let meaning = match self {
            Self::Unknown => {
                let nothing = kept.map_or_else(
                    || "Nothing is committed with this key.".to_owned(),
                    |kept| format!("Nothing was committed with this key in the last {kept}."),
                );
                format!(
                    "{nothing} The request may still be in progress. To make sure that it is never executed, void the \
                     key ({voiding}). Or send the same request again."
                )
            }
            Self::Completed => {
                "The request was executed once. Sent again with this key, it gets the stored response."
                    .to_owned()
            }
            Self::Refused => {
                "The request was refused permanently. Sent again with this key, it gets the same refusal."
                    .to_owned()
            }
            Self::Expired => {
                "The request was executed once, and created `resource`. Its response is no longer stored. No request is \
                 executed with this key again."
                    .to_owned()
            }
            Self::Voided => kept.map_or_else(
                || "No request was executed with this key, and none ever will be.".to_owned(),
                |kept| format!("No request was executed with this key in the {kept} before it was voided."),
            ),
        };
        match kept {
            None => meaning,
            Some(kept) => {
                format!(
                    "{meaning} This server keeps keys for {kept}; after that, a key counts as new."
                )
            }
        }
    }
}

/// The response. A field that does not apply to the state is null.
#[derive(Debug, Serialize)]
pub struct Shown {
    /// The state.
    pub state: State,
    /// The operation that was executed.
    pub operation: Option<String>,
    /// The id of the execution.
    pub execution_id: Option<ExecutionId>,
    /// The path of what was created, refunded or changed.
    pub resource: Option<String>,
    /// The status of the first response.
    pub status: Option<u16>,
    /// When the key was used.
    pub first_used_at: Option<Timestamp>,
    /// The time until which the response can be replayed.
    pub replayable_until: Option<Timestamp>,
    /// The meaning in words.
    pub detail: String,
}

impl Shown {
    /// A state without any other field.
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

/// `GET /idempotency-key`: looks up the key in the header.
///
/// # Errors
/// `unauthorized`, `idempotency-key-missing`, `idempotency-key-invalid`, `too-many-requests`, `database-unavailable`.
pub async fn show(
    request: IdempotentRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    read(&request, &state).await.map_err(|problem| problem.with_detail(UNREAD))
}

/// `POST /idempotency-key/void`: voids the key in the header, unless a request was executed with it, and shows its state.
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
    let voided = state.engine.void(account_id, request.key().clone()).await;
    request.note_outcome(&voided);
    if voided? == Outcome::InFlight {
        return Err(Kind::KeyInFlight.into());
    }
    // From here on, a problem must not claim that nothing happened.
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
    Fields::read(body, Kind::MalformedJson, expected)?.finish(Some(()))
}

async fn read(request: &IdempotentRequest, state: &AppState) -> Result<HttpResponse, Problem> {
    let Caller { account_id } = request.caller();
    let find = async |conn: &mut PgConnection| {
        look_up(conn, account_id, request.key().clone(), state.key_ttl, VOIDING).await
    };
    let shown = state.reads.run_for(account_id, find).await?;
    Ok(HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(shown))
}

/// Looks up a key. `key_ttl` is the key lifetime; `voiding` tells the reader how to void a key.
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
    let shown = match Record::find(conn, account_id, key, key_ttl).await? {
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
            let (status, resource) =
                executed_before(conn, account_id, &operation, execution_id).await?.unzip();
            Shown {
                operation: Some(operation),
                status: status.map(|status| status.as_u16()),
                resource: resource.flatten(),
                ..executed(State::Expired)
            }
        }
    })
}

fn stored_location(response: &Response) -> Option<String> {
    let mut headers = response.headers();
    headers.find(|(name, _)| *name == "location").map(|(_, value)| value.to_owned())
}

/// The status of an execution whose response has expired, and the path of what it created or refunded. They are read from
/// the operation's table, which outlives the stored response.
async fn executed_before(
    conn: &mut PgConnection,
    account_id: AccountId,
    operation: &str,
    execution_id: ExecutionId,
) -> Result<Option<(StatusCode, Option<String>)>, sqlx::Error> {
    const PAY: &str = CreatePayment::OPERATION.as_str();
    const REFUND: &str = CreateRefund::OPERATION.as_str();
    const CREATE_ENDPOINT: &str = CreateEndpoint::OPERATION.as_str();
    const ROTATE: &str = RotateSecret::OPERATION.as_str();
    const REPLAY: &str = ReplayEvents::OPERATION.as_str();
    let id = Uuid::from(execution_id);
    let payment = match operation {
        PAY => payments::created_by(conn, account_id, execution_id).await?,
        REFUND => refunds::payment_of(conn, account_id, id.into()).await?,
        CREATE_ENDPOINT => {
            let endpoint = shown::find(conn, account_id, id.into()).await?;
            let resource = endpoint.map(|found| webhooks::command::location(found.endpoint_id));
            return Ok(Some((StatusCode::CREATED, resource)));
        }
        ROTATE | REPLAY => return Ok(Some((StatusCode::OK, None))),
        _ => None,
    };
    Ok(payment.map(|payment| (StatusCode::CREATED, Some(location(payment)))))
}
