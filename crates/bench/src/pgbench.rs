//! PostgreSQL's own load tool: the same rows without HTTP.

use std::process::Command;

use super::{peers::libpq_url, results::Sample, support::TestDatabase};

/// The statements of a payment.
#[derive(Debug, Clone, Copy)]
pub enum Script {
    /// BEGIN, claim, insert, update, COMMIT: those of the usual design.
    FiveStatements,
    /// Everything in one common table expression.
    OneStatement,
}

/// At least so many connections are opened per second. pgbench's time begins before it opens them.
const OPENED_A_SECOND: u32 = 64;

/// Runs a script for so many seconds, besides the time to open the connections.
pub fn run(database: &TestDatabase, script: Script, clients: u32, seconds: u64) -> Sample {
    let file = match script {
        Script::FiveStatements => "five_statements.sql",
        Script::OneStatement => "one_statement.sql",
    };
    let seconds = seconds + u64::from(clients / OPENED_A_SECOND);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
    let run = Command::new("pgbench")
        .args(["-n", "-M", "prepared", "-D", "n=0", "-T", &seconds.to_string()])
        .args(["-j", &clients.min(2).to_string(), "-c", &clients.to_string()])
        .args(["-f", &format!("{folder}/{file}")])
        .arg(libpq_url(database))
        .output()
        .expect("pgbench is in PATH: scripts/with-postgres sees to it");
    let output = String::from_utf8(run.stdout).unwrap();
    assert!(run.status.success(), "{output}{}", String::from_utf8_lossy(&run.stderr));
    assert!(!output.contains("ABORTED"), "{output}");
    Sample::from([
        ("requests".to_owned(), number_after("actually processed:", &output)),
        ("rate".to_owned(), number_after("tps =", &output)),
        ("mean_ms".to_owned(), number_after("latency average =", &output)),
    ])
}

/// The first number after this text.
fn number_after(text: &str, output: &str) -> f64 {
    let rest = output.split(text).nth(1).unwrap_or_else(|| panic!("no {text:?} in {output}"));
    let digit = |c: &char| c.is_ascii_digit() || *c == '.';
    rest.trim_start().chars().take_while(digit).collect::<String>().parse().unwrap()
}
