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
use payonce::{
    idempotency::{Command, Sweeper},
    payments::money::Amount,
    refunds::refund::GiveBack,
    server::sweep_pass,
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};
use sqlx::{Executor, PgConnection};
use tokio::{sync::Mutex, time::sleep};
use uuid::Uuid;

use crate::support::{TestDatabase, TestServer, proxy::Proxy, retry::Clients};

/// Two servers, three clients, three keys, four payments and two refunds: few, so that they meet.
const SERVERS: usize = 2;
const CLIENTS: usize = 3;
const KEYS: u8 = 3;

/// What is paid before each history, to be refunded in it: enough for one refund of two, not for two.
const PAID: u8 = 3;

/// A request: few users and amounts, so that some are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Pay {
        user: u8,
        amount: u8,
    },
    /// Of the payment that was made before.
    Refund {
        amount: u8,
    },
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
    let request = prop_oneof![
        (0..2_u8, 1..3_u8).prop_map(|(user, amount)| Request::Pay { user, amount }),
        (1..3_u8).prop_map(|amount| Request::Refund { amount }),
    ];
    let send = (0..SERVERS, 0..KEYS, request).prop_map(|(server, key, request)| Act::Send {
        server,
        key,
        request,
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
    /// Whether what it says was made was there as soon as the answer was.
    committed: bool,
}

impl Event {
    /// Whether it says that the key is used up.
    fn is_final(&self) -> bool {
        matches!(self.status, 200 | 201 | 402 | 410 | 422)
    }
}

/// What a key stands for, in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Used {
    key: u8,
    request: Request,
    /// The payment's or refund's id; `None` for a refund that was refused.
    made: Option<String>,
}

