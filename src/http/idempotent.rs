//! Idempotent requests: the checks that every request with an idempotency key passes, in their order, and its
//! response.

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::LocalBoxFuture;
use log::debug;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{
    RequestContext,
    problem::{Kind, Problem, Report},
    query,
};
use crate::{
    accounts::Caller,
    idempotency::{
        BatchCommand, Failure, IdempotencyKey, Outcome, Record, Response,
        actix::{self, IDEMPOTENCY_KEY, KeyError},
    },
    metrics::KeyedOutcome,
    state::AppState,
};

/// The status of a replayed `201`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReplayStatus {
    /// `200 OK`, since the retry created nothing.
    #[default]
    Ok,
    /// `201 Created`, as the first response.
    Original,
}

/// A request with an idempotency key whose caller, media type, size, key and query are valid.
#[derive(Debug)]
pub struct IdempotentRequest {
    request: HttpRequest,
    caller: Caller,
    key: IdempotencyKey,
    body: Bytes,
}

impl FromRequest for IdempotentRequest {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let caller = Caller::from_request(req, payload);
        let req = req.clone();
        Box::pin(async move { Self::read(req, caller.await) })
    }
}

impl IdempotentRequest {
    fn read(request: HttpRequest, caller: Result<Caller, Problem>) -> Result<Self, Problem> {
        let key = read_key(&request);
        // First, because every response echoes a valid key.
        if let Ok(key) = &key {
            RequestContext::update(&request, |context| context.key = Some(key.clone()));
        }
        let caller = caller?;
        let body = if request.method().is_safe() {
            Bytes::new()
        } else {
            let body = RequestContext::body(&request);
            check_media_type(&request, body.as_ref().is_ok_and(Bytes::is_empty))?;
            body?
        };
        let (key, _) = key?;
        refuse_query(&request)?;
        Ok(Self { request, caller, key, body })
    }

    /// Executes the command that `read` finds in the body, exactly once, and returns its response. `location` is
    /// the path of what an execution created.
    ///
    /// # Errors
    /// The problem of `read`, of the key, or of the database.
    pub async fn execute<C: BatchCommand>(
        self,
        state: &AppState,
        read: impl FnOnce(&[u8]) -> Result<C, Problem>,
        location: impl FnOnce(Uuid) -> String,
    ) -> Result<HttpResponse, Problem> {
        let command = read(&self.body)?;
        self.execute_revealing(state, command, location, Ok).await
    }

    /// Executes a command whose stored response has a secret in an encrypted form. `reveal` decrypts it in each
    /// response that is sent, so that the database never has it in clear text.
    ///
    /// # Errors
    /// The problem of the key, of the database, or of `reveal`.
    pub async fn execute_revealing<C: BatchCommand>(
        self,
        state: &AppState,
        command: C,
        location: impl FnOnce(Uuid) -> String,
        reveal: impl FnOnce(Response) -> Result<Response, Problem>,
    ) -> Result<HttpResponse, Problem> {
        let Caller { account_id } = self.caller;
        let result = state.engine.submit(account_id, self.key.clone(), command).await;
        self.note_outcome(&result);
        match result? {
            Outcome::New { response, replayable_until, .. } => {
                Ok(self.respond(&reveal(response)?, replayable_until, false))
            }
            Outcome::Replay { execution_id, response, replayable_until } => {
                // The specification of the service asks for this wording. There is no cache.
                debug!(
                    "Cached response: {} {execution_id}, status {}",
                    C::OPERATION,
                    response.status()
                );
                let mut replay = self.respond(&reveal(response)?, replayable_until, true);
                if replay.status() == StatusCode::CREATED && state.replay_status == ReplayStatus::Ok
                {
                    *replay.status_mut() = StatusCode::OK;
                }
                Ok(replay)
            }
            Outcome::Reused { fields } => Err(Problem::new(Kind::KeyReused).with_members(fields)),
            Outcome::Expired { execution_id } => {
                let location = HeaderValue::try_from(location(execution_id))
                    .map_err(|error| Problem::new(Kind::Internal).caused_by(error))?;
                Err(Problem::new(Kind::KeyExpired).with_header(header::LOCATION, location))
            }
            Outcome::Voided => Err(Kind::KeyVoided.into()),
            Outcome::InFlight => Err(Kind::KeyInFlight.into()),
        }
    }

