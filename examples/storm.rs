//! A storm for sceptics: sends payments to any payonce with deliberate retries, duplicates at once,
//! hang-ups and wrong reuse of keys, and says whether each was made exactly once.
//!
//! ```text
//! cargo run --release --example storm -- --url http://127.0.0.1:5000
//! ```
//!
//! Where the server asks for an API key, put one into the environment as `PAYONCE_API_KEY`.
//!
//! Kill the server, its database or its network meanwhile, as often as you like: the clients retry as
//! they are told to. Exits with 1 when a promise was broken.

#![expect(clippy::print_stdout, reason = "a program that prints")]

use std::{
    collections::{BTreeMap, BTreeSet},
    process::ExitCode,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Parser;
use futures_util::future::join_all;
use indicatif::{ProgressBar, ProgressStyle};
use reqwest::header::{AUTHORIZATION, HeaderMap};
use serde_json::{Value, json};
use tokio::time::{sleep, timeout};
use uuid::Uuid;

/// Sends payments with retries, duplicates, hang-ups and wrong reuse, and checks that each is made once.
///
/// PAYONCE_API_KEY in the environment is the API key to show, where the server asks for one.
#[derive(Debug, Parser)]
struct Options {
    /// Where payonce listens; several servers on one database are used in turn
    #[arg(long, default_value = "http://127.0.0.1:5000")]
    url: Vec<String>,
    /// How many payments to intend
    #[arg(long, default_value_t = 5000)]
    payments: u64,
    /// How many at the same time
    #[arg(long, default_value_t = 64)]
    clients: u64,
    /// How long to go on with one payment before it counts as lost, in seconds
    #[arg(long, default_value_t = 120)]
    patience: u64,
}

/// What came back: a status and a body.
type Answer = (u16, String);

/// What becomes of a request that was sent.
enum Sent {
    /// It is answered for good, and was so after this long.
    Answered { answer: Answer, latency: Duration },
    /// It has to be sent again, after this long.
    Again { pause: Duration },
}

#[derive(Default)]
struct Seen {
    requests: AtomicU64,
    retries: AtomicU64,
    hang_ups: AtomicU64,
    replays: AtomicU64,
    reuses_refused: AtomicU64,
    /// Keys that were answered as more than one payment.
    duplicates: AtomicU64,
    statuses: Mutex<BTreeMap<u16, u64>>,
    latencies: Mutex<Vec<Duration>>,
    /// Promises that were broken, in words.
    broken: Mutex<Vec<String>>,
    /// The transaction of each key that was answered, and the payment that was intended.
    made: Mutex<BTreeMap<String, (String, Value)>>,
}

impl Seen {
    fn broken(&self, what: String) {
        lock(&self.broken).push(what);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Storm {
    options: Options,
    client: reqwest::Client,
    seen: Seen,
    bar: ProgressBar,
}

impl Storm {
    /// Sends one request.
    async fn send(&self, key: &str, payment: &Value) -> Sent {
        let turn = self.seen.requests.fetch_add(1, Ordering::Relaxed);
        let began = Instant::now();
        let heard = self.exchange(turn, key, payment).await;
        let latency = began.elapsed();
        match heard {
            Some((answer, _)) if !matches!(answer.0, 408 | 409 | 429 | 500..) => {
                Sent::Answered { answer, latency }
            }
            heard => {
                let pause = heard.and_then(|(_, retry_after)| retry_after);
                let soon = || Duration::from_millis(fastrand::u64(20..500));
                Sent::Again { pause: pause.unwrap_or_else(soon) }
            }
        }
    }

    /// An answer, and what it says in Retry-After; `None` when no answer came whole.
    async fn exchange(
        &self,
        turn: u64,
        key: &str,
        payment: &Value,
    ) -> Option<(Answer, Option<Duration>)> {
        let place =
            usize::try_from(turn).unwrap_or(0).checked_rem(self.options.url.len()).unwrap_or(0);
        let url = self.options.url.get(place)?;
        let request =
            self.client.post(format!("{url}/payment")).header("idempotency-key", key).json(payment);
        let response = request.send().await.ok()?;
        let status = response.status().as_u16();
        let retry_after =
            response.headers().get("retry-after").and_then(|wait| wait.to_str().ok()?.parse().ok());
        let body = response.text().await.ok()?;
        *lock(&self.seen.statuses).entry(status).or_default() += 1;
        Some(((status, body), retry_after.map(Duration::from_secs)))
    }

    /// Sends one request until it is answered for good, as the contract says.
    async fn settle(&self, key: &str, payment: &Value) -> Option<Answer> {
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(self.options.patience) {
            match self.send(key, payment).await {
                Sent::Answered { answer, latency } => {
                    lock(&self.seen.latencies).push(latency);
                    return Some(answer);
                }
                Sent::Again { pause } => {
                    self.seen.retries.fetch_add(1, Ordering::Relaxed);
                    sleep(pause).await;
                }
            }
        }
        None
    }

    /// Makes one intended payment, more or less politely.
    async fn intend(&self, number: u64) {
        let key = Uuid::new_v4().to_string();
        let payment = json!({ "user_id": format!("user_{}", number % 97), "amount": fastrand::u64(1..100_000) });
        let copies = match number % 10 {
            0 => 5,
            1 | 2 => 2,
            _ => 1,
        };
        if number % 10 == 3 {
            // Gives up in the middle, and comes back.
            let instant = Duration::from_micros(fastrand::u64(50..3000));
            if timeout(instant, self.send(&key, &payment)).await.is_err() {
                self.seen.hang_ups.fetch_add(1, Ordering::Relaxed);
            }
        }
        let mut answers = join_all((0..copies).map(|_| self.settle(&key, &payment))).await;
        if number.is_multiple_of(4) {
            answers.push(self.settle(&key, &payment).await);
        }
        self.judge(&key, &payment, &answers);
        if number % 10 == 4 {
            self.reuse(&key, &payment).await;
        }
        self.bar.inc(1);
        let sent = self.seen.requests.load(Ordering::Relaxed);
        let retries = self.seen.retries.load(Ordering::Relaxed);
        self.bar.set_message(format!("{sent} requests, {retries} retries"));
    }

    fn judge(&self, key: &str, payment: &Value, answers: &[Option<Answer>]) {
        let seen = &self.seen;
        let mut bodies = BTreeSet::new();
        let mut created = 0;
        for answer in answers {
            match answer {
                None => seen
                    .broken(format!("{key} was not answered within {} s", self.options.patience)),
                Some((status @ (200 | 201), body)) => {
                    bodies.insert(body.as_str());
                    created += u32::from(*status == 201);
                    seen.replays.fetch_add(u64::from(*status == 200), Ordering::Relaxed);
                }
                Some((status, body)) => {
                    seen.broken(format!("{key} was answered with {status}: {body}"));
                }
            }
        }
        if created > 1 || bodies.len() > 1 {
            seen.duplicates.fetch_add(1, Ordering::Relaxed);
        }
        if created > 1 {
            seen.broken(format!("{key} was answered as new {created} times"));
        }
        if bodies.len() > 1 {
            seen.broken(format!("{key} was answered in {} ways: {bodies:?}", bodies.len()));
        }
        if let Some(body) = bodies.first() {
            let answer: Value = serde_json::from_str(body).unwrap_or_default();
            let same = ["user_id", "amount"]
                .iter()
                .all(|member| answer.get(member) == payment.get(member));
            let id =
                answer.get("transaction_id").and_then(Value::as_str).unwrap_or_default().to_owned();
            if !same || id.is_empty() {
                seen.broken(format!("{key} was answered with another payment: {body}"));
            }
            lock(&seen.made).insert(key.to_owned(), (id, payment.clone()));
        }
    }

    /// Sends another payment with a key that is used up.
    async fn reuse(&self, key: &str, payment: &Value) {
        let amount = payment.get("amount").and_then(Value::as_u64).unwrap_or(0) + 1;
        let other = json!({ "user_id": "somebody else", "amount": amount });
        match self.settle(key, &other).await {
            Some((422, _)) => {
                self.seen.reuses_refused.fetch_add(1, Ordering::Relaxed);
            }
            answer => self.seen.broken(format!("{key} was reused, and answered with {answer:?}")),
        }
    }

    /// Reads a payment where its answer said that it is.
    async fn is_there(&self, id: &str, payment: &Value) -> bool {
        let Some(url) = self.options.url.first() else { return false };
        for _ in 0..self.options.patience * 2 {
            if let Ok(response) = self.client.get(format!("{url}/payment/{id}")).send().await
                && response.status().as_u16() < 500
            {
                let found: Value = response.json().await.unwrap_or_default();
                return ["user_id", "amount"]
                    .iter()
                    .all(|member| found.get(member) == payment.get(member));
            }
            sleep(Duration::from_millis(500)).await;
        }
        false
    }

    async fn run(&self) {
        let next = AtomicU64::new(0);
        join_all((0..self.options.clients).map(|_| async {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= self.options.payments {
                    return;
                }
                self.intend(number).await;
            }
        }))
        .await;
        self.bar.finish_and_clear();
    }

    /// Reads every payment back, prints the table, and says whether every promise was kept.
    async fn report(&self, took: Duration) -> bool {
        let made = std::mem::take(&mut *lock(&self.seen.made));
        let mut found = 0;
        for batch in made.values().collect::<Vec<_>>().chunks(64) {
            let there =
                join_all(batch.iter().map(|(id, payment)| self.is_there(id, payment))).await;
            found += there.iter().filter(|there| **there).count();
        }
        let ids: BTreeSet<&String> = made.values().map(|(id, _)| id).collect();
        if ids.len() < made.len() {
            self.seen
                .broken(format!("{} keys share a payment with another", made.len() - ids.len()));
        }
        let intended = self.options.payments;
        let lost = intended.saturating_sub(u64::try_from(found).unwrap_or(0));
        if lost > 0 {
            self.seen.broken(format!("{lost} payments are not there"));
        }
        let broken = lock(&self.seen.broken);
        let number = |counter: &AtomicU64| counter.load(Ordering::Relaxed).to_string();
        let row = |name: &str, value: String| println!("{name:<34}{value:>12}");
        row("payments intended", intended.to_string());
        row("requests sent", number(&self.seen.requests));
        row("  retries", number(&self.seen.retries));
        row("  given up in the middle", number(&self.seen.hang_ups));
        row("payments made, as read back", found.to_string());
        row("answered by a replay", number(&self.seen.replays));
        row("wrong reuse refused", number(&self.seen.reuses_refused));
        row("duplicates", number(&self.seen.duplicates));
        row("lost", lost.to_string());
        let mut latencies = std::mem::take(&mut *lock(&self.seen.latencies));
        latencies.sort_unstable();
        for (name, per_mille) in [("p50", 500), ("p95", 950), ("p99", 990), ("longest", 1000)] {
            let place = (latencies.len() * per_mille / 1000).min(latencies.len().saturating_sub(1));
            let latency = latencies.get(place).copied().unwrap_or_default();
            row(
                &format!("latency of final answers, {name}"),
                format!("{:.1} ms", latency.as_secs_f64() * 1e3),
            );
        }
        row("took", format!("{:.1} s", took.as_secs_f64()));
        println!("answers by status                 {:?}", lock(&self.seen.statuses));
        for what in broken.iter().take(20) {
            println!("BROKEN: {what}");
        }
        println!(
            "{}",
            if broken.is_empty() {
                "every payment was made exactly once"
            } else {
                "PROMISES WERE BROKEN"
            }
        );
        broken.is_empty()
    }
}

#[tokio::main]
async fn main() -> Result<ExitCode, Box<dyn std::error::Error>> {
    let options = Options::parse();
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} payments, {msg} {eta}")?;
    let mut headers = HeaderMap::new();
    if let Ok(api_key) = std::env::var("PAYONCE_API_KEY") {
        headers.insert(AUTHORIZATION, format!("Bearer {api_key}").try_into()?);
    }
    let client = reqwest::Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(30))
        .default_headers(headers)
        .build()?;
    let storm = Storm {
        client,
        bar: ProgressBar::new(options.payments).with_style(style),
        seen: Seen::default(),
        options,
    };
    let began = Instant::now();
    storm.run().await;
    let kept = storm.report(began.elapsed()).await;
    Ok(if kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
