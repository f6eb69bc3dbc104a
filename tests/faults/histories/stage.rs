//! Plays histories on two servers, and records the responses.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce::{
    db::sweep::{self, Pace},
    idempotency::{BatchCommand, Sweeper},
    payments::money::Amount,
    refunds::{command::CreateRefund, refundable::Wanted},
};
use sqlx::{Executor, PgConnection};
use tokio::{sync::Mutex, time::sleep};
use uuid::Uuid;

use super::{
    Act, History, KEYS, PAID, Request, SERVERS,
    record::{Event, Expiry, Paid, Record, State, Told, Used},
};
use crate::support::{
    TestDatabase, TestServer,
    proxy::Proxy,
    retry::{Clients, VOID},
};

/// A duplicate of a request in progress gets what that request read, at most this long ago.
const SHOWN_AFTER: Duration = Duration::from_secs(1);

/// The system under test: two servers on one database, each behind a proxy.
pub struct Stage {
    pub database: Arc<TestDatabase>,
    proxies: Vec<Proxy>,
    servers: Vec<TestServer>,
    clients: Clients,
    watcher: Mutex<PgConnection>,
    number: AtomicU32,
}

impl Stage {
    pub async fn new() -> Self {
        let database = Arc::new(TestDatabase::create().await);
        let (mut proxies, mut servers) = (Vec::new(), Vec::new());
        for _ in 0..SERVERS {
            let proxy = Proxy::start(&database.options).await;
            let flags = ["--request-deadline", "2s", "--in-flight-wait", "500ms"];
            servers.push(
                TestServer::start_through(&database, &proxy.through(&database.options), &flags)
                    .await,
            );
            proxies.push(proxy);
        }
        let watcher = Mutex::new(database.connect().await);
        Self {
            database,
            proxies,
            servers,
            clients: Clients::new(&[]),
            watcher,
            number: AtomicU32::new(0),
        }
    }

