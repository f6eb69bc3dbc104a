//! Random histories of requests, voided keys, expiries, sweeps and faults, recorded with their times and
//! checked against what may be at all.
//!
//! `PAYONCE_HISTORIES=1000` runs as many; `PAYONCE_SEED=…`, as a failure prints it, the same again.
//! The smallest history that still fails is printed with it.

use std::{
    collections::BTreeMap,
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

use crate::support::{
    TestDatabase, TestServer,
    client::Answer,
    proxy::Proxy,
    retry::{Clients, VOID},
};

/// How many are played where `PAYONCE_HISTORIES` doesn't say.
const HISTORIES: u64 = 60;

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
    /// Asks what a key stands for.
    Ask {
        server: usize,
        key: u8,
    },
    Void {
        server: usize,
        key: u8,
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
        4 => (0..SERVERS, 0..KEYS).prop_map(|(server, key)| Act::Ask { server, key }),
        3 => (0..SERVERS, 0..KEYS).prop_map(|(server, key)| Act::Void { server, key }),
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

    fn says_voided(&self) -> bool {
        self.status == 410 && self.body.contains("\"idempotency-key-voided\"")
    }
}

/// What a client hears that a key stands for, with the execution that this names.
#[derive(Debug, Clone, PartialEq, Eq)]
enum State {
    Unknown,
    Completed(String),
    Refused,
    Expired(String),
    Voided,
}

impl State {
    fn read(answer: &Answer) -> Self {
        match answer.member("state").as_str() {
            "unknown" => Self::Unknown,
            "completed" => Self::Completed(answer.member("execution_id")),
            "refused" => Self::Refused,
            "expired" => Self::Expired(answer.member("execution_id")),
            "voided" => Self::Voided,
            other => panic!("{other}"),
        }
    }

    /// A name without what it is about.
    fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Completed(_) => "completed",
            Self::Refused => "refused",
            Self::Expired(_) => "expired",
            Self::Voided => "voided",
        }
    }
}

/// A client that asked what a key stands for, or voided it.
#[derive(Debug, Clone)]
struct Told {
    key: u8,
    voids: bool,
    begun: Instant,
    ended: Instant,
    /// 0: the connection failed.
    status: u16,
    /// `None` where it isn't said.
    state: Option<State>,
}

impl Told {
    /// Whether it says that the key is used up.
    fn is_final(&self) -> bool {
        self.state.as_ref().is_some_and(|state| *state != State::Unknown)
    }
}

/// What a key that was executed stands for, in the tables.
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
    told: Vec<Told>,
    used: Vec<Used>,
    /// The keys that the tables have as voided.
    voided: Vec<u8>,
    paid: Paid,
    expiries: Vec<Expiry>,
}

impl Record {
    /// What of this can't be: nothing, for a service that does what it promises.
    fn violations(&self) -> Vec<String> {
        let mut violations = Violations::default();
        self.check_tables(&mut violations);
        for event in &self.events {
            self.check_event(event, &mut violations);
        }
        for told in &self.told {
            self.check_told(told, &mut violations);
        }
        violations.0
    }

    /// What the tables have in the end.
    fn check_tables(&self, violations: &mut Violations) {
        for used in &self.used {
            let sent = self
                .events
                .iter()
                .any(|event| (event.key, event.request) == (used.key, used.request));
            violations.unless(sent, "nobody sent this", used);
            let others = self.used.iter().filter(|other| other.key == used.key).count();
            violations.unless(others == 1, "executed more than once", used);
            let voided = self.voided.contains(&used.key);
            violations.unless(!voided, "executed, and voided", used);
        }
        for voided in &self.voided {
            let sent = self.told.iter().any(|told| told.voids && told.key == *voided);
            violations.unless(sent, "nobody voided this", voided);
        }
        let refunded = self.refunded();
        violations.unless(refunded <= PAID.into(), "more refunded than was paid", &refunded);
        let agreed = refunded == self.paid.refunded;
        violations.unless(agreed, "the payment says another sum", &self.paid);
    }

    fn refunded(&self) -> i64 {
        let refunds = self.used.iter().filter(|used| used.made.is_some());
        refunds
            .filter_map(|used| match used.request {
                Request::Refund { amount } => Some(i64::from(amount)),
                Request::Pay { .. } => None,
            })
            .sum()
    }

