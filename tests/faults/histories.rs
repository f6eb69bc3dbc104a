//! Random histories of requests, expiries, sweeps and faults, recorded with their times and checked
//! against what may be at all.
//!
//! `PAYONCE_HISTORIES=1000` runs as many; `PAYONCE_SEED=…`, as a failure prints it, the same again.
//! The smallest history that still fails is printed with it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce::{idempotency::Sweeper, server::sweep_pass};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use sqlx::{Executor, PgConnection};
use tokio::{sync::Mutex, time::sleep};

use crate::support::{TestDatabase, TestServer, proxy::Proxy, retry::Clients};

/// Two servers, three clients, two keys, four requests: few, so that they meet.
const SERVERS: usize = 2;
const CLIENTS: usize = 3;

/// A request: few users and amounts, so that some are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Request {
    user: u8,
    amount: u8,
}

/// What a client does next.
#[derive(Debug, Clone, Copy)]
enum Act {
    Send {
        server: usize,
        key: u8,
        request: Request,
    },
    /// All answers stored so far expire.
    Expire,
    Sweep,
    /// All connections of one server to PostgreSQL are cut.
    Cut {
        server: usize,
    },
    /// They are frozen.
    Freeze {
        server: usize,
    },
    /// PostgreSQL ends all connections.
    Terminate,
    Pause {
        milliseconds: u64,
    },
}

fn act() -> impl Strategy<Value = Act> {
    let send = (0..SERVERS, 0..2_u8, 0..2_u8, 1..3_u8).prop_map(|(server, key, user, amount)| {
        Act::Send { server, key, request: Request { user, amount } }
    });
    prop_oneof![
        20 => send,
        1 => Just(Act::Expire),
        1 => Just(Act::Sweep),
        2 => (0..SERVERS).prop_map(|server| Act::Cut { server }),
        1 => (0..SERVERS).prop_map(|server| Act::Freeze { server }),
        1 => Just(Act::Terminate),
        6 => (0..15_u64).prop_map(|milliseconds| Act::Pause { milliseconds }),
    ]
}

/// What each client does, one thing after the other.
type History = Vec<Vec<Act>>;

fn history() -> impl Strategy<Value = History> {
    prop::collection::vec(prop::collection::vec(act(), 1..16), CLIENTS)
}

/// A request that was answered, with whatever.
#[derive(Debug, Clone)]
struct Event {
    key: u8,
    request: Request,
    begun: Instant,
    ended: Instant,
    /// 0: the connection failed.
    status: u16,
    body: String,
    /// Whether the payment that it names was there as soon as the answer was.
    committed: bool,
}

impl Event {
    /// Whether it says that the key is used up.
    fn is_final(&self) -> bool {
        matches!(self.status, 200 | 201 | 410 | 422)
    }
}

/// What a key stands for, in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Payment {
    key: u8,
    request: Request,
    id: String,
}

/// When answers were made to expire.
#[derive(Debug, Clone, Copy)]
struct Expiry {
    begun: Instant,
    ended: Instant,
}

#[derive(Debug, Default)]
struct Record {
    events: Vec<Event>,
    payments: Vec<Payment>,
    expiries: Vec<Expiry>,
}

impl Record {
    /// What of this can't be: nothing, for a service that does what it promises.
    fn violations(&self) -> Vec<String> {
        let mut violations = Vec::new();
        let mut demand = |holds: bool, what: &str, event: &dyn std::fmt::Debug| {
            if !holds {
                violations.push(format!("{what}: {event:?}"));
            }
        };
        for payment in &self.payments {
            let sent = self
                .events
                .iter()
                .any(|event| (event.key, event.request) == (payment.key, payment.request));
            demand(sent, "nobody sent this", payment);
            let others = self.payments.iter().filter(|other| other.key == payment.key).count();
            demand(others == 1, "executed more than once", payment);
        }
        for event in &self.events {
            let payment = self.payments.iter().find(|payment| payment.key == event.key);
            let same = payment.is_some_and(|payment| payment.request == event.request);
            match event.status {
                200 | 201 => {
                    demand(same, "answered as made, and not what was made", event);
                    let names_it = payment.is_some_and(|payment| event.body.contains(&payment.id));
                    demand(names_it, "names another payment than was made", event);
                    demand(event.committed, "answered before it was committed", event);
                }
                410 => {
                    demand(same, "expired, and not what was made", event);
                    let expired = self.expiries.iter().any(|expiry| expiry.begun < event.ended);
                    demand(expired, "expired, and nothing was", event);
                }
                422 => demand(payment.is_some() && !same, "reused, and isn't", event),
                0 | 409 | 503 => {}
                _ => demand(false, "no answer that can be", event),
            }
            if matches!(event.status, 200 | 201) {
                let bodies = self
                    .events
                    .iter()
                    .filter(|other| other.key == event.key && !other.body.is_empty());
                let mut replays = bodies.filter(|other| matches!(other.status, 200 | 201));
                demand(
                    replays.all(|other| other.body == event.body),
                    "answered in two ways",
                    event,
                );
            }
            let before: Vec<&Event> = self
                .events
                .iter()
                .filter(|other| {
                    other.key == event.key && other.is_final() && other.ended < event.begun
                })
                .collect();
            demand(event.status != 201 || before.is_empty(), "new, and was used up before", event);
            let outlived = self.expiries.iter().any(|expiry| {
                expiry.ended < event.begun && before.iter().any(|other| other.ended < expiry.begun)
            });
            demand(event.status != 200 || !outlived, "replayed, and had expired", event);
            let twice = self
                .events
                .iter()
                .filter(|other| other.key == event.key && other.status == 201)
                .count();
            demand(event.status != 201 || twice == 1, "new, twice", event);
        }
        violations
    }
}

