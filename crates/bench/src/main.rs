//! payonce beside what else one would do, in one run on one machine.
//!
//! ```text
//! scripts/with-postgres cargo run --release -p payonce-bench                 the comparison: nine minutes
//! scripts/with-postgres cargo run --release -p payonce-bench growth          with 0, 1 and 10 million keys: fourteen
//! scripts/with-postgres cargo run --release -p payonce-bench scaling         partitions, committers, servers: two
//! scripts/with-postgres cargo run --release -p payonce-bench report          only the tables and pictures, anew
//! scripts/with-postgres cargo run --release -p payonce-bench comparison growth scaling
//! ```
//!
//! Each part leaves its figures in `docs/benchmarks/` as JSON; the tables and pictures there, and the table in README.md,
//! are made of what lies there. It needs `wrk`, and `pgbench` of PostgreSQL. Server, database and load share this
//! machine's cores; each figure is the median of several rounds, in which all scenarios take turns.
//!
//! `growth` is about tables for which nobody leaves PostgreSQL as it comes: it needs `pg_prewarm` (PostgreSQL's contrib), and
//! wants what docs/operations/postgresql.md advises,
//! `sysctl vm.nr_hugepages=3200 vm.dirty_background_bytes=33554432` and
//! `POSTGRES_OPTIONS="-c shared_buffers=6GB -c huge_pages=on -c max_wal_size=16GB -c min_wal_size=16GB -c checkpoint_timeout=30min -c wal_compression=lz4"`.
//!
//! `PAYONCE_BENCH_SECONDS` (2), `PAYONCE_BENCH_ROUNDS` (3), `PAYONCE_BENCH_PAYMENTS` (1000000; for the server's memory)
//! and `PAYONCE_BENCH_GROWTH` (0,1000000,10000000; keys) make it longer or shorter.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a benchmark: it ends where something is not as it should be"
)]

use payonce_testing as support;

mod bare;
mod ceiling;
mod comparison;
mod endpoint;
mod growth;
mod load;
mod machine;
mod meters;
mod million;
mod pages;
mod pgbench;
mod plot;
mod report;
mod results;
mod round_trips;
mod scaling;
mod targets;
mod usual;

use std::{path::Path, process::Command};

use mimalloc::MiMalloc;

/// That of the program: the usual design, which runs in this process, is to have it as well.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// How long it takes.
struct Knobs {
    seconds: u64,
    rounds: u32,
    payments: f64,
    growth: Vec<u32>,
}

impl Knobs {
    fn read() -> Self {
        let variable = |name: &str, default: &str| {
            std::env::var(format!("PAYONCE_BENCH_{name}")).unwrap_or_else(|_| default.to_owned())
        };
        let growth = variable("GROWTH", "0,1000000,10000000");
        Self {
            seconds: variable("SECONDS", "2").parse().expect("a number of seconds"),
            rounds: variable("ROUNDS", "3").parse().expect("a number of rounds"),
            payments: variable("PAYMENTS", "1000000").parse().expect("a number of payments"),
            growth: growth.split(',').map(|keys| keys.parse().expect("numbers of keys")).collect(),
        }
    }
}

fn main() {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.first().map(String::as_str) {
        Some(usual::WORD) => return usual::serve(),
        Some(bare::WORD) => return bare::serve(),
        _ => {}
    }
    assert!(!cfg!(debug_assertions), "unoptimised programs tell nothing: cargo run --release");
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    build_program(repository);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(repository, &words));
    print!("{}", report::write(repository));
}

/// Builds the program that is measured; cargo has built no more than the benchmark.
fn build_program(repository: &Path) {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--release", "--locked", "--package", "payonce"]);
    assert!(cargo.current_dir(repository).status().unwrap().success(), "payonce does not compile");
}

async fn run(repository: &Path, parts: &[String]) {
    let knobs = Knobs::read();
    let parts = if parts.is_empty() { &["comparison".to_owned()] } else { parts };
    for part in parts {
        let results = match part.as_str() {
            "comparison" => comparison::run(&knobs).await,
            "growth" => growth::run(&knobs).await,
            "scaling" => scaling::run(&knobs).await,
            "report" => continue,
            other => panic!("{other}: there are comparison, growth, scaling and report"),
        };
        results.write(&report::file(repository, part));
    }
}
