//! `GET /idempotency-policy`: the rules for keys at this server, for programs.

use std::{collections::BTreeMap, time::Duration};

use actix_web::{
    HttpResponse,
    http::{StatusCode, header},
    web,
};
use serde::{Serialize, Serializer};

use crate::{
    config::{Settings, Ttl},
    http::{
        idempotent::ReplayStatus,
        problem::{Kind, Retry},
    },
    idempotency::IdempotencyKey,
    state::AppState,
};

/// The rules for keys that follow from this server's settings.
#[derive(Debug, Clone, Serialize)]
pub struct IdempotencyPolicy {
    key_header: &'static str,
    key_forms: [&'static str; 2],
    key_min_length: usize,
    key_max_length: usize,
    key_characters: &'static str,
    bare_key_characters: &'static str,
    scope: &'static str,
    shared_by_operations: bool,
    compared: [&'static str; 3],
    not_compared: [&'static str; 4],
    responses_replayable_seconds: Option<Seconds>,
    keys_kept_seconds: Option<Seconds>,
    replay_header: &'static str,
    replay_status_of_201: u16,
    in_flight_wait_seconds: Seconds,
    request_deadline_seconds: Seconds,
    max_body_bytes: u32,
    /// The statuses of the problems with each `retry`.
    retry: BTreeMap<Retry, Vec<u16>>,
    detail: String,
}

/// A time in seconds, as a whole number if possible.
#[derive(Debug, Clone, Copy)]
struct Seconds(Duration);

impl Serialize for Seconds {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.subsec_nanos() == 0 {
            serializer.serialize_u64(self.0.as_secs())
        } else {
            serializer.serialize_f64(self.0.as_secs_f64())
        }
    }
}

impl IdempotencyPolicy {
    /// The policy of these settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let Settings { idempotency_response_ttl: responses, idempotency_key_ttl: keys, .. } =
            *settings;
        Self {
            key_header: "Idempotency-Key",
            key_forms: ["structured_field_string", "bare"],
            key_min_length: 1,
            key_max_length: IdempotencyKey::MAX_LENGTH,
            key_characters: "[ -~]",
            bare_key_characters: r"[!#-+\--:<-~]",
            scope: "account",
            shared_by_operations: true,
            compared: ["operation", "path_parameters", "members"],
            not_compared: ["white_space", "member_order", "escapes", "other_headers"],
            responses_replayable_seconds: responses.0.map(Seconds),
            keys_kept_seconds: keys.0.map(Seconds),
            replay_header: "Idempotent-Replayed",
            replay_status_of_201: match settings.idempotency_replay_status {
                ReplayStatus::Ok => 200,
                ReplayStatus::Original => 201,
            },
            in_flight_wait_seconds: Seconds(settings.in_flight_wait),
            request_deadline_seconds: Seconds(settings.request_deadline),
            max_body_bytes: settings.body_limit,
            retry: statuses_by_retry(),
            detail: detail(responses, keys),
        }
    }
}

fn statuses_by_retry() -> BTreeMap<Retry, Vec<u16>> {
    let mut statuses = BTreeMap::<Retry, Vec<u16>>::new();
    for entry in Kind::ALL.map(Kind::entry) {
        statuses.entry(entry.retry).or_default().push(entry.status.as_u16());
    }
    // A refund of a payment that does not exist: stored, or refused for an id that is not a UUID.
    for retry in [Retry::NewKey, Retry::CorrectedRequest] {
        statuses.entry(retry).or_default().push(StatusCode::NOT_FOUND.as_u16());
    }
    for statuses in statuses.values_mut() {
        statuses.sort_unstable();
        statuses.dedup();
    }
    statuses
}

fn detail(responses: Ttl, keys: Ttl) -> String {
    let most = IdempotencyKey::MAX_LENGTH;
    let replayable = match responses.0 {
        Some(_) => format!(
            "Successful responses can be replayed for {responses}. After that, the same request gets 410 and is not executed \
             again."
        ),
        None => "Successful responses can be replayed permanently.".to_owned(),
    };
    let kept = match keys.0 {
        Some(_) => format!(
            "A used key is kept for {keys}, with its refusal if there is one, and counts as new after that."
        ),
        None => "A used key is kept permanently, with its refusal if there is one.".to_owned(),
    };
    format!(
        "Send 1 to {most} printable ASCII characters in Idempotency-Key: in double quotes, or bare without space, comma, \
         semicolon and double quote. Create a new random key for each new request, and send the same key with each \
         retry. {replayable} {kept} After no response, or a 5xx, 408, 409 or 429, send the unchanged request again with \
         the same key, after Retry-After."
    )
}

/// `GET /idempotency-policy`.
pub async fn show(state: web::Data<AppState>) -> HttpResponse {
    HttpResponse::Ok().insert_header((header::CACHE_CONTROL, "no-store")).json(&state.policy)
}
