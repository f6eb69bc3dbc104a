//! Random histories of requests, voided keys, expiries, sweeps and faults are recorded with their times, and a
//! checker looks for broken promises.
//!
//! `PAYONCE_HISTORIES=1000` plays this many. A failure prints the smallest failing history and the
//! `PAYONCE_SEED` that repeats it.

use std::collections::BTreeMap;

use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

use self::stage::Stage;

mod record;
mod stage;
mod the_checker_finds;

/// The default of `PAYONCE_HISTORIES`.
const HISTORIES: u64 = 60;

/// Small numbers, so that requests collide.
const SERVERS: usize = 2;
const CLIENTS: usize = 3;
const KEYS: u8 = 3;

/// The amount of the payment before each history: it suffices for one refund of two, but not for two.
const PAID: u8 = 3;

/// A request: few users and amounts, so that some requests are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Request {
    Pay {
        user: u8,
        amount: u8,
    },
    /// A refund of the payment that was created before.
    Refund {
        amount: u8,
    },
}

/// An act of a client.
#[derive(Debug, Clone, Copy)]
enum Act {
    Send {
        server: usize,
        key: u8,
        request: Request,
    },
    /// Reads the state of a key.
    Ask {
        server: usize,
        key: u8,
    },
    Void {
        server: usize,
        key: u8,
    },
    /// All stored responses expire.
    Expire,
    Sweep,
    /// All connections of one server to PostgreSQL are cut.
    Cut {
        server: usize,
    },
    /// All connections of one server to PostgreSQL are frozen.
    Freeze {
        server: usize,
    },
    /// PostgreSQL terminates all connections.
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

/// The acts of each client, in their order.
type History = Vec<Vec<Act>>;

fn history() -> impl Strategy<Value = History> {
    prop::collection::vec(prop::collection::vec(act(), 1..16), CLIENTS)
}

fn variable(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn random_histories_keep_every_promise() {
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
    eprintln!("seed {seed}, responses by status: {statuses:?}, keys by state: {states:?}");
    // Everything that was created has a key.
    let unkeyed =
        "SELECT count(*) FROM (SELECT transaction_id AS id FROM payments UNION ALL SELECT refund_id FROM refunds)
                AS made LEFT JOIN idempotency_keys ON execution_id = id WHERE execution_id IS NULL";
    assert_eq!(runtime.block_on(stage.database.number(unkeyed)), 0);
    if let Err(failure) = played {
        panic!("run it again with PAYONCE_SEED={seed}: {failure}");
    }
    // Fewer histories than usual need not reach every status.
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