    /// Plays a history with its own keys, and returns the record.
    pub async fn play(&self, history: &History) -> Record {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let game = Game { number, payment: self.pay_before(number).await };
        let record = std::sync::Mutex::new(Record::default());
        join_all(history.iter().map(async |acts| {
            for act in acts {
                self.act(*act, &game, &record).await;
            }
        }))
        .await;
        // An abandoned request may still be in progress, but not after the deadline.
        for key in 0..KEYS {
            let request = Request::Pay { user: 9, amount: 9 };
            let probe = Act::Send { server: 0, key, request };
            for _ in 0..50 {
                self.act(probe, &game, &record).await;
                let settled = record.lock().unwrap().events.last().is_some_and(Event::is_final);
                if settled {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
            self.act(Act::Ask { server: 1, key }, &game, &record).await;
        }
        let mut record = record.into_inner().unwrap();
        record.used = self.used(&game).await;
        record.voided = self.voided(&game).await;
        record.paid = self.paid(&game).await;
        record
    }

    /// Creates the payment that is refunded in a history.
    async fn pay_before(&self, number: u32) -> Uuid {
        let addresses = self.servers.iter().map(|server| server.address).collect();
        *self.clients.servers.lock().unwrap() = addresses;
        let body = format!(r#"{{"user_id": "before", "amount": {PAID}}}"#);
        let response = self.clients.pay(&format!("before-{number}"), &body).await;
        response.field("transaction_id").parse().unwrap()
    }

    async fn act(&self, act: Act, game: &Game, record: &std::sync::Mutex<Record>) {
        match act {
            Act::Send { server, key, request } => {
                let event = self.send(game, server, key, request).await;
                record.lock().unwrap().events.push(event);
            }
            Act::Ask { server, key } => {
                let told = self.tell(game, server, key, false).await;
                record.lock().unwrap().told.push(told);
            }
            Act::Void { server, key } => {
                let told = self.tell(game, server, key, true).await;
                record.lock().unwrap().told.push(told);
            }
            Act::Expire => {
                let begun = Instant::now();
                let expire = "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'
                              WHERE replayable_until > now()";
                self.watcher.lock().await.execute(expire).await.unwrap();
                let ended = Instant::now();
                let shown = ended + SHOWN_AFTER;
                record.lock().unwrap().expiries.push(Expiry { begun, ended, shown });
                // Otherwise no later act of this client would have to see the expiry.
                sleep(SHOWN_AFTER).await;
            }
            Act::Sweep => {
                let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
                // PostgreSQL may terminate its connection, too.
                let _ =
                    sweep::pass(&mut sweeper, &self.database.options, Pace::Full, |_, _| {}).await;
            }
            Act::Cut { server } => self.proxies[server].cut_all(),
            Act::Freeze { server } => self.proxies[server].freeze_all(),
            Act::Terminate => {
                let others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                              WHERE datname = current_database() AND pid <> pg_backend_pid()";
                self.watcher.lock().await.execute(others).await.unwrap();
            }
            Act::Pause { milliseconds } => sleep(Duration::from_millis(milliseconds)).await,
        }
    }

    async fn send(&self, game: &Game, server: usize, key: u8, request: Request) -> Event {
        let begun = Instant::now();
        let (path, body, id, there) = match request {
            Request::Pay { user, amount } => (
                "/payment".to_owned(),
                format!(r#"{{"user_id": "user-{user}", "amount": {amount}}}"#),
                "\"transaction_id\":\"",
                "SELECT EXISTS (SELECT FROM payments WHERE transaction_id = $1::uuid)",
            ),
            Request::Refund { amount } => (
                format!("/payment/{}/refund", game.payment),
                format!(r#"{{"amount": {amount}}}"#),
                "\"refund_id\":\"",
                "SELECT EXISTS (SELECT FROM refunds WHERE refund_id = $1::uuid)",
            ),
        };
        let key_sent = game.key(key);
        let address = self.servers[server].address;
        let response = self.clients.send_to(address, &path, &key_sent, &body).await;
        let ended = Instant::now();
        let (status, body) =
            response.map_or((0, String::new()), |response| (response.status, response.body));
        let committed = match body.split(id).nth(1) {
            Some(rest) if matches!(status, 200 | 201) => {
                let id = rest.split('"').next().unwrap();
                let mut watcher = self.watcher.lock().await;
                sqlx::query_scalar(there).bind(id).fetch_one(&mut *watcher).await.unwrap()
            }
            _ => false,
        };
        Event { key, request, begun, ended, status, body, committed }
    }

    async fn tell(&self, game: &Game, server: usize, key: u8, voids: bool) -> Told {
        let (sent, address) = (game.key(key), self.servers[server].address);
        let begun = Instant::now();
        let response = if voids {
            self.clients.send_to(address, VOID, &sent, "").await
        } else {
            self.clients.ask(address, &sent).await
        };
        let ended = Instant::now();
        let status = response.as_ref().map_or(0, |response| response.status);
        let state = response.filter(|response| response.status == 200).as_ref().map(State::read);
        Told { key, voids, begun, ended, status, state }
    }

    async fn used(&self, game: &Game) -> Vec<Used> {
        // Payments and refunds, also without a key; a refused refund has a key only.
        type Row = (String, Option<String>, Option<i64>, Option<String>, Vec<u8>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT key, user_id, made.amount, made.id::text, fingerprint FROM idempotency_keys AS k
             LEFT JOIN (SELECT transaction_id AS id, user_id, amount FROM payments
                        UNION ALL SELECT refund_id, NULL, amount FROM refunds) AS made ON id = execution_id
             WHERE key LIKE $1 || '-%' AND (operation <> 'void' OR made.id IS NOT NULL)",
        )
        .bind(game.number.to_string())
        .fetch_all(&mut *self.watcher.lock().await)
        .await
        .unwrap();
        rows.into_iter()
            .map(|(key, user, amount, made, fingerprint)| {
                let key = Game::number_of(&key);
                let amount = amount.map(|amount| u8::try_from(amount).unwrap());
                let request = match (user, amount) {
                    (Some(user), Some(amount)) => {
                        let user = user.strip_prefix("user-").unwrap().parse().unwrap();
                        Request::Pay { user, amount }
                    }
                    (_, Some(amount)) => Request::Refund { amount },
                    (_, None) => game.refused(&fingerprint),
                };
                Used { key, request, made }
            })
            .collect()
    }

    async fn voided(&self, game: &Game) -> Vec<u8> {
        let voided =
            "SELECT key FROM idempotency_keys WHERE key LIKE $1 || '-%' AND operation = 'void'";
        let mut watcher = self.watcher.lock().await;
        let keys: Vec<String> = sqlx::query_scalar(voided)
            .bind(game.number.to_string())
            .fetch_all(&mut *watcher)
            .await
            .unwrap();
        keys.iter().map(|key| Game::number_of(key)).collect()
    }

    async fn paid(&self, game: &Game) -> Paid {
        let refunded = "SELECT refunded FROM payments WHERE transaction_id = $1";
        let mut watcher = self.watcher.lock().await;
        let refunded =
            sqlx::query_scalar(refunded).bind(game.payment).fetch_one(&mut *watcher).await;
        Paid { refunded: refunded.unwrap() }
    }
}

/// The names of one history.
struct Game {
    number: u32,
    /// The payment that was created before.
    payment: Uuid,
}

impl Game {
    /// The key of this number, as it is sent.
    fn key(&self, number: u8) -> String {
        format!("{}-{number}", self.number)
    }

    fn number_of(key: &str) -> u8 {
        key.rsplit('-').next().unwrap().parse().unwrap()
    }

    /// Finds the refund with this fingerprint; the tables contain nothing else about a refused one.
    fn refused(&self, fingerprint: &[u8]) -> Request {
        let is = |amount: &u8| {
            let amount = Amount::from_minor_units((*amount).into());
            let refund = CreateRefund {
                transaction_id: self.payment.into(),
                wanted: Wanted::Amount(amount.unwrap()),
            };
            refund.fingerprint().as_bytes() == fingerprint
        };
        let amount = (1..=PAID).find(is).expect("nothing but a refund is refused");
        Request::Refund { amount }
    }
}
