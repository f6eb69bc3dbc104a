//! Clients that retry as the contract says, and record every response.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use reqwest::{Method, header::HeaderMap};
use tokio::time::sleep;

use super::{
    client::{Response, http_client},
    wait::PATIENCE,
};

/// The longest pause between two attempts. These clients ignore `Retry-After`.
const PAUSE: Duration = Duration::from_millis(100);

/// Clients give up an attempt after this time. Servers answer within their deadline of ten seconds, so that only a hang
/// takes longer.
const ATTEMPT: Duration = Duration::from_secs(30);

/// The path at which keys are voided.
pub const VOID: &str = "/idempotency-key/void";

/// The responses to one key. Those to its voiding are kept under a separate name.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// The number of `201` responses: at most one, and none if it was lost.
    pub created: u32,
    /// The bodies of `200`, `201` and `402` responses, which must be equal.
    pub bodies: Vec<String>,
    /// Attempts without a final response, by status; 0 if the connection failed.
    pub failed: BTreeMap<u16, u32>,
    /// Attempts that got no response in time, described.
    pub hung: Vec<String>,
}

/// The name under which responses to voiding a key are kept.
fn void_of(key: &str) -> String {
    format!("void of {key}")
}

/// Clients that send to these servers in turn.
pub struct Clients {
    client: reqwest::Client,
    /// The time-out of an attempt of these clients.
    attempt: Duration,
    pub servers: Mutex<Vec<SocketAddr>>,
    heard: Mutex<BTreeMap<String, Heard>>,
}

impl Clients {
    pub fn new(servers: &[SocketAddr]) -> Self {
        Self {
            client: http_client(HeaderMap::new()),
            attempt: ATTEMPT,
            servers: Mutex::new(servers.to_vec()),
            heard: Mutex::default(),
        }
    }

    /// Clients of servers with a long deadline: they wait for a response as long as the test does.
    pub fn patient(servers: &[SocketAddr]) -> Self {
        Self { attempt: 2 * PATIENCE, ..Self::new(servers) }
    }

    /// Sends a payment once. `None` if the connection fails.
    pub async fn send(&self, server: SocketAddr, key: &str, body: &str) -> Option<Response> {
        self.send_to(server, "/payment", key, body).await
    }

    /// Sends any request with a key once.
    pub async fn send_to(
        &self,
        server: SocketAddr,
        path: &str,
        key: &str,
        body: &str,
    ) -> Option<Response> {
        self.attempt(server, path, key, body).await.ok()
    }

    /// Sends a request with a key once, and notes the result. The error says why there is no response.
    async fn attempt(
        &self,
        server: SocketAddr,
        path: &str,
        key: &str,
        body: &str,
    ) -> Result<Response, String> {
        let begun = Instant::now();
        let response = self.request(Method::POST, server, path, key, body).await;
        let mut hung = None;
        if let Err(error) = &response
            && error.is_timeout()
        {
            let took = begun.elapsed();
            let health = self.health(server).await;
            let description = format!("{key}: no response from {server} after {took:?}; {health}");
            eprintln!("{description}");
            hung = Some(description);
        }
        let name = if path == VOID { void_of(key) } else { key.to_owned() };
        let mut all = self.heard.lock().unwrap();
        let heard = all.entry(name).or_default();
        heard.hung.extend(hung);
        match &response {
            Ok(response) if matches!(response.status, 200 | 201 | 402) => {
                heard.created += u32::from(response.status == 201);
                heard.bodies.push(response.body.clone());
            }
            response => {
                let status = response.as_ref().map_or(0, |response| response.status);
                *heard.failed.entry(status).or_default() += 1;
            }
        }
        response.map_err(|error| format!("{:?}", error.without_url()))
    }

    /// Reads the state of a key once.
    pub async fn ask(&self, server: SocketAddr, key: &str) -> Option<Response> {
        self.request(Method::GET, server, "/idempotency-key", key, "").await.ok()
    }

    async fn request(
        &self,
        method: Method,
        server: SocketAddr,
        path: &str,
        key: &str,
        body: &str,
    ) -> Result<Response, reqwest::Error> {
        let request = self
            .client
            .request(method, format!("http://{server}{path}"))
            .timeout(self.attempt)
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_owned());
        Response::read(request.send().await?).await
    }

    /// Says whether a server answers at all, on a new connection: for the explanation of a failure.
    async fn health(&self, server: SocketAddr) -> String {
        let url = format!("http://{server}/health/ready");
        match http_client(HeaderMap::new()).get(url).timeout(PAUSE * 50).send().await {
            Ok(response) => format!("its readiness is {}", response.status()),
            Err(error) => format!("its readiness can't be read: {:?}", error.without_url()),
        }
    }

    /// Repeats a payment until its final response.
    pub async fn pay(&self, key: &str, body: &str) -> Response {
        self.until_answered("/payment", key, body).await
    }

    /// Repeats a refund of this payment until its final response.
    pub async fn refund(&self, payment: &str, key: &str, body: &str) -> Response {
        self.until_answered(&format!("/payment/{payment}/refund"), key, body).await
    }

    /// Repeats the voiding of a key until its final response.
    pub async fn void(&self, key: &str) -> Response {
        self.until_answered(VOID, key, "").await
    }

    async fn until_answered(&self, path: &str, key: &str, body: &str) -> Response {
        let begun = Instant::now();
        for number in 0.. {
            let server = {
                let servers = self.servers.lock().unwrap();
                servers[number % servers.len()]
            };
            let sent = Instant::now();
            match self.attempt(server, path, key, body).await {
                Ok(response) if !matches!(response.status, 408 | 409 | 429 | 500..) => {
                    return response;
                }
                last if begun.elapsed() >= PATIENCE => {
                    let (took, health) = (sent.elapsed(), self.health(server).await);
                    let (failures, hung) = (self.failures(), self.hung().len());
                    panic!(
                        "{key} was not answered. Attempt {number} took {took:?} at {server}: {last:?}. Now {health}. \
                         Failed attempts of all clients by status: {failures:?}, {hung} of them hung"
                    );
                }
                _ => sleep(PAUSE.mul_f64(fastrand::f64())).await,
            }
        }
        unreachable!("attempts have no end")
    }

    /// All responses, by key.
    pub fn heard(&self) -> BTreeMap<String, Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// The attempts that got no response in time.
    pub fn hung(&self) -> Vec<String> {
        self.heard().into_values().flat_map(|heard| heard.hung).collect()
    }

    /// Asserts that all responses to a key agree, that at most one of them created something, and that every attempt
    /// ended by itself: a retry must not hide a request that hangs.
    #[track_caller]
    pub fn assert_consistent(&self) {
        assert!(self.hung().is_empty(), "{:?}", self.hung());
        for (key, heard) in self.heard() {
            assert!(heard.created <= 1, "{key}: {} responses said that it was new", heard.created);
            assert!(
                heard.bodies.windows(2).all(|two| two[0] == two[1]),
                "{key}: {:?}",
                heard.bodies
            );
        }
    }

    /// The number of attempts without a final response, by status.
    pub fn failures(&self) -> BTreeMap<u16, u32> {
        let mut failures = BTreeMap::new();
        for (status, count) in self.heard().values().flat_map(|heard| heard.failed.clone()) {
            *failures.entry(status).or_default() += count;
        }
        failures
    }
}
