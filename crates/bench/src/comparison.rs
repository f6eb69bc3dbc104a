//! payonce beside the alternatives, and what it does besides new payments: every scenario in each round.
//!
//! Each run has a fresh database, a copy of a template, and a server that was started for it. So nobody inherits what the
//! one before left behind, and what is measured are small tables; growth.rs is about large ones.

use std::time::Duration;

use super::{
    Knobs, bare, ceiling,
    load::{self, Load, Requests, STORED},
    machine::Machine,
    meters::{self, Meters},
    million,
    pgbench::{self, Script},
    results::{Collected, Results, Sample, float},
    round_trips::Counter,
    support::{
        TestDatabase,
        binary::{Serve, url},
    },
    usual,
};

pub const CLIENTS: [u32; 4] = [1, 8, 64, 256];
/// The sizes of batches without HTTP, and as many clients of the same with it.
pub const BATCHES: [u32; 2] = [64, 256];
/// Clients that send one key, beside others.
pub const STORM: u32 = 64;

pub const PAYONCE: &str = "payonce, new payments";
pub const REPLAYS: &str = "payonce, replays";
pub const MIX: &str = "payonce, 90 % new, 9 % replays, 1 % reuse";
pub const USUAL: &str = "usual design";
pub const FIVE: &str = "pgbench, five statements";
pub const ONE: &str = "pgbench, one statement";
pub const CEILING: &str = "one connection, full batches";
pub const BARE: &str = "the same behind HTTP, nothing else";
pub const BESIDE_STORM: &str = "payonce beside a storm on one key";
pub const BESIDE_OTHERS: &str = "payonce beside as many other clients";

/// What accounts, currencies, refunds and lists cost: as it was before them, and as it is with an API key.
pub const FIRST: &str = "payonce, anonymous";
pub const AUTHENTICATED: &str = "payonce, with an API key, all tables";

/// How often these two take turns in a round: their difference is small.
const TURNS: u32 = 3;

/// The databases that are copied for each run.
struct Templates {
    empty: TestDatabase,
    stored: TestDatabase,
    usual: TestDatabase,
    first: TestDatabase,
    accounts: TestDatabase,
    /// What is shown to a server on a copy of `accounts`.
    api_key: String,
}

pub async fn run(knobs: &Knobs) -> Results {
    let templates = templates().await;
    let machine = Machine::this(&templates.empty).await;
    let mut collected = Collected::default();
    for round in 1..=knobs.rounds {
        eprintln!("round {round} of {}", knobs.rounds);
        for clients in CLIENTS {
            one_round(&templates, clients, knobs.seconds, &mut collected).await;
        }
        for batch in BATCHES {
            let database = templates.empty.copy().await;
            let meters = Meters::start(&database, None).await;
            let mut sample = ceiling::run(&database, batch, knobs.seconds).await;
            meters.stop(&mut sample).await;
            collected.add(CEILING, batch, sample);
            let database = templates.empty.copy().await;
            let serve = bare::start(&database);
            let sample = measured(&database, serve, Requests::New, batch, knobs.seconds).await;
            collected.add(BARE, batch, sample);
        }
        for _ in 0..TURNS {
            for (scenario, template, api_key) in [
                (FIRST, &templates.first, ""),
                (AUTHENTICATED, &templates.accounts, templates.api_key.as_str()),
            ] {
                let database = template.copy().await;
                let serve = Serve::start(&database.options, &[]);
                database.execute("CHECKPOINT").await;
                let load = Load::showing(api_key, serve.address, Requests::New, 64, knobs.seconds);
                collected.add(scenario, 64, load.figures());
                stop(serve);
            }
        }
        for (scenario, others) in [(BESIDE_STORM, Requests::Storm), (BESIDE_OTHERS, Requests::New)]
        {
            let sample = beside(&templates, others, knobs.seconds).await;
            collected.add(scenario, STORM, sample);
        }
    }
    collected.add(PAYONCE, 0, round_trips(&templates.empty, PAYONCE).await);
    collected.add(USUAL, 0, round_trips(&templates.usual, USUAL).await);
    collected.add(
        million::SCENARIO,
        million::CLIENTS,
        million::run(&templates.empty, knobs.payments).await,
    );
    collected.results(machine, knobs.seconds, knobs.rounds)
}

