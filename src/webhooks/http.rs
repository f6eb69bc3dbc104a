//! The HTTP API of webhook endpoints.

use std::{ops::AsyncFn, str::FromStr};

use actix_web::{
    HttpResponse,
    http::header::{self, HeaderValue},
    web,
};
use serde::Serialize;
use sqlx::PgConnection;
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Refusal,
    body::{Changes, NewEndpoint, read_replay},
    command::{CreateEndpoint, ReplayEvents, RotateSecret, location, reveal},
    owner::{self, NotKept},
    secrets::{Keyring, Secret},
    shown,
};
use crate::{
    accounts::Caller,
    http::{
        idempotent::IdempotentRequest,
        json::{Fields, wrong_field},
        problem::{Kind, Problem, Retry},
        repeatable::RepeatableRequest,
    },
    idempotency::{BatchCommand, Response},
    ids::{AccountId, EndpointId},
    state::AppState,
};

/// The detail when a change may or may not have been made.
const UNKNOWN_CHANGE: &str = "The change may or may not have been made. Send the same request again after Retry-After: \
                              sent twice, it does the same as once.";

/// `POST /webhook-endpoint`: creates an endpoint, once.
///
/// # Errors
/// The problems of an idempotent request; `invalid-webhook-endpoint`, `webhooks-not-configured`.
pub async fn create(
    request: IdempotentRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let new = NewEndpoint::read(request.body())?;
    if let Err(problem) = permit(&state, &new.url).await {
        request.refuse_unless_used(&state, problem).await?;
    }
    execute_with_secret(
        request,
        &state,
        |secret, keyring| CreateEndpoint { new, secret, keyring },
        None,
    )
    .await
}

/// `POST /webhook-endpoint/{endpoint_id}/rotate`: replaces the signing secret, once.
///
/// # Errors
/// The problems of an idempotent request; `not-found`, `webhooks-not-configured`.
pub async fn rotate(
    request: IdempotentRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let endpoint_id = keyed(&path)?;
    read_nothing(request.body())?;
    let command = |secret, keyring| RotateSecret { endpoint_id, secret, keyring };
    execute_with_secret(request, &state, command, Some(endpoint_id)).await
}

/// `POST /webhook-endpoint/{endpoint_id}/replay`: sends events once more.
///
/// # Errors
/// The problems of an idempotent request; `invalid-webhook-endpoint`, `not-found`.
pub async fn replay(
    request: IdempotentRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let endpoint_id = keyed(&path)?;
    let range = read_replay(request.body())?;
    let Caller { account_id } = request.caller();
    let check = async |conn: &mut PgConnection| owner::check_kept(conn, account_id, range).await;
    if let Err(NotKept { field, expected }) = state.reads.run_for(account_id, check).await? {
        let problem = wrong_field(Kind::InvalidWebhookEndpoint, field, expected);
        request.refuse_unless_used(&state, problem).await?;
    }
    let command = ReplayEvents { endpoint_id, range };
    request.execute(&state, |_| Ok(command), |_| location(endpoint_id)).await
}

/// `GET /webhook-endpoint`: all endpoints of the account.
///
/// # Errors
/// `database-unavailable`.
pub async fn list(
    Caller { account_id }: Caller,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let read = async |conn: &mut PgConnection| shown::list(conn, account_id).await;
    Ok(fresh(state.reads.run_for(account_id, read).await?))
}

/// `GET /webhook-endpoint/{endpoint_id}`: an endpoint, and how its delivery goes.
///
/// # Errors
/// `not-found`, also for an id that is not a UUID; `database-unavailable`.
pub async fn show(
    Caller { account_id }: Caller,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let endpoint_id = EndpointId::from_str(&path).map_err(|_| Kind::NotFound)?;
    let read = async |conn: &mut PgConnection| shown::find(conn, account_id, endpoint_id).await;
    Ok(fresh(state.reads.run_for(account_id, read).await?.ok_or(Kind::NotFound)?))
}

/// `PATCH /webhook-endpoint/{endpoint_id}`: changes the fields in the body.
///
/// # Errors
/// `invalid-webhook-endpoint`, `not-found`, `outcome-unknown`.
pub async fn change(
    RepeatableRequest { caller, body }: RepeatableRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let endpoint_id = EndpointId::from_str(&path).map_err(|_| Kind::NotFound)?;
    let Caller { account_id } = caller;
    let changes = Changes::read(&body)?;
    if let Some(url) = &changes.url {
        permit(&state, url).await?;
    }
    let change = async |conn: &mut PgConnection| {
        owner::change(conn, account_id, endpoint_id, &changes).await?;
        shown::find(conn, account_id, endpoint_id).await
    };
    Ok(fresh(run_change(&state, account_id, change).await?.ok_or(Kind::NotFound)?))
}

