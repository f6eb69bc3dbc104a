//! Measures payonce beside other ways to take payments, in one run on one machine.
//!
//! ```text
//! scripts/with-postgres cargo run --release -p payonce-bench                 payonce and its alternatives: 11 minutes
//! scripts/with-postgres cargo run --release -p payonce-bench growth          with 0, 1 and 10 million keys: 13 minutes
//! scripts/with-postgres cargo run --release -p payonce-bench scaling         partitions, committers, servers: 2 minutes
//! scripts/with-postgres cargo run --release -p payonce-bench report          only the documents, from the last results
//! scripts/with-postgres cargo run --release -p payonce-bench comparison growth scaling
//! ```
//!
//! Each part stores its results in `docs/benchmarks/` as JSON. The documents there, and the table in README.md, are made
//! from these files.
//!
//! It needs `wrk`, `pgbench` of PostgreSQL, and for the comparison `python3` with venv and access to PyPI and crates.io.
//! Load, server and database share the machine's cores. Each figure is the median of several rounds, in which all
//! scenarios take turns.
//!
//! `growth` needs `pg_prewarm` of PostgreSQL's contrib package, and a PostgreSQL with the settings that
//! docs/operations/postgresql.md recommends for large tables:
//! `sysctl vm.nr_hugepages=3200 vm.dirty_background_bytes=33554432` and
//! `POSTGRES_OPTIONS="-c shared_buffers=6GB -c huge_pages=on -c max_wal_size=16GB -c min_wal_size=16GB -c checkpoint_timeout=30min -c wal_compression=lz4"`.
//!
//! These variables make it shorter or longer: `PAYONCE_BENCH_SECONDS` (2), `PAYONCE_BENCH_ROUNDS` (5),
//! `PAYONCE_BENCH_PAYMENTS` (1000000, for memory and disk) and `PAYONCE_BENCH_GROWTH` (0,1000000,10000000 keys).

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::print_stderr,
    unreachable_pub,
    reason = "a benchmark ends at the first surprise"
)]

use payonce_testing as support;

mod comparison;
mod growth;
mod load;
mod machine;
mod meters;
mod pages;
mod peers;
mod pgbench;
mod plot;
mod report;
mod results;
mod scaling;
mod usual;
mod volume;

use std::{path::Path, process::Command};

use mimalloc::MiMalloc;

/// The program's allocator: the usual design runs in this process, and should have the same one.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// The time that the benchmark takes.
struct Knobs {
    seconds: u64,
    rounds: usize,
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
            rounds: variable("ROUNDS", "5").parse().expect("a number of rounds"),
            payments: variable("PAYMENTS", "1000000").parse().expect("a number of payments"),
            growth: growth.split(',').map(|keys| keys.parse().expect("numbers of keys")).collect(),
        }
    }
}

fn main() {
    let parts: Vec<String> = std::env::args().skip(1).collect();
    if parts.first().is_some_and(|part| part == usual::COMMAND) {
        return usual::serve();
    }
    let optimised = !cfg!(debug_assertions);
    assert!(optimised, "figures need an optimised build: cargo run --release");
    let repository = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    build_program(repository);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(run(repository, &parts));
    print!("{}", report::write(repository));
}

/// Builds the server that is measured, which `cargo run` does not.
fn build_program(repository: &Path) {
    let mut cargo = Command::new("cargo");
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
            other => panic!("unknown part {other}; expected comparison, growth, scaling or report"),
        };
        results.write(&report::file(repository, part));
    }
}