/// What the payment that was made before says in the end of how much of it was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Paid {
    refunded: i64,
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
    used: Vec<Used>,
    paid: Paid,
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
        for used in &self.used {
            let sent = self
                .events
                .iter()
                .any(|event| (event.key, event.request) == (used.key, used.request));
            demand(sent, "nobody sent this", used);
            let others = self.used.iter().filter(|other| other.key == used.key).count();
            demand(others == 1, "executed more than once", used);
        }
        let refunds = self.used.iter().filter(|used| used.made.is_some());
        let refunded: i64 = refunds
            .filter_map(|used| match used.request {
                Request::Refund { amount } => Some(i64::from(amount)),
                Request::Pay { .. } => None,
            })
            .sum();
        demand(refunded <= PAID.into(), "more refunded than was paid", &refunded);
        demand(refunded == self.paid.refunded, "the payment says another sum", &self.paid);
        for event in &self.events {
            let used = self.used.iter().find(|used| used.key == event.key);
            let same = used.is_some_and(|used| used.request == event.request);
            let made = used.and_then(|used| used.made.as_ref());
            match event.status {
                200 | 201 => {
                    demand(
                        same && made.is_some(),
                        "answered as made, and not what was made",
                        event,
                    );
                    let names_it = made.is_some_and(|id| event.body.contains(id));
                    demand(names_it, "names another thing than was made", event);
                    demand(event.committed, "answered before it was committed", event);
                }
                402 => {
                    demand(same && made.is_none(), "refused, and is not what was refused", event);
                    let excessive = match event.request {
                        Request::Refund { amount } => refunded + i64::from(amount) > PAID.into(),
                        Request::Pay { .. } => false,
                    };
                    demand(excessive, "refused, and was possible", event);
                }
                410 => {
                    demand(same && made.is_some(), "expired, and not what was made", event);
                    let expired = self.expiries.iter().any(|expiry| expiry.begun < event.ended);
                    demand(expired, "expired, and nothing was", event);
                }
                422 => demand(used.is_some() && !same, "reused, and isn't", event),
                0 | 409 | 503 => {}
                _ => demand(false, "no answer that can be", event),
            }
            if matches!(event.status, 200 | 201 | 402) {
                let bodies = self
                    .events
                    .iter()
                    .filter(|other| other.key == event.key && !other.body.is_empty());
                let mut replays = bodies.filter(|other| matches!(other.status, 200 | 201 | 402));
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
        let game = Game { number, payment: self.pay_before(number).await };
        let record = std::sync::Mutex::new(Record::default());
        join_all(history.iter().map(async |acts| {
            for act in acts {
                self.act(*act, &game, &record).await;
            }
        }))
        .await;
        // What a client gave up may still be under way: nothing is after the deadline.
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
        }
        let mut record = record.into_inner().unwrap();
        record.used = self.used(&game).await;
        record.paid = self.paid(&game).await;
        record
    }

    /// Makes the payment that is refunded in a history.
    async fn pay_before(&self, number: u32) -> Uuid {
        let addresses = self.servers.iter().map(|server| server.address).collect();
        *self.clients.servers.lock().unwrap() = addresses;
        let body = format!(r#"{{"user_id": "before", "amount": {PAID}}}"#);
        let answer = self.clients.pay(&format!("before-{number}"), &body).await;
        answer.member("transaction_id").parse().unwrap()
    }

    async fn act(&self, act: Act, game: &Game, record: &std::sync::Mutex<Record>) {
        match act {
            Act::Send { server, key, request } => {
                let event = self.send(game, server, key, request).await;
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
        let key_sent = format!("{}-{key}", game.number);
        let address = self.servers[server].address;
        let answer = self.clients.send_to(address, &path, &key_sent, &body).await;
        let ended = Instant::now();
        let (status, body) =
            answer.map_or((0, String::new()), |answer| (answer.status, answer.body));
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

    async fn used(&self, game: &Game) -> Vec<Used> {
        // By way of what was made, which no key need stand for; what was refused is known by its key alone.
        type Row = (String, Option<String>, Option<i64>, Option<String>, Vec<u8>);
        let rows: Vec<Row> = sqlx::query_as(
            "SELECT key, user_id, made.amount, made.id::text, fingerprint FROM idempotency_keys AS k
             LEFT JOIN (SELECT transaction_id AS id, user_id, amount FROM payments
                        UNION ALL SELECT refund_id, NULL, amount FROM refunds) AS made ON id = execution_id
             WHERE key LIKE $1 || '-%'",
        )
        .bind(game.number.to_string())
        .fetch_all(&mut *self.watcher.lock().await)
        .await
        .unwrap();
        rows.into_iter()
            .map(|(key, user, amount, made, fingerprint)| {
                let key = key.rsplit('-').next().unwrap().parse().unwrap();
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

    async fn paid(&self, game: &Game) -> Paid {
        let refunded = "SELECT refunded FROM payments WHERE transaction_id = $1";
        let mut watcher = self.watcher.lock().await;
        let refunded =
            sqlx::query_scalar(refunded).bind(game.payment).fetch_one(&mut *watcher).await;
        Paid { refunded: refunded.unwrap() }
    }
}

/// What is one history's own.
struct Game {
    number: u32,
    /// What was paid before it.
    payment: Uuid,
}

impl Game {
    /// The refund with this fingerprint, of which the tables have nothing else.
    fn refused(&self, fingerprint: &[u8]) -> Request {
        let is = |amount: &u8| {
            let amount = Amount::from_minor_units((*amount).into());
            let refund = GiveBack { transaction_id: self.payment, amount };
            refund.fingerprint().as_bytes() == fingerprint
        };
        let amount = (1..=PAID).find(is).expect("nothing but a refund is refused");
        Request::Refund { amount }
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
    // Everything that was made has a key: no history made anything beside the keys.
    let unkeyed =
        "SELECT count(*) FROM (SELECT transaction_id AS id FROM payments UNION ALL SELECT refund_id FROM refunds)
                AS made LEFT JOIN idempotency_keys ON execution_id = id WHERE execution_id IS NULL";
    assert_eq!(runtime.block_on(stage.database.number(unkeyed)), 0);
    if let Err(failure) = played {
        panic!("run it again with PAYONCE_SEED={seed}: {failure}");
    }
    for status in [200, 201, 402, 410, 422] {
        assert!(statuses.contains_key(&status), "no history came to a {status}: {statuses:?}");
    }
    runtime.block_on(async { drop(stage) });
}

/// The checker itself: each thing that must not be is found.
mod the_checker_finds {
    use super::*;

    const REQUEST: Request = Request::Pay { user: 0, amount: 1 };
    const OTHER: Request = Request::Pay { user: 1, amount: 2 };
    const REFUND: Request = Request::Refund { amount: 2 };

    /// At these times in milliseconds.
    fn event(begun: u64, ended: u64, request: Request, status: u16) -> Event {
        let at = |milliseconds| *START + Duration::from_millis(milliseconds);
        let body = match status {
            200 | 201 => "an-id",
            402 => "refused",
            _ => "",
        };
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

    fn used(request: Request) -> Used {
        Used { key: 0, request, made: Some("an-id".into()) }
    }

    /// A refund of two with another key.
    fn other_refund() -> (Used, Event) {
        let used = Used { key: 1, request: REFUND, made: Some("other-id".into()) };
        let event = Event { key: 1, body: "other-id".into(), ..event(0, 1, REFUND, 201) };
        (used, event)
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
        let record = Record {
            events,
            used: vec![used(REQUEST)],
            expiries: vec![expiry(15, 16)],
            ..Record::default()
        };
        assert_eq!(record.violations(), Vec::<String>::new());
    }

    /// A refund that was made, and one that was refused for it.
    fn refused() -> Record {
        let (other, made) = other_refund();
        let refused = Used { key: 0, request: REFUND, made: None };
        Record {
            events: vec![
                made,
                event(2, 3, REFUND, 402),
                event(4, 5, REFUND, 402),
                event(6, 7, OTHER, 422),
            ],
            used: vec![other, refused],
            paid: Paid { refunded: 2 },
            ..Record::default()
        }
    }

    #[test]
    fn nothing_in_refunds_that_may_be() {
        assert_eq!(refused().violations(), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_of_refunds() {
        let (other, made) = other_refund();
        let both = Record {
            events: vec![made, event(0, 1, REFUND, 201)],
            used: vec![other, used(REFUND)],
            paid: Paid { refunded: 4 },
            ..Record::default()
        };
        assert_found(&both, "more refunded than was paid");
        assert_found(
            &Record { paid: Paid { refunded: 3 }, ..refused() },
            "the payment says another sum",
        );
        let alone = Record { events: vec![event(2, 3, REFUND, 402)], ..refused() };
        assert_found(
            &Record { used: vec![alone.used[1].clone()], ..alone },
            "refused, and was possible",
        );
        let with = |event: Event| {
            let mut record = refused();
            record.events.push(event);
            record
        };
        assert_found(&with(event(8, 9, REFUND, 200)), "answered as made");
        assert_found(&with(event(8, 9, REFUND, 410)), "expired, and not what was");
        assert_found(&with(event(8, 9, OTHER, 402)), "refused, and is not what was refused");
        let otherwise = Event { body: "refused otherwise".into(), ..event(8, 9, REFUND, 402) };
        assert_found(&with(otherwise), "answered in two ways");
    }

    #[test]
    fn what_must_not_be() {
        let with = |events: Vec<Event>, used: Vec<Used>, expiries: Vec<Expiry>| Record {
            events,
            used,
            expiries,
            ..Record::default()
        };
        let made = || vec![used(REQUEST)];
        assert_found(&with(vec![], made(), vec![]), "nobody sent this");
        assert_found(&with(vec![event(0, 1, OTHER, 422)], made(), vec![]), "nobody sent this");
        let twice = vec![used(REQUEST), used(REQUEST)];
        assert_found(
            &with(vec![event(0, 1, REQUEST, 201)], twice, vec![]),
            "executed more than once",
        );
        assert_found(&with(vec![event(0, 1, REQUEST, 201)], vec![], vec![]), "answered as made");
        assert_found(&with(vec![event(0, 1, OTHER, 200)], made(), vec![]), "answered as made");
        let elsewhere = Event { body: "other-id".into(), ..event(0, 1, REQUEST, 200) };
        assert_found(&with(vec![elsewhere.clone()], made(), vec![]), "names another thing");
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