    /// A request's answer, against what the tables have and what was heard before.
    fn check_event(&self, event: &Event, violations: &mut Violations) {
        let used = self.used.iter().find(|used| used.key == event.key);
        let same = used.is_some_and(|used| used.request == event.request);
        let made = used.and_then(|used| used.made.as_ref());
        match event.status {
            200 | 201 => {
                let right = same && made.is_some();
                violations.unless(right, "answered as made, and not what was made", event);
                let names_it = made.is_some_and(|id| event.body.contains(id));
                violations.unless(names_it, "names another thing than was made", event);
                violations.unless(event.committed, "answered before it was committed", event);
            }
            402 => {
                let right = same && made.is_none();
                violations.unless(right, "refused, and is not what was refused", event);
                let excessive = match event.request {
                    Request::Refund { amount } => self.refunded() + i64::from(amount) > PAID.into(),
                    Request::Pay { .. } => false,
                };
                violations.unless(excessive, "refused, and was possible", event);
            }
            410 if event.says_voided() => {
                let voided = self.voided.contains(&event.key);
                violations.unless(voided, "said to be voided, and isn't", event);
            }
            410 => {
                let right = same && made.is_some();
                violations.unless(right, "expired, and not what was made", event);
                let expired = self.expiries.iter().any(|expiry| expiry.begun < event.ended);
                violations.unless(expired, "expired, and nothing was", event);
            }
            422 => violations.unless(used.is_some() && !same, "reused, and isn't", event),
            0 | 409 | 503 => {}
            _ => violations.unless(false, "no answer that can be", event),
        }
        let same_key = || self.events.iter().filter(|other| other.key == event.key);
        if matches!(event.status, 200 | 201 | 402) {
            let mut replays = same_key()
                .filter(|other| matches!(other.status, 200 | 201 | 402) && !other.body.is_empty());
            let alike = replays.all(|other| other.body == event.body);
            violations.unless(alike, "answered in two ways", event);
        }
        let new = event.status == 201;
        let used_up = self.heard_before(event.key, event.begun).next().is_some();
        violations.unless(!new || !used_up, "new, and was used up before", event);
        let outlived = event.status == 200 && self.had_expired(event.key, event.begun);
        violations.unless(!outlived, "replayed, and had expired", event);
        let twice = same_key().filter(|other| other.status == 201).count() > 1;
        violations.unless(!new || !twice, "new, twice", event);
    }

    /// What somebody was told of a key, against the same.
    fn check_told(&self, told: &Told, violations: &mut Violations) {
        let used = self.used.iter().find(|used| used.key == told.key);
        let made = used.and_then(|used| used.made.as_ref());
        match &told.state {
            None => {
                let may_be = matches!(told.status, 0 | 503) || told.voids && told.status == 409;
                violations.unless(may_be, "no answer that can be", told);
            }
            Some(State::Unknown) => {
                violations.unless(!told.voids, "voided, and stands for nothing", told);
                let known = self.heard_before(told.key, told.begun).next().is_some();
                violations.unless(!known, "unknown, and was known before", told);
            }
            Some(State::Completed(id)) => {
                let named = made == Some(id);
                violations.unless(named, "told as made, and not what was made", told);
                let outlived = self.had_expired(told.key, told.begun);
                violations.unless(!outlived, "told as replayable, and had expired", told);
            }
            Some(State::Expired(id)) => {
                let named = made == Some(id);
                violations.unless(named, "told as expired, and not what was made", told);
                let expired = self.expiries.iter().any(|expiry| expiry.begun < told.ended);
                violations.unless(expired, "told as expired, and nothing was", told);
            }
            Some(State::Refused) => {
                let refused = used.is_some() && made.is_none();
                violations.unless(refused, "told as refused, and wasn't", told);
            }
            Some(State::Voided) => {
                let voided = self.voided.contains(&told.key);
                violations.unless(voided, "told as voided, and isn't", told);
            }
        }
    }

    /// When those answers ended from which it was known before this that the key is used up.
    fn heard_before(&self, key: u8, before: Instant) -> impl Iterator<Item = Instant> {
        let events = self.events.iter().filter(|event| event.is_final());
        let told = self.told.iter().filter(|told| told.is_final());
        events
            .map(|event| (event.key, event.ended))
            .chain(told.map(|told| (told.key, told.ended)))
            .filter(move |(other, ended)| *other == key && *ended < before)
            .map(|(_, ended)| ended)
    }

    /// Whether what a key stands for was answered, and expired, before this.
    fn had_expired(&self, key: u8, before: Instant) -> bool {
        self.expiries
            .iter()
            .filter(|expiry| expiry.ended < before)
            .any(|expiry| self.heard_before(key, before).any(|ended| ended < expiry.begun))
    }
}

