//! What every exchange goes through, whatever its route: the body is read, `X-Request-Id` echoed,
//! problems and requests are logged, and connections are closed one by one while the server stops.

use std::time::{Duration, Instant};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::MessageBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{
        ConnectionType,
        header::{HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use log::{Level, debug, log, log_enabled};
use tokio::time::timeout;

use crate::{
    health::Stopping,
    problem::{Kind, Problem, Reported},
};

/// The log target of a line for each request: `RUST_LOG=info,payonce::request=debug`.
const REQUEST_TARGET: &str = "payonce::request";

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// How much of a body is read, and how long it is waited for.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Bytes at most.
    pub size: usize,
    /// From the end of the head to the end of the body at most.
    pub time: Duration,
}

/// A request's body, whole, or why there is none.
#[derive(Debug, Clone)]
pub struct Body(Result<Bytes, Problem>);

impl Body {
    /// The body of this request.
    ///
    /// # Errors
    /// When it was too large, or didn't come to its end.
    pub fn of(req: &HttpRequest) -> Result<Bytes, Problem> {
        let extensions = req.extensions();
        let Some(Self(body)) = extensions.get() else { return Ok(Bytes::new()) };
        body.clone()
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
    limits: web::Data<BodyLimits>,
    stopping: web::Data<Stopping>,
    mut req: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<B>, Error> {
    let began = log_enabled!(target: REQUEST_TARGET, Level::Debug).then(Instant::now);
    let request_id = request_id(&req);
    match req.take_payload() {
        Payload::None => {}
        payload => {
            let body = read(payload, **limits).await;
            req.extensions_mut().insert(Body(body));
        }
    }
    let mut response = next.call(req).await?;
    let route = response.request().match_pattern();
    let route = route.as_deref().unwrap_or("(no route)");
    let id = request_id.as_ref().and_then(|id| id.to_str().ok()).unwrap_or("-");
    report(&response, route, id);
    if let Some(began) = began {
        let (method, status) = (response.request().method(), response.status().as_u16());
        debug!(target: REQUEST_TARGET, "{method} {route} {status} in {:?}, request id {id}", began.elapsed());
    }
    if let Some(id) = request_id {
        response.headers_mut().insert(X_REQUEST_ID, id);
    }
    if stopping.has_begun() {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
    }
    Ok(response)
}

async fn read(mut payload: Payload, limits: BodyLimits) -> Result<Bytes, Problem> {
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
            if size > limits.size {
                return Err(Kind::BodyTooLarge);
            }
            if body.is_empty() {
                body.extend_from_slice(&first);
            }
            body.extend_from_slice(&chunk);
        }
        match size {
            _ if size > limits.size => Err(Kind::BodyTooLarge),
            _ if body.is_empty() => Ok(first),
            _ => Ok(body.freeze()),
        }
    };
    let body = timeout(limits.time, whole).await.unwrap_or(Err(Kind::RequestTimeout));
    body.map_err(|kind| match kind {
        Kind::BodyTooLarge => Problem::new(kind)
            .with_detail(format!("Send at most {} bytes. The key is still free.", limits.size)),
        _ => Problem::new(kind),
    })
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
