//! Operations: one for each route of [`routes`](crate::routes) and method but HEAD.

use serde_json::{Map, Value, json};

use super::{
    parameters,
    responses::{
        self,
        Content::{self, Json},
        Success,
    },
};
use crate::{http::problem::Kind, routes::DESCRIBED};

/// An operation, in the folder of its feature.
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) tag: &'static str,
    pub(crate) id: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    /// Names in `parameters`; every operation has `X-Request-Id`.
    pub(crate) parameters: &'static [&'static str],
    pub(crate) body: Body,
    pub(crate) successes: &'static [Success],
    pub(crate) problems: &'static [&'static [Kind]],
}

/// A request body, by the name of its schema.
pub(crate) enum Body {
    None,
    Optional(&'static str),
    Required(&'static str),
}

/// Problems of operations that authenticate their caller.
pub(crate) const CALLED: &[Kind] = &[Kind::Unauthorized, Kind::Internal, Kind::DatabaseUnavailable];

/// Problems of operations that read.
pub(crate) const READ: &[Kind] = &[Kind::TooManyRequests];

/// Problems of operations with a key.
pub(crate) const KEYED: &[Kind] = &[Kind::KeyMissing, Kind::KeyInvalid];

/// Problems of operations that use the key.
pub(crate) const COMMITTED: &[Kind] = &[
    Kind::InvalidQuery,
    Kind::MalformedJson,
    Kind::RequestTimeout,
    Kind::KeyInFlight,
    Kind::BodyTooLarge,
    Kind::UnsupportedMediaType,
    Kind::TooManyRequests,
    Kind::Overloaded,
    Kind::NotExecuted,
    Kind::OutcomeUnknown,
];

/// Problems of operations that execute a command.
pub(crate) const EXECUTED: &[Kind] = &[Kind::KeyExpired, Kind::KeyVoided, Kind::KeyReused];

pub(crate) const EXECUTED_HEADERS: &[&str] =
    &["Idempotency-Key", "Idempotent-Replayed", "Idempotency-Key-Expires?", "Location"];

/// The response to a retry.
pub(crate) const fn replay(schema: &'static str) -> Success {
    let means = "A retry: the stored response, byte for byte.";
    Success { status: 200, means, content: Json(schema), headers: EXECUTED_HEADERS }
}

/// The response to the request that is executed.
pub(crate) const fn created(schema: &'static str) -> Success {
    let means =
        "Executed. Also the status of retries if `IDEMPOTENCY_REPLAY_STATUS` is `original`.";
    Success { status: 201, means, content: Json(schema), headers: EXECUTED_HEADERS }
}

/// The response to a question.
pub(crate) const fn ok(
    means: &'static str,
    content: Content,
    headers: &'static [&'static str],
) -> Success {
    Success { status: 200, means, content, headers }
}

impl Operation {
    fn described(&self) -> Value {
        let kinds = || self.problems.iter().copied().flatten().copied();
        let authenticated = kinds().any(|kind| kind == Kind::Unauthorized);
        let security = match self.path {
            "/metrics" => json!([{}, { "metrics_token": [] }]),
            _ if authenticated => json!([{}, { "api_key": [] }]),
            _ => json!([]),
        };
        let keyed = self.parameters.contains(&"IdempotencyKey");
        let parameters: Vec<Value> = self
            .parameters
            .iter()
            .chain(&["RequestId"])
            .map(|name| parameters::reference(name))
            .collect();
        let mut responses: Map<String, Value> = self
            .successes
            .iter()
            .map(|success| (success.status.to_string(), success.described()))
            .collect();
        responses.append(&mut responses::problems(self.tag, kinds(), keyed));
        responses.insert("405".to_owned(), responses::method_not_allowed());
        let body = match self.body {
            Body::None => None,
            Body::Optional(schema) => Some((schema, false)),
            Body::Required(schema) => Some((schema, true)),
        };
        let described = [
            ("operationId", Some(json!(self.id))),
            ("tags", Some(json!([self.tag]))),
            ("summary", Some(json!(self.summary))),
            ("description", Some(json!(self.description))),
            ("security", Some(security)),
            ("parameters", Some(json!(parameters))),
            ("requestBody", body.map(|(schema, required)| {
                json!({ "required": required, "content": responses::json(schema) })
            })),
            ("responses", Some(json!(responses))),
        ];
        described.into_iter().filter_map(|(name, said)| Some((name, said?))).collect()
    }
}

/// The operations by path and method.
pub(super) fn paths() -> Value {
    let mut paths = Map::<String, Value>::new();
    for operation in DESCRIBED.iter().flat_map(|part| part.operations) {
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        if let Value::Object(methods) = methods {
            methods.insert(operation.method.to_owned(), operation.described());
        }
    }
    paths.into()
}