    /// Refuses the request, unless its key was used. A reason that depends on more than the request itself, such as a
    /// name that no longer resolves, must not keep a retry from its stored response.
    ///
    /// # Errors
    /// `problem`, if the key is unused, or the problem of the database.
    pub async fn refuse_unless_used(
        &self,
        state: &AppState,
        problem: Problem,
    ) -> Result<(), Problem> {
        let account_id = self.caller.account_id;
        let find = async |conn: &mut PgConnection| {
            let key = self.key.clone();
            Ok(Record::find(conn, account_id, key, state.key_ttl).await?)
        };
        state.reads.run_for(account_id, find).await?.map(drop).ok_or(problem)
    }

    /// Keeps the outcome for the log.
    pub fn note_outcome(&self, result: &Result<Outcome, Failure>) {
        let outcome = KeyedOutcome::of(result);
        RequestContext::update(&self.request, |context| context.outcome = Some(outcome));
    }

    /// The caller.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// The key.
    #[must_use]
    pub fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// The body; empty if there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }

    /// A stored response, as it is sent. If it is a refusal, the log reports its problem.
    fn respond(
        &self,
        stored: &Response,
        replayable_until: Option<DateTime<Utc>>,
        replayed: bool,
    ) -> HttpResponse {
        let refusal = Report::stored(stored);
        RequestContext::update(&self.request, |context| context.problem = refusal);
        actix::stored(stored, replayable_until, replayed)
    }
}

/// The key, and the value of its header.
fn read_key(req: &HttpRequest) -> Result<(IdempotencyKey, HeaderValue), Problem> {
    let key = IdempotencyKey::extract(req).into_inner().map_err(|error| match error {
        KeyError::Missing => Problem::new(Kind::KeyMissing),
        KeyError::Repeated => Problem::new(Kind::KeyInvalid)
            .with_detail("Send one Idempotency-Key header, not several."),
        KeyError::Invalid(invalid) => Problem::new(Kind::KeyInvalid).with_message(&invalid),
    })?;
    let value = req.headers().get(IDEMPOTENCY_KEY).ok_or(Kind::KeyMissing)?;
    Ok((key, value.clone()))
}

/// A query on a request that changes something is the client's mistake: an amount there would be ignored.
pub(super) fn refuse_query(req: &HttpRequest) -> Result<(), Problem> {
    if req.method().is_safe() {
        return Ok(());
    }
    query::read(req.query_string())?.finish(Some(()))
}

/// Accepts one `application/json` in UTF-8, without encoding. An empty body needs no type.
pub(super) fn check_media_type(req: &HttpRequest, empty: bool) -> Result<(), Problem> {
    let refuse =
        |detail: &'static str| Err(Problem::new(Kind::UnsupportedMediaType).with_detail(detail));
    if req.headers().contains_key(header::CONTENT_ENCODING) {
        return refuse("Send the body as it is, without Content-Encoding.");
    }
    let mut types = req.headers().get_all(header::CONTENT_TYPE);
    match (types.next(), types.next()) {
        (None, _) if empty => Ok(()),
        (Some(value), None) if value.to_str().is_ok_and(is_json) => Ok(()),
        (_, Some(_)) => refuse("Send one Content-Type header, not several."),
        _ => refuse("Send Content-Type: application/json, in UTF-8."),
    }
}

fn is_json(content_type: &str) -> bool {
    // The usual value, without parsing.
    if content_type == "application/json" {
        return true;
    }
    let Ok(parsed) = content_type.parse::<actix_web::mime::Mime>() else { return false };
    let mut parameters = parsed.params();
    parsed.essence_str() == "application/json"
        && parameters.next().is_none_or(|(name, value)| name == "charset" && value == "utf-8")
        && parameters.next().is_none()
}
