//! What every keyed request goes through: who is calling, media type and size, the key, the body, and
//! then the key's place in the database. The URL table and the exchange around all requests come before.

use std::{
    future::{Ready, ready},
    time::Duration,
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse, ResponseError,
    dev::Payload,
    http::{
        StatusCode,
        header::{self, HeaderValue},
    },
};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures_util::future::{Either, LocalBoxFuture};
use log::debug;
use uuid::Uuid;

use crate::{
    accounts::Caller,
    http::{
        middleware::{CameTo, Exchange},
        problem::{Kind, Problem, Reported},
        query,
    },
    idempotency::{
        BatchCommand, Engine, IdempotencyKey, Operation, Outcome, Response,
        actix::{self, IDEMPOTENCY_KEY, KeyError},
    },
    metrics::KeyedOutcome,
};

/// With what status a stored `201` is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum ReplayStatus {
    /// `200 OK`, since the request that is answered created nothing.
    #[default]
    Ok,
    /// `201 Created`, as the first answer.
    Original,
}

/// What answers keyed requests.
#[derive(Clone)]
pub struct Keyed {
    /// Who executes them.
    pub engine: Engine,
    /// How replays show.
    pub replay_status: ReplayStatus,
    /// How long keys are kept; `None`: for ever.
    pub key_ttl: Option<Duration>,
    /// When a request is answered at the latest.
    pub request_deadline: Duration,
}

/// A request that has passed everything up to the validity of its body.
#[derive(Debug)]
pub struct KeyedRequest {
    caller: Caller,
    key: IdempotencyKey,
    /// The key as it came, to be echoed.
    field_value: HeaderValue,
    body: Bytes,
}

impl FromRequest for KeyedRequest {
    type Error = Problem;
    type Future =
        Either<Ready<Result<Self, Problem>>, LocalBoxFuture<'static, Result<Self, Problem>>>;

    fn from_request(req: &HttpRequest, payload: &mut Payload) -> Self::Future {
        match Caller::from_request(req, payload) {
            Either::Left(caller) => Either::Left(ready(Self::read(req, caller.into_inner()))),
            Either::Right(caller) => {
                let req = req.clone();
                Either::Right(Box::pin(async move { Self::read(&req, caller.await) }))
            }
        }
    }
}

impl KeyedRequest {
    fn read(req: &HttpRequest, caller: Result<Caller, Problem>) -> Result<Self, Problem> {
        let key = read_key(req);
        let accepted = caller.and_then(|caller| {
            if req.method().is_safe() {
                return Ok((caller, Bytes::new()));
            }
            let body = Exchange::body(req);
            check_media_type(req, body.as_ref().is_ok_and(Bytes::is_empty))?;
            Ok((caller, body?))
        });
        match (accepted, key) {
            (Ok((caller, body)), Ok((key, field_value))) => match refuse_query(req) {
                Ok(()) => Ok(Self { caller, key, field_value, body }),
                Err(problem) => Err(problem.with_header(IDEMPOTENCY_KEY, field_value)),
            },
            (Err(problem), Ok((_, field_value))) => {
                Err(problem.with_header(IDEMPOTENCY_KEY, field_value))
            }
            (Err(problem), Err(_)) | (Ok(_), Err(problem)) => Err(problem),
        }
    }

    /// Reads the command from the body, has it executed once, and answers. `location` is where the
    /// thing can be found that an execution made.
    pub async fn answer<C: BatchCommand>(
        self,
        keyed: &Keyed,
        read: impl FnOnce(&[u8]) -> Result<C, Problem>,
        location: impl FnOnce(Uuid) -> String,
    ) -> HttpResponse {
        let Caller { account_id } = self.caller;
        let command = match read(&self.body) {
            Ok(command) => command,
            Err(problem) => return echoing(self.field_value, Err(problem)),
        };
        let heard = keyed.engine.submit(account_id, self.key, command).await;
        let came_to = CameTo(KeyedOutcome::of(&heard));
        let answered = heard
            .map_err(Problem::from)
            .and_then(|outcome| keyed.respond(C::OPERATION, outcome, location));
        let mut response = echoing(self.field_value, answered);
        response.extensions_mut().insert(came_to);
        response
    }

    /// Answers, with the key as it came.
    #[must_use]
    pub fn reply(self, answered: Result<HttpResponse, Problem>) -> HttpResponse {
        echoing(self.field_value, answered)
    }

    /// Who sent it.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller
    }

    /// Its key.
    #[must_use]
    pub fn key(&self) -> &IdempotencyKey {
        &self.key
    }

    /// Its body; empty where there is none.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        &self.body
    }
}

/// An answer with the key as it came.
fn echoing(field_value: HeaderValue, answered: Result<HttpResponse, Problem>) -> HttpResponse {
    let mut response = answered.unwrap_or_else(|problem| problem.error_response());
    response.headers_mut().insert(IDEMPOTENCY_KEY, field_value);
    response
}

impl Keyed {
    fn respond(
        &self,
        operation: Operation,
        outcome: Outcome,
        location: impl FnOnce(Uuid) -> String,
    ) -> Result<HttpResponse, Problem> {
        match outcome {
            Outcome::New { response, replayable_until, .. } => {
                Ok(stored(&response, replayable_until, false))
            }
            Outcome::Replay { execution_id, response, replayable_until } => {
                debug!("Cached response: {operation} {execution_id}, status {}", response.status());
                let mut answer = stored(&response, replayable_until, true);
                if answer.status() == StatusCode::CREATED && self.replay_status == ReplayStatus::Ok
                {
                    *answer.status_mut() = StatusCode::OK;
                }
                Ok(answer)
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
}

/// A stored response as it is sent, with its problem for the log where it is a refusal.
fn stored(
    response: &Response,
    replayable_until: Option<DateTime<Utc>>,
    replayed: bool,
) -> HttpResponse {
    let mut answer = actix::stored(response, replayable_until, replayed);
    if let Some(refusal) = Reported::stored(response) {
        answer.extensions_mut().insert(refusal);
    }
    answer
}

/// The key, and the header's value as it came.
fn read_key(req: &HttpRequest) -> Result<(IdempotencyKey, HeaderValue), Problem> {
    let key = IdempotencyKey::extract(req).into_inner().map_err(|error| match error {
        KeyError::Missing => Problem::new(Kind::KeyMissing),
        KeyError::Repeated => Problem::new(Kind::KeyInvalid)
            .with_detail("Send one Idempotency-Key header, not several."),
        KeyError::Invalid(invalid) => Problem::new(Kind::KeyInvalid).with_message(&invalid),
    })?;
    let field_value = req.headers().get(IDEMPOTENCY_KEY).ok_or(Kind::KeyMissing)?;
    Ok((key, field_value.clone()))
}

/// A `POST` takes no query parameters: a client that puts an amount there means it.
fn refuse_query(req: &HttpRequest) -> Result<(), Problem> {
    if req.method().is_safe() {
        return Ok(());
    }
    query::read(req.query_string())?.finish(Some(()))
}

/// `application/json`, said once, in UTF-8 where it says a charset, and as it is. Nothing needs no type.
fn check_media_type(req: &HttpRequest, empty: bool) -> Result<(), Problem> {
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
    // By far the most frequent, and nothing to be parsed.
    if content_type == "application/json" {
        return true;
    }
    let Ok(parsed) = content_type.parse::<actix_web::mime::Mime>() else { return false };
    let mut parameters = parsed.params();
    parsed.essence_str() == "application/json"
        && parameters.next().is_none_or(|(name, value)| name == "charset" && value == "utf-8")
        && parameters.next().is_none()
}
