//! The log lines of an exchange: one for each problem and, where that is asked for, one for each request.

use std::time::Instant;

use actix_web::{dev::ServiceResponse, http::header::HeaderName};
use log::{Level, Record, kv::Value, log_enabled};

use super::{RequestContext, middleware::X_REQUEST_ID};
use crate::{
    logs,
    metrics::{KeyedOutcome, method_label},
};

/// The target of a line for each request: `RUST_LOG=info,payonce::request=debug`.
const REQUEST: &str = "payonce::request";

/// The target of a line for each problem.
const PROBLEM: &str = "payonce::problem";

/// Logs what became of a request. Where nothing of it is logged, nothing is done for it.
///
/// All its lines have one `request_id`: the UUID in the `instance` of its problem, where it has one.
pub(super) fn write(response: &ServiceResponse, context: &RequestContext, began: Instant) {
    let RequestContext { account_id, key, outcome, problem, .. } = context;
    let status = response.status().as_u16();
    let level = match status {
        500 => Level::Error,
        501.. => Level::Warn,
        _ => Level::Info,
    };
    let problem = problem.as_ref();
    let logged = problem.filter(|problem| {
        // Clients cause the others.
        log_enabled!(target: PROBLEM, level) && (status >= 500 || logs::admit(problem.code))
    });
    let every_request = log_enabled!(target: REQUEST, Level::Debug);
    if logged.is_none() && !every_request {
        return;
    }
    let (request, headers) = (response.request(), response.headers());
    let text = |name: HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let request_id = problem.map_or(context.id, |problem| problem.instance);
    let route = request.match_pattern();
    let key_hash = key.as_ref().zip(*account_id).map(|((key, _), account)| key.hash_in(account));
    // A request with a missing or invalid key has no outcome.
    let outcome = outcome
        .map(KeyedOutcome::as_str)
        .or_else(|| problem?.code.strip_prefix("idempotency-key-"));
    let fields = [
        ("method", Some(Value::from(method_label(request.method())))),
        ("route", Some(Value::from(route.as_deref().unwrap_or("(no route)")))),
        ("status", Some(Value::from(status))),
        ("elapsed_ms", Some(Value::from(milliseconds(began)))),
        ("outcome", outcome.map(Value::from)),
        ("request_id", Some(Value::from_display(&request_id))),
        ("client_request_id", text(X_REQUEST_ID).map(Value::from)),
        ("account_id", account_id.as_ref().map(Value::from_display)),
        ("key_hash", key_hash.as_deref().map(Value::from)),
        ("cause", problem.and_then(|problem| problem.cause.as_deref()).map(Value::from)),
    ];
    let fields: Vec<_> =
        fields.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    if let Some(problem) = logged {
        line(level, PROBLEM, problem.code, &fields);
    }
    if every_request {
        line(Level::Debug, REQUEST, "answered", &fields);
    }
}

fn line(level: Level, target: &str, message: &str, fields: &[(&str, Value<'_>)]) {
    log::logger().log(
        &Record::builder()
            .level(level)
            .target(target)
            .module_path_static(Some(module_path!()))
            .args(format_args!("{message}"))
            .key_values(&fields)
            .build(),
    );
}

/// To the microsecond.
fn milliseconds(began: Instant) -> f64 {
    (began.elapsed().as_secs_f64() * 1e6).round() / 1e3
}
