//! payonce and its alternatives: in each round every scenario has its turn.
//!
//! Each run has a copy of a template database and a server that was started for it, so nothing carries over from the run
//! before. So the tables are small; growth.rs measures large ones.

use super::{
    Knobs,
    load::{self, Load, Requests, STORED},
    machine::Machine,
    meters::{self, Meters},
    peers::Peers,
    pgbench::{self, Script},
    results::{Collected, Results, Sample},
    support::{TestDatabase, binary::Serve},
    usual, volume,
};

pub const CLIENTS: [u32; 4] = [256, 64, 8, 1];
/// Clients that send one key, beside others.
pub const CONTENDERS: u32 = 64;

pub const PAYONCE: &str = "payonce";
pub const WITH_API_KEY: &str = "payonce, with an API key";
pub const REPLAYS: &str = "payonce, replays";
pub const USUAL: &str = "usual design";
pub const CRATESTACK: &str = "cratestack";
pub const FLASK: &str = "Flask, gunicorn";
pub const FIVE: &str = "pgbench, 5 statements";
pub const ONE: &str = "pgbench, 1 statement";
pub const BESIDE_ONE_KEY: &str = "payonce, beside clients that all send one key";
pub const BESIDE_OTHERS: &str = "payonce, beside as many other clients";

const SERVERS: [&str; 6] = [PAYONCE, WITH_API_KEY, REPLAYS, USUAL, CRATESTACK, FLASK];
const SCRIPTS: [(&str, Script); 2] = [(FIVE, Script::FiveStatements), (ONE, Script::OneStatement)];

/// The databases that runs copy, and the other servers.
struct Stage {
    empty: TestDatabase,
    stored: TestDatabase,
    usual: TestDatabase,
    accounts: TestDatabase,
    /// A key of `accounts`.
    api_key: String,
    peers: Peers,
}

pub async fn run(knobs: &Knobs) -> Results {
    let stage = Stage::prepare().await;
    let machine = Machine::this(&stage.empty).await;
    let mut collected = Collected::default();
    for round in 0..knobs.rounds {
        eprintln!("round {} of {}", round + 1, knobs.rounds);
        for clients in CLIENTS {
            // Another one begins each round.
            for turn in 0..SERVERS.len() {
                let scenario = SERVERS[(round + turn) % SERVERS.len()];
                let sample = stage.serve(scenario, clients, knobs.seconds).await;
                collected.add(scenario, clients, sample);
            }
            for (scenario, script) in SCRIPTS {
                let sample = stage.pgbench(script, clients, knobs.seconds).await;
                collected.add(scenario, clients, sample);
            }
        }
        for (scenario, others) in
            [(BESIDE_ONE_KEY, Requests::OneKey), (BESIDE_OTHERS, Requests::New)]
        {
            let sample = stage.beside(others, knobs.seconds).await;
            collected.add(scenario, CONTENDERS, sample);
        }
    }
    let sample = volume::run(&stage.empty, knobs.payments).await;
    collected.add(volume::SCENARIO, volume::CLIENTS, sample);
    collected.results(machine, knobs.seconds, knobs.rounds)
}

impl Stage {
    async fn prepare() -> Self {
        let peers = Peers::prepare();
        let (empty, stored) = (TestDatabase::create().await, TestDatabase::create().await);
        store_replays(&stored).await;
        let usual = TestDatabase::create().await;
        usual.execute(include_str!("usual_tables.sql")).await;
        let accounts = TestDatabase::create().await;
        let api_key = accounts.create_api_key("default")["api_key"].as_str().unwrap().to_owned();
        Self { empty, stored, usual, accounts, api_key, peers }
    }

    /// Runs a load on a server, measures what it costs, and stops the server.
    async fn serve(&self, scenario: &str, clients: u32, seconds: u64) -> Sample {
        let template = match scenario {
            PAYONCE => &self.empty,
            WITH_API_KEY => &self.accounts,
            REPLAYS => &self.stored,
            _ => &self.usual,
        };
        let database = template.copy().await;
        let serve = match scenario {
            USUAL => usual::start(&database),
            CRATESTACK => self.peers.start_cratestack(&database),
            FLASK => self.peers.start_flask(&database),
            _ => Serve::start(&database.options, &[]),
        };
        let api_key = if scenario == WITH_API_KEY { self.api_key.as_str() } else { "" };
        let requests = if scenario == REPLAYS { Requests::Replays } else { Requests::New };

        let commits_before = meters::commits_so_far(&database).await;
        let meters = Meters::start(&database, Some(serve.child.id())).await;
        let load = Load::with_api_key(api_key, serve.address, requests, clients, seconds);
        let mut sample = load.figures();
        meters.stop(&mut sample).await;
        stop(serve);
        let commits = meters::commits(&database).await - commits_before;
        sample.insert("commits".to_owned(), commits / load::requests(&sample));
        sample
    }

    async fn pgbench(&self, script: Script, clients: u32, seconds: u64) -> Sample {
        let database = self.usual.copy().await;
        let meters = Meters::start(&database, None).await;
        let mut sample = pgbench::run(&database, script, clients, seconds);
        meters.stop(&mut sample).await;
        // Most of it is spent on opening the connections.
        sample.remove("database_cpu_us");
        sample
    }

    /// The figures of some clients while others send something else.
    async fn beside(&self, others: Requests, seconds: u64) -> Sample {
        let database = self.empty.copy().await;
        let serve = Serve::start(&database.options, &[]);
        database.execute("CHECKPOINT").await;
        let observed = Load::start(serve.address, Requests::New, CONTENDERS, seconds);
        let others = Load::start(serve.address, others, CONTENDERS, seconds).figures();
        let mut sample = observed.figures();
        sample.insert("rate_of_others".to_owned(), others["rate"]);
        stop(serve);
        sample
    }
}

/// Stops a server, which must end without an error.
pub fn stop(mut serve: Serve) {
    serve.signal("TERM");
    let (status, log) = serve.wait();
    assert!(status.success(), "{log}");
}

/// Creates the payments that are replayed.
async fn store_replays(database: &TestDatabase) {
    let serve = Serve::start(&database.options, &[]);
    let client = reqwest::Client::builder().no_proxy().build().unwrap();
    let create = async |place: usize| {
        let request = client
            .post(format!("http://{}/payment", serve.address))
            .header("content-type", "application/json")
            .header("idempotency-key", load::stored_key(place))
            .body(r#"{"user_id": "user_1000", "amount": 100}"#);
        assert_eq!(request.send().await.unwrap().status(), 201);
    };
    let places: Vec<usize> = (0..STORED).collect();
    for hundred in places.chunks(100) {
        futures_util::future::join_all(hundred.iter().map(|place| create(*place))).await;
    }
    drop(client);
    stop(serve);
}