async fn one_round(templates: &Templates, clients: u32, seconds: u64, collected: &mut Collected) {
    let asked = [
        (PAYONCE, &templates.empty, Requests::New),
        (REPLAYS, &templates.stored, Requests::Replays),
        (MIX, &templates.stored, Requests::Mix),
    ];
    for (scenario, template, requests) in asked {
        let database = template.copy().await;
        let serve = Serve::start(&database.options, &[]);
        let sample = measured(&database, serve, requests, clients, seconds).await;
        collected.add(scenario, clients, sample);
    }
    let database = templates.usual.copy().await;
    let serve = usual::start(&database);
    let sample = measured(&database, serve, Requests::New, clients, seconds).await;
    collected.add(USUAL, clients, sample);
    for (scenario, script) in [(FIVE, Script::FiveStatements), (ONE, Script::OneStatement)] {
        let database = templates.usual.copy().await;
        let meters = Meters::start(&database, None).await;
        let mut sample = pgbench::run(&database, script, clients, seconds);
        meters.stop(&mut sample).await;
        // Opening the connections is most of it.
        sample.remove("database_cpu_us");
        collected.add(scenario, clients, sample);
    }
}

/// A load on a server, what it cost, and the server stopped.
pub async fn measured(
    database: &TestDatabase,
    serve: Serve,
    requests: Requests,
    clients: u32,
    seconds: u64,
) -> Sample {
    let before = meters::commits_so_far(database).await;
    let meters = Meters::start(database, Some(serve.child.id())).await;
    let mut sample = Load::run(serve.address, requests, clients, seconds);
    meters.stop(&mut sample).await;
    stop(serve);
    let commits = meters::commits(database).await - before;
    sample.insert("commits".to_owned(), commits / load::requests(&sample));
    sample
}

/// The figures of some clients while others ask for something else.
async fn beside(templates: &Templates, others: Requests, seconds: u64) -> Sample {
    let database = templates.empty.copy().await;
    let serve = Serve::start(&database.options, &[]);
    database.execute("CHECKPOINT").await;
    let observed = Load::start(serve.address, Requests::New, 64, seconds);
    let others = Load::start(serve.address, others, STORM, seconds).figures();
    let mut sample = observed.figures();
    sample.insert("rate_of_others".to_owned(), others["rate"]);
    stop(serve);
    sample
}

/// Round trips a payment, in a run of its own: the proxy that counts them takes processor time.
async fn round_trips(template: &TestDatabase, scenario: &str) -> Sample {
    let database = template.copy().await;
    let counter = Counter::start(&database.options);
    let serve = match scenario {
        USUAL => usual::start_at(&url(&counter.options)),
        _ => Serve::start(&counter.options, &[]),
    };
    let before = counter.round_trips();
    let sample = Load::run(serve.address, Requests::New, 64, 1);
    let round_trips = float(counter.round_trips() - before) / load::requests(&sample);
    stop(serve);
    Sample::from([("round_trips".to_owned(), round_trips)])
}

pub fn stop(mut serve: Serve) {
    serve.signal("TERM");
    let (status, log) = serve.wait();
    assert!(status.success(), "{log}");
}

async fn templates() -> Templates {
    let (empty, stored) = (TestDatabase::create().await, TestDatabase::create().await);
    let usual = TestDatabase::create().await;
    usual.execute(include_str!("usual_tables.sql")).await;
    let first = TestDatabase::create().await;
    let accounts = TestDatabase::create().await;
    let api_key = accounts.create_api_key("default")["api_key"].as_str().unwrap().to_owned();
    let serve = Serve::start(&stored.options, &[]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let pay = async |place: usize| {
        let request = client
            .post(format!("http://{}/payment", serve.address))
            .header("content-type", "application/json")
            .header("idempotency-key", load::stored_key(place))
            .body(r#"{"user_id": "user_1000", "amount": 100}"#);
        assert_eq!(request.send().await.unwrap().status(), 201);
    };
    let places: Vec<usize> = (0..STORED).collect();
    for hundred in places.chunks(100) {
        futures_util::future::join_all(hundred.iter().map(|place| pay(*place))).await;
    }
    drop(client);
    stop(serve);
    Templates { empty, stored, usual, first, accounts, api_key }
}
