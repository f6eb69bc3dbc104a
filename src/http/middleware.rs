//! The middleware of every request: it reads the body, echoes `X-Request-Id`, renders problems, logs the request, and
//! closes connections while the server stops.

use std::{
    net::SocketAddr,
    rc::Rc,
    time::{Duration, Instant},
};

use actix_web::{
    Error, HttpMessage, HttpRequest,
    body::BoxBody,
    dev::{Payload, ServiceRequest, ServiceResponse},
    error::PayloadError,
    http::{
        ConnectionType, Method,
        header::{self, HeaderName, HeaderValue},
    },
    middleware::Next,
    web,
};
use bytes::{Bytes, BytesMut};
use futures_util::{FutureExt, StreamExt};
use tokio::time::timeout;

use crate::{
    http::{
        json::wrong_as_a_whole,
        problem::{Kind, Problem},
    },
    idempotency::actix::IDEMPOTENCY_KEY,
    state::AppState,
};

use super::{
    RequestContext, request_log,
    turn::{Length, Turn, UnderWay},
};

pub(super) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Limits for reading a body.
#[derive(Debug, Clone, Copy)]
pub struct BodyLimits {
    /// Size in bytes.
    pub size: usize,
    /// Time from the end of the head to the end of the body.
    pub time: Duration,
}

impl BodyLimits {
    fn exceeded(&self) -> Problem {
        let detail =
            format!("Send at most {} bytes. This request has not used the key.", self.size);
        Problem::new(Kind::BodyTooLarge).with_detail(detail)
    }
}

/// The middleware around every handler.
///
/// It reads the body first, so that after an early refusal the connection is at the start of the next request. A
/// connection whose body was not read to its end is closed.
///
/// Upgrade requests get an HTTP/1.1 response (RFC 9110 §7.8).
///
/// # Errors
/// The errors of the handler.
pub async fn middleware(
    state: web::Data<AppState>,
    mut req: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let began = Instant::now();
    let limits = state.body_limits;
    let request_id = request_id(&req);
    let (length, is_endless) = (declared_length(&req), is_endless(&req));
    let mut under_way = req.conn_data::<Rc<Turn>>().map(|turn| {
        let is_chunked = req.headers().contains_key(header::TRANSFER_ENCODING);
        let bytes = u64::try_from(length.unwrap_or(0)).unwrap_or(u64::MAX);
        UnderWay::begin(turn, if is_chunked { Length::Chunked } else { Length::Bytes(bytes) })
    });
    let asked_for = req.head().connection_type();
    let mut body = match req.take_payload() {
        Payload::None => Ok(Bytes::new()),
        _ if length.is_some_and(|length| length > limits.size) => Err(limits.exceeded()),
        payload => {
            let end = if is_endless { length.unwrap_or(0) } else { usize::MAX };
            read(payload, end, limits).await
        }
    };
    if under_way.as_ref().is_some_and(UnderWay::is_too_long) {
        body = Err(limits.exceeded());
    }
    let broken_off = body.is_err();
    if let Some(under_way) = &under_way {
        under_way.end_body(!broken_off);
    }
    req.extensions_mut().insert(RequestContext::new(body));
    let response = next.call(req).await?;
    let context = response.request().extensions_mut().remove::<RequestContext>();
    let mut context = context.unwrap_or_else(|| RequestContext::new(Ok(Bytes::new())));
    let mut response = with_problem(response, &mut context);
    state.metrics.count_request(response.request(), response.status(), began.elapsed());
    let headers = response.headers_mut();
    if let Some(id) = request_id {
        headers.insert(X_REQUEST_ID, id);
    }
    if let Some((_, value)) = &context.key {
        headers.insert(IDEMPOTENCY_KEY, value.clone());
    }
    // After a body without an end, the start of the next request is unknown.
    let closes = broken_off || is_endless || state.stopping.has_begun();
    if closes || asked_for != ConnectionType::KeepAlive {
        response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        under_way.iter_mut().for_each(UnderWay::make_last);
    }
    request_log::write(&response, &context, began);
    Ok(response)
}

/// Renders the problem that a handler or an extractor has returned.
fn with_problem(response: ServiceResponse, context: &mut RequestContext) -> ServiceResponse {
    let error = response.response().error();
    let Some(problem) = error.and_then(|error| error.as_error::<Problem>()) else {
        return response;
    };
    let rendered = problem.response(context.id);
    context.problem = Some(problem.report(context.id));
    response.into_response(rendered)
}

/// The listening address that accepted the request's connection.
#[must_use]
pub fn listener(req: &HttpRequest) -> Option<SocketAddr> {
    req.conn_data::<Rc<Turn>>().map(|turn| turn.listener())
}

/// Reads a body to its end, or up to `end` bytes.
async fn read(mut payload: Payload, end: usize, limits: BodyLimits) -> Result<Bytes, Problem> {
    let mut left = end;
    let whole = async {
        let Some(first) = part(&mut payload, &mut left).await? else { return Ok(Bytes::new()) };
        let mut body = BytesMut::new();
        let mut size = first.len();
        while let Some(chunk) = part(&mut payload, &mut left).await? {
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
        Kind::BodyTooLarge => limits.exceeded(),
        Kind::MalformedJson => wrong_as_a_whole(kind, "expected chunks".to_owned()).with_detail(
            "The body doesn't come in chunks as its Transfer-Encoding says (RFC 9112 §7.1). This request has not used the key.",
        ),
        _ => Problem::new(kind),
    })
}

/// The `Content-Length`. actix has already refused malformed ones.
fn declared_length(req: &ServiceRequest) -> Option<usize> {
    req.headers().get(header::CONTENT_LENGTH)?.to_str().ok()?.trim().parse().ok()
}

/// Tells whether actix treats the rest of the connection as the body, as it does for WebSocket and `CONNECT`.
fn is_endless(req: &ServiceRequest) -> bool {
    let headers = req.headers();
    let asks_for_websocket = || {
        let mut upgrades = headers.get_all(header::UPGRADE);
        upgrades.any(|upgrade| upgrade.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket"))
    };
    let asks_for_tunnel =
        || req.method() == Method::CONNECT && declared_length(req).is_none_or(|length| length == 0);
    !headers.contains_key(header::TRANSFER_ENCODING) && (asks_for_websocket() || asks_for_tunnel())
}

/// The next part of a body with `left` bytes; `None` at its end.
async fn part(payload: &mut Payload, left: &mut usize) -> Result<Option<Bytes>, Kind> {
    if *left == 0 {
        return Ok(None);
    }
    let mut part = payload.next().await.transpose().map_err(|error| match error {
        // actix reports an aborted body and malformed chunks as the same error. Only an aborted body ends after it.
        PayloadError::Incomplete(_) if payload.next().now_or_never().is_none() => {
            Kind::MalformedJson
        }
        PayloadError::EncodingCorrupted => Kind::MalformedJson,
        PayloadError::Overflow => Kind::BodyTooLarge,
        _ => Kind::RequestTimeout,
    })?;
    if let Some(part) = &mut part {
        part.truncate(*left);
        *left -= part.len();
    }
    Ok(part)
}

/// The client's `X-Request-Id`, if it is safe in a header and a log.
fn request_id(req: &ServiceRequest) -> Option<HeaderValue> {
    let id = req.headers().get(X_REQUEST_ID)?;
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    ((1..=64).contains(&id.len()) && id.as_bytes().iter().all(allowed)).then(|| id.clone())
}
