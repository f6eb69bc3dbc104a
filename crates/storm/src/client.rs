//! A client that follows payonce's contract: it repeats the same request until it gets a final response.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    io,
    time::Duration,
};

use actix_http::{
    Method, RequestHead, ServiceConfig,
    header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
};
use bytes::Bytes;
use thiserror::Error;
use tokio::time::{Instant, sleep, timeout_at};

use super::{Plan, connection::Connection, target::Target};

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const IDEMPOTENT_REPLAYED: HeaderName = HeaderName::from_static("idempotent-replayed");

/// Time for one response. A working server with any usual REQUEST_DEADLINE takes less.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A request, which may be sent repeatedly.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) key: Option<String>,
    /// JSON, or empty.
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, key: None, body: Bytes::new() }
    }
}

/// A complete response.
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) replayed: bool,
    pub(super) body: String,
    retry_after: Option<Duration>,
}

impl Response {
    fn new(status: u16, headers: &HeaderMap, body: &[u8]) -> Self {
        let header = |name| headers.get(name).and_then(|value| value.to_str().ok());
        Self {
            status,
            replayed: header(IDEMPOTENT_REPLAYED) == Some("true"),
            body: String::from_utf8_lossy(body).into_owned(),
            retry_after: header(RETRY_AFTER)
                .and_then(|value| value.parse().ok())
                .map(Duration::from_secs),
        }
    }

    /// Returns whether repeating the request cannot change anything.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.status, 408 | 409 | 429 | 500..)
    }
}

/// A request that got no final response within the patience.
#[derive(Debug, Error)]
#[error("was not answered within {}, and at last: {last}", humantime::format_duration(*.patience))]
pub struct Unanswered {
    patience: Duration,
    last: String,
}

/// Counts of requests and responses.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Latencies of final responses, each from the last attempt.
    pub(super) latencies: Vec<Duration>,
}

/// Sends requests to the servers in turn.
pub(super) struct Client<'a> {
    plan: &'a Plan,
    servers: Vec<Server<'a>>,
    turn: Cell<usize>,
    config: ServiceConfig,
    pub(super) traffic: RefCell<Traffic>,
}

struct Server<'a> {
    target: &'a Target,
    idle: RefCell<Vec<Connection>>,
}

impl<'a> Client<'a> {
    pub(super) fn new(plan: &'a Plan, targets: &'a [Target]) -> Self {
        let servers =
            targets.iter().map(|target| Server { target, idle: RefCell::default() }).collect();
        Self {
            plan,
            servers,
            turn: Cell::default(),
            config: ServiceConfig::default(),
            traffic: RefCell::default(),
        }
    }

    /// Repeats a request until it gets a final response.
    pub(super) async fn send_until_final(&self, request: &Request) -> Result<Response, Unanswered> {
        let patience = self.plan.patience;
        let deadline = Instant::now() + patience;
        let mut last = "there was no response".to_owned();
        loop {
            let begun = Instant::now();
            let response =
                timeout_at(deadline.min(begun + RESPONSE_TIMEOUT), self.send(request)).await;
            let retry_after;
            (last, retry_after) = match response {
                Ok(Ok(response)) if response.is_final() => {
                    self.traffic.borrow_mut().latencies.push(begun.elapsed());
                    return Ok(response);
                }
                Ok(Ok(Response { status, retry_after, .. })) => (status.to_string(), retry_after),
                Ok(Err(error)) => (error.to_string(), None),
                // Cut short by patience: the attempt before tells more.
                Err(_) if deadline < begun + RESPONSE_TIMEOUT => (last, None),
                Err(_) => ("there was no response".to_owned(), None),
            };
            let pause =
                retry_after.unwrap_or_else(|| Duration::from_millis(fastrand::u64(20..500)));
            if Instant::now() + pause >= deadline {
                return Err(Unanswered { patience, last });
            }
            sleep(pause).await;
            self.traffic.borrow_mut().retries += 1;
        }
    }

    /// Sends a request once.
    pub(super) async fn send(&self, request: &Request) -> io::Result<Response> {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        let place = turn.checked_rem(self.servers.len()).unwrap_or(0);
        let server = self.servers.get(place).ok_or_else(|| io::Error::other("no server"))?;
        self.traffic.borrow_mut().requests += 1;
        let head = self.head(server.target, request).map_err(io::Error::other)?;
        let connection = match server.idle() {
            Some(connection) => connection,
            None => Connection::open(&server.target.address(), self.config.clone()).await?,
        };
        let (head, body, connection) = connection.exchange(head, &request.body).await?;
        server.idle.borrow_mut().extend(connection);
        let response = Response::new(head.status.as_u16(), &head.headers, &body);
        *self.traffic.borrow_mut().statuses.entry(response.status).or_default() += 1;
        Ok(response)
    }

    fn head(
        &self,
        target: &Target,
        request: &Request,
    ) -> Result<RequestHead, Box<dyn std::error::Error + Send + Sync>> {
        let mut head = RequestHead::default();
        head.method = request.method.clone();
        head.uri = target.uri(&request.path)?;
        head.headers.insert(HOST, target.host()?);
        if let Some(authorization) = &self.plan.authorization {
            head.headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some(key) = &request.key {
            head.headers.insert(IDEMPOTENCY_KEY, HeaderValue::from_str(key)?);
            head.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        Ok(head)
    }
}

impl Server<'_> {
    /// An idle connection that is still open.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(Connection::is_idle)
    }
}
