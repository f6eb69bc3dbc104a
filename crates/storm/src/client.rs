//! A client that does what payonce's contract tells it to: a request is sent again, the very same, until it
//! is answered for good.

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

/// How long to wait for one answer: longer than a server takes that works, with any REQUEST_DEADLINE that
/// is usual.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// What is sent, and sent again.
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) key: Option<String>,
    /// JSON, or nothing.
    pub(super) body: Bytes,
}

impl Request {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, key: None, body: Bytes::new() }
    }
}

/// What came back, whole.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) replayed: bool,
    pub(super) body: String,
    retry_after: Option<Duration>,
}

impl Answer {
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

    /// Whether sending the same request again can change nothing.
    pub(super) fn is_final(&self) -> bool {
        !matches!(self.status, 408 | 409 | 429 | 500..)
    }
}

/// A request that was sent until patience ran out.
#[derive(Debug, Error)]
#[error("was not answered within {}, and at last: {last}", humantime::format_duration(*.patience))]
pub struct Unanswered {
    patience: Duration,
    last: String,
}

/// What a client sent, and what it heard.
#[derive(Debug, Clone, Default)]
pub(super) struct Traffic {
    pub(super) requests: u64,
    pub(super) retries: u64,
    pub(super) statuses: BTreeMap<u16, u64>,
    /// Of final answers, each counted from when it was asked for the last time.
    pub(super) latencies: Vec<Duration>,
}

/// Sends to these servers in turn.
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

    /// Sends a request until it is answered for good.
    pub(super) async fn settle(&self, request: &Request) -> Result<Answer, Unanswered> {
        let patience = self.plan.patience;
        let deadline = Instant::now() + patience;
        loop {
            let begun = Instant::now();
            let answer = timeout_at(deadline.min(begun + ANSWER_WITHIN), self.send(request)).await;
            let (last, retry_after) = match answer {
                Ok(Ok(answer)) if answer.is_final() => {
                    self.traffic.borrow_mut().latencies.push(begun.elapsed());
                    return Ok(answer);
                }
                Ok(Ok(Answer { status, retry_after, .. })) => (status.to_string(), retry_after),
                Ok(Err(error)) => (error.to_string(), None),
                Err(_) => ("no answer came".to_owned(), None),
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
    pub(super) async fn send(&self, request: &Request) -> io::Result<Answer> {
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
        let answer = Answer::new(head.status.as_u16(), &head.headers, &body);
        *self.traffic.borrow_mut().statuses.entry(answer.status).or_default() += 1;
        Ok(answer)
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
    /// A connection that is free, and was not closed meanwhile.
    fn idle(&self) -> Option<Connection> {
        let mut idle = self.idle.borrow_mut();
        std::iter::from_fn(|| idle.pop()).find(Connection::is_idle)
    }
}
