//! Concurrent clients that create payments and retry each until its final response.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::task::JoinSet;

use super::{client::PAYMENT, retry::Clients, wait::until};

/// The duration of tests under load: `PAYONCE_FAULTS_SECONDS`, or a few seconds.
pub fn duration() -> Duration {
    let seconds = std::env::var("PAYONCE_FAULTS_SECONDS").ok();
    seconds.map_or(Duration::from_secs(4), |seconds| {
        Duration::from_secs(seconds.parse().expect("a number of seconds"))
    })
}

/// Clients that create payments until they are stopped.
pub struct Load {
    pub clients: Arc<Clients>,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: JoinSet<Duration>,
}

impl Load {
    /// Starts this many clients. Every tenth payment is sent together with a duplicate.
    pub fn start(clients: &Arc<Clients>, count: usize) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        for client in 0..count {
            let (clients, stop, done) = (Arc::clone(clients), Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                let mut longest = Duration::ZERO;
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let key = format!("load-{client}-{number}");
                    let begun = Instant::now();
                    let response = if number % 10 == 0 {
                        tokio::join!(clients.pay(&key, PAYMENT), clients.pay(&key, PAYMENT)).0
                    } else {
                        clients.pay(&key, PAYMENT).await
                    };
                    assert!(matches!(response.status, 200 | 201), "{key}: {response:?}");
                    longest = longest.max(begun.elapsed());
                    done.fetch_add(1, Ordering::Relaxed);
                }
                longest
            });
        }
        Self { clients: Arc::clone(clients), stop, done, tasks }
    }

    /// The number of payments that got a final response so far.
    pub fn done(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }

    /// Waits until this many more payments got a final response.
    pub async fn until_answered(&self, more: usize) {
        let enough = self.done() + more;
        until("payments are answered", async || self.done() >= enough).await;
    }

    /// Stops the clients after their current payments, and returns the longest latency.
    pub async fn finish(mut self) -> Duration {
        self.stop.store(true, Ordering::Relaxed);
        let mut longest = Duration::ZERO;
        while let Some(client) = self.tasks.join_next().await {
            longest = longest.max(client.expect("a client that was always answered"));
        }
        longest
    }
}

/// Asserts that there is exactly one payment for each key with a response, the one that the response shows,
/// and no other payment. Returns their number.
pub async fn assert_exactly_once(clients: &Clients, options: &PgConnectOptions) -> usize {
    clients.assert_consistent();
    let mut answered = BTreeSet::new();
    for (key, heard) in clients.heard() {
        let body = heard.bodies.first().unwrap_or_else(|| panic!("{key} was never answered"));
        let id = body.split("\"transaction_id\":\"").nth(1).unwrap().split('"').next().unwrap();
        answered.insert(format!("{key} {id}"));
    }
    let mut conn = PgConnection::connect_with(options).await.unwrap();
    let made: Vec<String> = sqlx::query_scalar(
        "SELECT key || ' ' || transaction_id FROM payments
         LEFT JOIN idempotency_keys ON execution_id = transaction_id",
    )
    .fetch_all(&mut conn)
    .await
    .unwrap();
    conn.close().await.unwrap();
    let count = made.len();
    let made: BTreeSet<String> = made.into_iter().collect();
    assert_eq!(made.len(), count);
    let (lost, unasked): (Vec<_>, Vec<_>) = (
        answered.difference(&made).take(5).collect(),
        made.difference(&answered).take(5).collect(),
    );
    assert!(
        lost.is_empty() && unasked.is_empty(),
        "lost: {lost:?}; nobody was told of: {unasked:?}"
    );
    count
}