/// What histories are played on: two servers, each behind a proxy, on one database.
struct Stage {
    database: Arc<TestDatabase>,
    proxies: Vec<Proxy>,
    servers: Vec<TestServer>,
    clients: Clients,
    watcher: Mutex<PgConnection>,
    number: AtomicU32,
}

impl Stage {
    async fn new() -> Self {
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

    /// Plays a history with keys of its own, and returns what came of it.
    async fn play(&self, history: &History) -> Record {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let record = std::sync::Mutex::new(Record::default());
        join_all(history.iter().map(async |acts| {
            for act in acts {
                self.act(*act, number, &record).await;
            }
        }))
        .await;
        // What a client gave up may still be under way: nothing is after the deadline.
        for key in 0..2 {
            let probe = Act::Send { server: 0, key, request: Request { user: 9, amount: 9 } };
            for _ in 0..50 {
                self.act(probe, number, &record).await;
                let settled = record.lock().unwrap().events.last().is_some_and(Event::is_final);
                if settled {
                    break;
                }
                sleep(Duration::from_millis(100)).await;
            }
        }
        let mut record = record.into_inner().unwrap();
        record.payments = self.payments(number).await;
        record
    }

    async fn act(&self, act: Act, number: u32, record: &std::sync::Mutex<Record>) {
        match act {
            Act::Send { server, key, request } => {
                let event = self.send(number, server, key, request).await;
                record.lock().unwrap().events.push(event);
            }
            Act::Expire => {
                let begun = Instant::now();
                let expire = "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'
                              WHERE replayable_until > now()";
                self.watcher.lock().await.execute(expire).await.unwrap();
                record.lock().unwrap().expiries.push(Expiry { begun, ended: Instant::now() });
            }
            Act::Sweep => {
                let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
                // PostgreSQL may end its connection, as any other.
                let _ = sweep_pass(&mut sweeper, &self.database.options, Duration::ZERO).await;
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

    async fn send(&self, number: u32, server: usize, key: u8, request: Request) -> Event {
        let begun = Instant::now();
        let body =
            format!(r#"{{"user_id": "user-{}", "amount": {}}}"#, request.user, request.amount);
        let answer = self
            .clients
            .send(self.servers[server].address, &format!("{number}-{key}"), &body)
            .await;
        let ended = Instant::now();
        let (status, body) =
            answer.map_or((0, String::new()), |answer| (answer.status, answer.body));
        let committed = match body.split("\"transaction_id\":\"").nth(1) {
            Some(rest) if matches!(status, 200 | 201) => {
                let id = rest.split('"').next().unwrap();
                let there = "SELECT EXISTS (SELECT FROM payments WHERE transaction_id = $1::uuid)";
                let mut watcher = self.watcher.lock().await;
                sqlx::query_scalar(there).bind(id).fetch_one(&mut *watcher).await.unwrap()
            }
            _ => false,
        };
        Event { key, request, begun, ended, status, body, committed }
    }

    async fn payments(&self, number: u32) -> Vec<Payment> {
        // By way of payments, which no key need stand for.
        let rows: Vec<(String, String, i64, String)> = sqlx::query_as(
            "SELECT key, user_id, amount, transaction_id::text FROM payments
             JOIN idempotency_keys ON execution_id = transaction_id WHERE key LIKE $1 || '-%'",
        )
        .bind(number.to_string())
        .fetch_all(&mut *self.watcher.lock().await)
        .await
        .unwrap();
        rows.into_iter()
            .map(|(key, user, amount, id)| {
                let key = key.rsplit('-').next().unwrap().parse().unwrap();
                let user = user.strip_prefix("user-").unwrap().parse().unwrap();
                Payment {
                    key,
                    request: Request { user, amount: u8::try_from(amount).unwrap() },
                    id,
                }
            })
            .collect()
    }
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_histories_are_what_may_be() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stage = runtime.block_on(Stage::new());
    let seed = variable("PAYONCE_SEED", fastrand::u64(..));
    let mut runner = TestRunner::new(Config {
        cases: u32::try_from(variable("PAYONCE_HISTORIES", 60)).unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let statuses = std::sync::Mutex::new(std::collections::BTreeMap::<u16, u32>::new());
    let played = runner.run(&history(), |history| {
        let record = runtime.block_on(stage.play(&history));
        for event in &record.events {
            *statuses.lock().unwrap().entry(event.status).or_default() += 1;
        }
        let violations = record.violations();
        prop_assert!(violations.is_empty(), "{violations:#?}");
        Ok(())
    });
    let statuses = statuses.into_inner().unwrap();
    eprintln!("seed {seed}, answers by status: {statuses:?}");
    // Every payment has a key: no history made one beside the keys.
    let unkeyed =
        "SELECT count(*) FROM payments LEFT JOIN idempotency_keys ON execution_id = transaction_id
                   WHERE execution_id IS NULL";
    assert_eq!(runtime.block_on(stage.database.number(unkeyed)), 0);
    if let Err(failure) = played {
        panic!("run it again with PAYONCE_SEED={seed}: {failure}");
    }
    for status in [200, 201, 410, 422] {
        assert!(statuses.contains_key(&status), "no history came to a {status}: {statuses:?}");
    }
    runtime.block_on(async { drop(stage) });
}

/// The checker itself: each thing that must not be is found.
mod the_checker_finds {
    use super::*;

    const REQUEST: Request = Request { user: 0, amount: 1 };
    const OTHER: Request = Request { user: 1, amount: 2 };

    /// At these times in milliseconds.
    fn event(begun: u64, ended: u64, request: Request, status: u16) -> Event {
        let at = |milliseconds| *START + Duration::from_millis(milliseconds);
        let body = if matches!(status, 200 | 201) { "an-id" } else { "" };
        Event {
            key: 0,
            request,
            begun: at(begun),
            ended: at(ended),
            status,
            body: body.into(),
            committed: true,
        }
    }

    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

    fn payment(request: Request) -> Payment {
        Payment { key: 0, request, id: "an-id".into() }
    }

    fn expiry(begun: u64, ended: u64) -> Expiry {
        let at = |milliseconds| *START + Duration::from_millis(milliseconds);
        Expiry { begun: at(begun), ended: at(ended) }
    }

    #[track_caller]
    fn assert_found(record: &Record, what: &str) {
        let violations = record.violations();
        assert!(
            violations.iter().any(|violation| violation.starts_with(what)),
            "{what}: {violations:#?}"
        );
    }

    #[test]
    fn nothing_in_a_history_that_may_be() {
        let events = vec![
            event(0, 5, REQUEST, 503),
            event(6, 10, REQUEST, 201),
            event(7, 12, REQUEST, 200),
            event(13, 14, OTHER, 422),
            event(20, 21, REQUEST, 410),
            event(22, 23, OTHER, 422),
        ];
        let record =
            Record { events, payments: vec![payment(REQUEST)], expiries: vec![expiry(15, 16)] };
        assert_eq!(record.violations(), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be() {
        let with = |events: Vec<Event>, payments: Vec<Payment>, expiries: Vec<Expiry>| Record {
            events,
            payments,
            expiries,
        };
        let made = || vec![payment(REQUEST)];
        assert_found(&with(vec![], made(), vec![]), "nobody sent this");
        assert_found(&with(vec![event(0, 1, OTHER, 422)], made(), vec![]), "nobody sent this");
        let twice = vec![payment(REQUEST), payment(REQUEST)];
        assert_found(
            &with(vec![event(0, 1, REQUEST, 201)], twice, vec![]),
            "executed more than once",
        );
        assert_found(&with(vec![event(0, 1, REQUEST, 201)], vec![], vec![]), "answered as made");
        assert_found(&with(vec![event(0, 1, OTHER, 200)], made(), vec![]), "answered as made");
        let elsewhere = Event { body: "other-id".into(), ..event(0, 1, REQUEST, 200) };
        assert_found(&with(vec![elsewhere.clone()], made(), vec![]), "names another payment");
        let two = vec![event(0, 1, REQUEST, 201), elsewhere];
        assert_found(&with(two, made(), vec![]), "answered in two ways");
        let early = Event { committed: false, ..event(0, 1, REQUEST, 201) };
        assert_found(&with(vec![early], made(), vec![]), "answered before it was committed");
        assert_found(&with(vec![event(0, 1, REQUEST, 422)], made(), vec![]), "reused, and isn't");
        assert_found(&with(vec![event(0, 1, REQUEST, 422)], vec![], vec![]), "reused, and isn't");
        let again = vec![event(0, 1, REQUEST, 200), event(2, 3, REQUEST, 201)];
        assert_found(&with(again, made(), vec![]), "new, and was used up before");
        let both = vec![event(0, 5, REQUEST, 201), event(1, 4, REQUEST, 201)];
        assert_found(&with(both, made(), vec![]), "new, twice");
        assert_found(
            &with(vec![event(0, 1, REQUEST, 410)], made(), vec![]),
            "expired, and nothing was",
        );
        assert_found(
            &with(vec![event(0, 1, OTHER, 410)], made(), vec![expiry(0, 0)]),
            "expired, and not what was",
        );
        let late = vec![event(0, 1, REQUEST, 201), event(6, 7, REQUEST, 200)];
        assert_found(&with(late, made(), vec![expiry(3, 4)]), "replayed, and had expired");
        assert_found(
            &with(vec![event(0, 1, REQUEST, 500)], vec![], vec![]),
            "no answer that can be",
        );
    }
}
