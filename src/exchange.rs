//! What every exchange goes through, whatever its route: the body is read, `X-Request-Id` echoed,
//! problems and requests are logged.

use std::time::{Duration, Instant};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::header::{HeaderName, HeaderValue},
    middleware::Next,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use log::{Level, debug, log, log_enabled};
use tokio::time::timeout;

use crate::{
    metrics::Requests,
    problem::{Kind, Problem, Reported},
};

/// Twenty times what a payment takes.
const BODY_LIMIT: usize = 16 * 1024;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The log target of a line for each request: `RUST_LOG=info,payonce::request=debug`.
const REQUEST_TARGET: &str = "payonce::request";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request's body, whole, or why there is none.
#[derive(Debug, Clone)]
pub struct Body(Result<Bytes, Kind>);

impl Body {
    /// The body of this request.
    ///
    /// # Errors
    /// When it was too large, or didn't come to its end.
    pub fn of(req: &HttpRequest) -> Result<Bytes, Problem> {
        let extensions = req.extensions();
        let Some(Self(body)) = extensions.get() else { return Ok(Bytes::new()) };
        body.clone().map_err(Problem::new)
    }
}

/// The middleware.
///
/// The body is read before anything else is looked at, so that a request which is refused early
/// leaves the connection where the next request begins.
///
/// # Errors
/// Those of what it wraps.
pub async fn exchange<B: MessageBody>(
    mut req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let began = Instant::now();
    let request_id = request_id(&req);
    match req.take_payload() {
        Payload::None => {}
        payload => {
            let body = read(payload).await;
            req.extensions_mut().insert(Body(body));
        }
    }
    let mut response = next.call(req).await?;
    let route = response.request().match_pattern();
    if let Some(requests) = response.request().app_data::<Requests>() {
        let (method, status) = (response.request().method(), response.status().as_u16());
        requests.count(route.as_deref(), method, status, began.elapsed());
    }
    let route = route.as_deref().unwrap_or("(no route)");
    let id = request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
    report(&response, route, id);
    if log_enabled!(target: REQUEST_TARGET, Level::Debug) {
        let (method, status) = (response.request().method(), response.status().as_u16());
        debug!(target: REQUEST_TARGET, "{method} {route} {status} in {:?}, request id {id}", began.elapsed());
    }
    if let Some(id) = request_id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    Ok(response)
}

async fn read(mut payload: Payload) -> Result<Bytes, Kind> {
    let whole = async {
        let first = match payload.next().await {
            Some(chunk) => chunk.map_err(|error| kind_of(&error))?,
            None => return Ok(Bytes::new()),
        };
        let mut body = BytesMut::new();
        let mut size = first.len();
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| kind_of(&error))?;
            size += chunk.len();
            if size > BODY_LIMIT {
                return Err(Kind::BodyTooLarge);
            }
            if body.is_empty() {
                body.extend_from_slice(&first);
            }
            body.extend_from_slice(&chunk);
        }
        match size {
            _ if size > BODY_LIMIT => Err(Kind::BodyTooLarge),
            _ if body.is_empty() => Ok(first),
            _ => Ok(body.freeze()),
        }
    };
    timeout(BODY_TIMEOUT, whole).await.unwrap_or(Err(Kind::RequestTimeout))
}

/// What is wrong with a body that breaks off.
fn kind_of(error: &PayloadError) -> Kind {
    match error {
        PayloadError::EncodingCorrupted => Kind::MalformedJson,
        PayloadError::Overflow => Kind::BodyTooLarge,
        _ => Kind::RequestTimeout,
    }
}

/// A client's own id for its request, where it may stand in a header and in a log.
fn request_id(req: &ServiceRequest) -> Option<HeaderValue> {
    let id = req.headers().get(X_REQUEST_ID)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=64).contains(&id.len()) && id.as_bytes().iter().all(allowed)).then(|| id.clone())
}

/// Logs a problem once, with what is needed to find it again.
fn report<B>(response: &ServiceResponse<B>, route: &str, id: &str) {
    let extensions = response.response().extensions();
    let Some(Reported { code, instance, cause }) = extensions.get() else { return };
    let level = match response.status().as_u16() {
        500 => Level::Error,
        501.. => Level::Warn,
        _ => Level::Info,
    };
    let method = response.request().method();
    let cause = cause.as_deref().map(|cause| format!(": {cause}")).unwrap_or_default();
    log!(level, "{code} at {method} {route}, instance {instance}, request id {id}{cause}");
}
