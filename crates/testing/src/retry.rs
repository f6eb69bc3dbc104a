//! A client that does what the contract tells it to, and keeps account of all that it heard.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Mutex,
    time::{Duration, Instant},
};

use reqwest::{Method, header::HeaderMap};
use tokio::time::sleep;

use super::{
    client::{Answer, http_client},
    wait::PATIENCE,
};

/// The longest pause between two attempts. `Retry-After` may say more: these clients are ruder.
const PAUSE: Duration = Duration::from_millis(100);

/// Where keys are voided.
pub const VOID: &str = "/idempotency-key/void";

/// What was heard of one key; of its voiding, which has other answers, under a name of its own.
#[derive(Debug, Clone, Default)]
pub struct Heard {
    /// `201` answers: at most one, and none if it got lost.
    pub created: u32,
    /// Bodies of `200`, `201` and `402` answers: all the same.
    pub bodies: Vec<String>,
    /// Attempts that ended without a final answer, by status; 0 where the connection failed.
    pub failed: BTreeMap<u16, u32>,
}

/// The name under which is kept what was heard of voiding a key.
fn void_of(key: &str) -> String {
    format!("void of {key}")
}

/// Clients that send to these servers in turn.
pub struct Clients {
    client: reqwest::Client,
    pub servers: Mutex<Vec<SocketAddr>>,
    heard: Mutex<BTreeMap<String, Heard>>,
}

impl Clients {
    pub fn new(servers: &[SocketAddr]) -> Self {
        Self {
            client: http_client(HeaderMap::new()),
            servers: Mutex::new(servers.to_vec()),
            heard: Mutex::default(),
        }
    }

    /// Sends one payment once: its answer, or `None` where the connection fails.
    pub async fn send(&self, server: SocketAddr, key: &str, body: &str) -> Option<Answer> {
        self.send_to(server, "/payment", key, body).await
    }

    /// The same for a keyed request of any kind.
    pub async fn send_to(
        &self,
        server: SocketAddr,
        path: &str,
        key: &str,
        body: &str,
    ) -> Option<Answer> {
        let heard = if path == VOID { void_of(key) } else { key.to_owned() };
        let answer = self.request(Method::POST, server, path, key, body).await;
        let mut all = self.heard.lock().unwrap();
        let heard = all.entry(heard).or_default();
        match &answer {
            Some(answer) if matches!(answer.status, 200 | 201 | 402) => {
                heard.created += u32::from(answer.status == 201);
                heard.bodies.push(answer.body.clone());
            }
            answer => {
                let status = answer.as_ref().map_or(0, |answer| answer.status);
                *heard.failed.entry(status).or_default() += 1;
            }
        }
        answer
    }

    /// Asks once what a key stands for.
    pub async fn ask(&self, server: SocketAddr, key: &str) -> Option<Answer> {
        self.request(Method::GET, server, "/idempotency-key", key, "").await
    }

    async fn request(
        &self,
        method: Method,
        server: SocketAddr,
        path: &str,
        key: &str,
        body: &str,
    ) -> Option<Answer> {
        let request = self
            .client
            .request(method, format!("http://{server}{path}"))
            .header("content-type", "application/json")
            .header("idempotency-key", key)
            .body(body.to_owned());
        Answer::read(request.send().await.ok()?).await
    }

    /// Sends a payment until it is answered for good.
    pub async fn pay(&self, key: &str, body: &str) -> Answer {
        self.until_answered("/payment", key, body).await
    }

    /// Sends a refund of this payment until it is answered for good.
    pub async fn refund(&self, payment: &str, key: &str, body: &str) -> Answer {
        self.until_answered(&format!("/payment/{payment}/refund"), key, body).await
    }

    /// Voids a key, until it is answered for good what that stands for.
    pub async fn void(&self, key: &str) -> Answer {
        self.until_answered(VOID, key, "").await
    }

    async fn until_answered(&self, path: &str, key: &str, body: &str) -> Answer {
        let begun = Instant::now();
        for attempt in 0.. {
            let server = {
                let servers = self.servers.lock().unwrap();
                servers[attempt % servers.len()]
            };
            match self.send_to(server, path, key, body).await {
                Some(answer) if !matches!(answer.status, 408 | 409 | 429 | 500..) => return answer,
                answer => {
                    assert!(begun.elapsed() < PATIENCE, "{key} was never answered: {answer:?}");
                }
            }
            sleep(PAUSE.mul_f64(fastrand::f64())).await;
        }
        unreachable!("attempts have no end")
    }

    /// What was heard, by key.
    pub fn heard(&self) -> BTreeMap<String, Heard> {
        self.heard.lock().unwrap().clone()
    }

    /// Asserts that for each key everybody heard the same, and nobody of two new payments.
    #[track_caller]
    pub fn assert_consistent(&self) {
        for (key, heard) in self.heard() {
            assert!(heard.created <= 1, "{key}: {} answers said that it was new", heard.created);
            assert!(
                heard.bodies.windows(2).all(|two| two[0] == two[1]),
                "{key}: {:?}",
                heard.bodies
            );
        }
    }

    /// How many attempts ended without a final answer, by status.
    pub fn failures(&self) -> BTreeMap<u16, u32> {
        let mut failures = BTreeMap::new();
        for (status, count) in self.heard().values().flat_map(|heard| heard.failed.clone()) {
            *failures.entry(status).or_default() += count;
        }
        failures
    }
}