/// What can't be, in words.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn unless(&mut self, holds: bool, what: &str, about: &dyn std::fmt::Debug) {
        if !holds {
            self.0.push(format!("{what}: {about:?}"));
        }
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
            self.act(Act::Ask { server: 1, key }, &game, &record).await;
        }
        let mut record = record.into_inner().unwrap();
        record.used = self.used(&game).await;
        record.voided = self.voided(&game).await;
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
                record.lock().unwrap().expiries.push(Expiry { begun, ended: Instant::now() });
            }
            Act::Sweep => {
                let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
                // PostgreSQL may end its connection, as any other.
                let _ = sweep_pass(&mut sweeper, &self.database.options, Duration::ZERO, |_, _| {})
                    .await;
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

    async fn tell(&self, game: &Game, server: usize, key: u8, voids: bool) -> Told {
        let (sent, address) = (game.key(key), self.servers[server].address);
        let begun = Instant::now();
        let answer = if voids {
            self.clients.send_to(address, VOID, &sent, "").await
        } else {
            self.clients.ask(address, &sent).await
        };
        let ended = Instant::now();
        let status = answer.as_ref().map_or(0, |answer| answer.status);
        let state = answer.filter(|answer| answer.status == 200).as_ref().map(State::read);
        Told { key, voids, begun, ended, status, state }
    }

    async fn used(&self, game: &Game) -> Vec<Used> {
        // By way of what was made, which no key need stand for; what was refused is known by its key alone.
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

/// What is one history's own.
struct Game {
    number: u32,
    /// What was paid before it.
    payment: Uuid,
}

impl Game {
    /// A key as it is sent.
    fn key(&self, number: u8) -> String {
        format!("{}-{number}", self.number)
    }

    fn number_of(key: &str) -> u8 {
        key.rsplit('-').next().unwrap().parse().unwrap()
    }

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
    let histories = variable("PAYONCE_HISTORIES", HISTORIES);
    let mut runner = TestRunner::new(Config {
        cases: u32::try_from(histories).unwrap(),
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        max_shrink_iters: 200,
        ..Config::default()
    });
    let statuses = std::sync::Mutex::new(BTreeMap::<u16, u32>::new());
    let states = std::sync::Mutex::new(BTreeMap::<&str, u32>::new());
    let played = runner.run(&history(), |history| {
        let record = runtime.block_on(stage.play(&history));
        for event in &record.events {
            *statuses.lock().unwrap().entry(event.status).or_default() += 1;
        }
        for state in record.told.iter().filter_map(|told| told.state.as_ref()) {
            *states.lock().unwrap().entry(state.name()).or_default() += 1;
        }
        let violations = record.violations();
        prop_assert!(violations.is_empty(), "{violations:#?}");
        Ok(())
    });
    let (statuses, states) = (statuses.into_inner().unwrap(), states.into_inner().unwrap());
    eprintln!("seed {seed}, answers by status: {statuses:?}, keys by state: {states:?}");
    // Everything that was made has a key: no history made anything beside the keys.
    let unkeyed =
        "SELECT count(*) FROM (SELECT transaction_id AS id FROM payments UNION ALL SELECT refund_id FROM refunds)
                AS made LEFT JOIN idempotency_keys ON execution_id = id WHERE execution_id IS NULL";
    assert_eq!(runtime.block_on(stage.database.number(unkeyed)), 0);
    if let Err(failure) = played {
        panic!("run it again with PAYONCE_SEED={seed}: {failure}");
    }
    // Fewer than usual needn't come to everything.
    if histories >= HISTORIES {
        for status in [200, 201, 402, 410, 422] {
            assert!(statuses.contains_key(&status), "no history came to a {status}: {statuses:?}");
        }
        for state in ["unknown", "completed", "refused", "expired", "voided"] {
            assert!(states.contains_key(state), "no key was {state}: {states:?}");
        }
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
            410 => r#"{"code":"idempotency-key-expired"}"#,
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

    fn told(begun: u64, ended: u64, state: State) -> Told {
        let Event { key, begun, ended, .. } = event(begun, ended, REQUEST, 0);
        Told { key, voids: false, begun, ended, status: 200, state: Some(state) }
    }

    /// The same, by somebody who voided the key.
    fn voiding(begun: u64, ended: u64, state: State) -> Told {
        Told { voids: true, ..told(begun, ended, state) }
    }

    fn late_original(begun: u64, ended: u64) -> Event {
        let body = r#"{"code":"idempotency-key-voided"}"#.into();
        Event { body, ..event(begun, ended, REQUEST, 410) }
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

    /// A key that was voided, and its original, which came late.
    fn voided() -> Record {
        Record {
            events: vec![event(0, 5, REQUEST, 503), late_original(6, 9), late_original(20, 21)],
            told: vec![
                told(0, 1, State::Unknown),
                voiding(4, 8, State::Voided),
                told(9, 10, State::Voided),
                voiding(11, 12, State::Voided),
            ],
            voided: vec![0],
            expiries: vec![expiry(15, 16)],
            ..Record::default()
        }
    }

    /// A key that was executed and expires, and somebody who would have voided it.
    fn executed() -> Record {
        let unheard = Told { status: 409, state: None, ..voiding(3, 9, State::Unknown) };
        let id = || String::from("an-id");
        Record {
            events: vec![event(5, 10, REQUEST, 201), event(30, 31, REQUEST, 410)],
            told: vec![
                told(0, 7, State::Unknown),
                unheard,
                voiding(4, 12, State::Completed(id())),
                told(13, 14, State::Completed(id())),
                voiding(20, 21, State::Expired(id())),
            ],
            used: vec![used(REQUEST)],
            expiries: vec![expiry(15, 16)],
            ..Record::default()
        }
    }

    #[test]
    fn nothing_in_voids_that_may_be() {
        assert_eq!(voided().violations(), Vec::<String>::new());
        assert_eq!(executed().violations(), Vec::<String>::new());
        let mut refused = refused();
        refused.told = vec![told(0, 1, State::Unknown), voiding(4, 5, State::Refused)];
        assert_eq!(refused.violations(), Vec::<String>::new());
    }

    #[test]
    fn what_must_not_be_of_voided_keys() {
        let both = Record { used: vec![used(REQUEST)], ..voided() };
        assert_found(&both, "executed, and voided");
        assert_found(&Record { told: vec![], ..voided() }, "nobody voided this");
        let asked = vec![told(0, 1, State::Voided)];
        assert_found(&Record { told: asked, ..voided() }, "nobody voided this");
        let lost = Record { voided: vec![], ..voided() };
        assert_found(&lost, "told as voided, and isn't");
        assert_found(&lost, "said to be voided, and isn't");
        let after = |event: Event| {
            let mut record = voided();
            record.events.push(event);
            record
        };
        assert_found(&after(event(22, 23, REQUEST, 201)), "answered as made");
        assert_found(&after(event(22, 23, REQUEST, 201)), "new, and was used up before");
        assert_found(&after(event(22, 23, REQUEST, 200)), "answered as made");
        assert_found(&after(event(22, 23, REFUND, 402)), "refused, and is not");
        assert_found(&after(event(22, 23, REQUEST, 422)), "reused, and isn't");
        assert_found(&after(event(22, 23, REQUEST, 410)), "expired, and not what was");
        let told_after = |told: Told| {
            let mut record = voided();
            record.told.push(told);
            record
        };
        let id = || String::from("an-id");
        assert_found(&told_after(told(22, 23, State::Unknown)), "unknown, and was known before");
        assert_found(&told_after(voiding(0, 1, State::Unknown)), "voided, and stands for nothing");
        assert_found(&told_after(told(22, 23, State::Completed(id()))), "told as made");
        assert_found(&told_after(told(22, 23, State::Expired(id()))), "told as expired, and not");
        assert_found(&told_after(told(22, 23, State::Refused)), "told as refused");
        let failed = Told { status: 500, state: None, ..told(22, 23, State::Unknown) };
        assert_found(&told_after(failed), "no answer that can be");
        let in_flight = Told { status: 409, state: None, ..told(22, 23, State::Unknown) };
        assert_found(&told_after(in_flight), "no answer that can be");
    }

    #[test]
    fn what_must_not_be_of_keys_that_were_executed() {
        let with = |told: Told| {
            let mut record = executed();
            record.told.push(told);
            record
        };
        assert_found(&with(voiding(32, 33, State::Voided)), "told as voided, and isn't");
        assert_found(&with(told(11, 12, State::Unknown)), "unknown, and was known before");
        let other = || String::from("other-id");
        assert_found(&with(voiding(11, 12, State::Completed(other()))), "told as made, and not");
        assert_found(&with(voiding(32, 33, State::Expired(other()))), "told as expired, and not");
        let completed = told(32, 33, State::Completed("an-id".into()));
        assert_found(&with(completed), "told as replayable, and had expired");
        let never = Record { expiries: vec![], ..executed() };
        assert_found(&never, "told as expired, and nothing was");
        assert_found(&with(told(11, 12, State::Refused)), "told as refused");
        let mut known = executed();
        known.events = vec![event(13, 15, REQUEST, 201)];
        assert_found(&known, "new, and was used up before");
        let mut late = executed();
        late.events.push(late_original(32, 33));
        assert_found(&late, "said to be voided, and isn't");
    }
}