/// `DELETE /webhook-endpoint/{endpoint_id}`: deletes an endpoint.
///
/// # Errors
/// `not-found`, `outcome-unknown`.
pub async fn delete(
    RepeatableRequest { caller, .. }: RepeatableRequest,
    path: web::Path<String>,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    let endpoint_id = EndpointId::from_str(&path).map_err(|_| Kind::NotFound)?;
    let Caller { account_id } = caller;
    let delete = async |conn: &mut PgConnection| owner::delete(conn, account_id, endpoint_id).await;
    if run_change(&state, account_id, delete).await? {
        Ok(HttpResponse::NoContent().insert_header((header::CACHE_CONTROL, "no-store")).finish())
    } else {
        Err(Kind::NotFound.into())
    }
}

/// The id in the path of a keyed request. One that is not a UUID is refused before the key is used.
fn keyed(path: &str) -> Result<EndpointId, Problem> {
    EndpointId::from_str(path).map_err(|_| {
        Problem::new(Kind::NotFound).with_retry(Retry::CorrectedRequest).with_detail(
            "The id in the path is not a UUID, so no webhook endpoint has it. This request has not used the key: send a \
             corrected one with the same key.",
        )
    })
}

/// A rotation has no fields.
fn read_nothing(body: &[u8]) -> Result<(), Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    let expected = "an empty JSON object, or no body at all";
    Fields::read(body, Kind::InvalidWebhookEndpoint, expected)?.finish(Some(()))
}

/// Checks that webhooks may be sent to a URL. It takes a part of the request's time to look up the host.
async fn permit(state: &AppState, url: &str) -> Result<(), Problem> {
    let checked = timeout(state.request_deadline / 2, state.guard.check(url)).await;
    let checked = checked.unwrap_or(Err(Refusal::Unresolvable));
    checked
        .map(drop)
        .map_err(|refusal| wrong_field(Kind::InvalidWebhookEndpoint, "url", refusal.to_string()))
}

/// Executes a command with a new secret. `existing` is its endpoint, if it does not create one.
async fn execute_with_secret<C: BatchCommand>(
    request: IdempotentRequest,
    state: &AppState,
    command: impl FnOnce(Secret, Keyring) -> C,
    existing: Option<EndpointId>,
) -> Result<HttpResponse, Problem> {
    let keyring = state.keyring.clone().ok_or(Kind::WebhooksNotConfigured)?;
    let secret =
        Secret::generate().map_err(|error| Problem::new(Kind::Internal).caused_by(error))?;
    let Caller { account_id } = request.caller();
    let command = command(secret, keyring.clone());
    let location = |id: Uuid| location(existing.unwrap_or(id.into()));
    let reveal = |stored| decrypted(&keyring, account_id, stored);
    request.execute_revealing(state, command, location, reveal).await
}

/// The response with its secret. Without the key, it is lost like an expired response.
fn decrypted(
    keyring: &Keyring,
    account_id: AccountId,
    stored: Response,
) -> Result<Response, Problem> {
    let location = stored.headers().find(|(name, _)| *name == "location");
    let location = location.and_then(|(_, value)| HeaderValue::from_str(value).ok());
    reveal(keyring, account_id, stored).map_err(|error| {
        let problem = Problem::new(Kind::KeyExpired).caused_by(error).with_detail(
            "The request was executed once, and is never executed again. The signing secret in its response cannot be \
             decrypted, because the server's WEBHOOK_SECRET was replaced. Location is the endpoint: rotate its secret \
             with a new key (POST …/rotate) to get another.",
        );
        match location {
            Some(location) => problem.with_header(header::LOCATION, location),
            None => problem,
        }
    })
}

/// Runs a change that is one statement. If the database does not answer, its outcome is unknown.
async fn run_change<T>(
    state: &AppState,
    account_id: AccountId,
    change: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
) -> Result<T, Problem> {
    state.reads.run_for(account_id, change).await.map_err(|problem| match problem.kind() {
        Kind::DatabaseUnavailable => {
            Problem::new(Kind::OutcomeUnknown).with_detail(UNKNOWN_CHANGE).caused_by(problem)
        }
        _ => problem,
    })
}

/// A response that caches do not store.
fn fresh(read: impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(read)
}
