//! What payonce is meant to reach, as ratios of one run on one machine.

use super::{
    comparison::{
        AUTHENTICATED, BESIDE_STORM, CEILING, CLIENTS, FIRST, FIVE, PAYONCE, REPLAYS, STORM, USUAL,
    },
    growth, million,
    results::Results,
};

/// A bound, and what was measured.
pub struct Target {
    pub what: &'static str,
    pub measured: Option<f64>,
    pub bound: Bound,
}

#[derive(Debug, Clone, Copy)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Target {
    /// `None` where nothing was measured.
    pub fn is_met(&self) -> Option<bool> {
        self.measured.map(|measured| match self.bound {
            Bound::AtLeast(bound) => measured >= bound,
            Bound::AtMost(bound) => measured <= bound,
        })
    }
}

/// All of them.
pub fn all(comparison: Option<&Results>, growth: Option<&Results>) -> Vec<Target> {
    let get = |scenario: &str, clients, name: &str| comparison?.median(scenario, clients, name);
    let rate = |scenario: &str, clients| get(scenario, clients, "rate");
    let ratio = |a: Option<f64>, b: Option<f64>| Some(a? / b?);
    let grown = |keys| growth?.median(growth::RANDOM, keys, "rate");
    let million = |name: &str| get(million::SCENARIO, million::CLIENTS, name);
    let replays = CLIENTS.map(|clients| ratio(rate(REPLAYS, clients), rate(PAYONCE, clients)));
    let target = |what, measured, bound| Target { what, measured, bound };
    let at_least = |what, a, b, bound| target(what, ratio(a, b), Bound::AtLeast(bound));
    let at_most = |what, a, b, bound| target(what, ratio(a, b), Bound::AtMost(bound));
    vec![
        at_least("64 clients: × pgbench, five statements", rate(PAYONCE, 64), rate(FIVE, 64), 5.0),
        at_least(
            "256 clients: × pgbench, five statements",
            rate(PAYONCE, 256),
            rate(FIVE, 256),
            8.0,
        ),
        at_least("64 clients: × usual design", rate(PAYONCE, 64), rate(USUAL, 64), 7.0),
        at_least(
            "64 clients: of one connection's batches of 64",
            rate(PAYONCE, 64),
            rate(CEILING, 64),
            0.75,
        ),
        at_least(
            "256 clients: of one connection's batches of 256",
            rate(PAYONCE, 256),
            rate(CEILING, 256),
            0.75,
        ),
        // One client waits for each of its answers: its latency is what its rate leaves.
        at_most(
            "1 client: latency, × pgbench, five statements",
            rate(FIVE, 1),
            rate(PAYONCE, 1),
            1.15,
        ),
        at_most(
            "64 clients: p99, × the average of pgbench, five statements",
            get(PAYONCE, 64, "p99_ms"),
            get(FIVE, 64, "mean_ms"),
            1.0,
        ),
        target(
            "replays: × new payments, where that is least",
            replays.into_iter().flatten().min_by(f64::total_cmp),
            Bound::AtLeast(1.5),
        ),
        at_most(
            "p99 of other keys in a storm on one: × without it",
            get(BESIDE_STORM, STORM, "p99_ms"),
            get(PAYONCE, 64, "p99_ms"),
            2.0,
        ),
        at_least("10 million random keys: of the rate with none", grown(10_000_000), grown(0), 0.8),
        at_least(
            "64 clients: with an API key, × anonymous",
            rate(AUTHENTICATED, 64),
            rate(FIRST, 64),
            0.95,
        ),
        target(
            "256 clients: server's memory at most, MiB",
            get(PAYONCE, 256, "memory_mib"),
            Bound::AtMost(64.0),
        ),
        at_most(
            "a million payments: server's memory after, × after a tenth of them",
            million("memory_last_mib"),
            million("memory_tenth_mib"),
            1.1,
        ),
        at_most(
            "64 clients: write-ahead log a payment, × usual design",
            get(PAYONCE, 64, "wal_bytes"),
            get(USUAL, 64, "wal_bytes"),
            1.0,
        ),
    ]
}
