//! `payonce storm`.

use std::{error::Error, fmt::Display, io, time::Duration};

use actix_web::http::header::HeaderValue;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use payonce_storm::{Plan, Report, Target};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::print;
use crate::config::{self, Settings};

/// Broken promises shown to people; JSON has all.
const SHOWN: usize = 20;

/// Arguments of a storm.
#[derive(Debug, Clone, Args)]
pub(super) struct Options {
    /// URL of the server, plain HTTP; repeat it for several servers on one database [default: HOST and PORT]
    #[arg(long)]
    url: Vec<Target>,
    /// Number of payments
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..))]
    payments: u32,
    /// Number of payments at a time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Time to repeat a request without a final response before the storm gives up
    #[arg(long, default_value = "2m", value_parser = config::duration)]
    patience: Duration,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Runs a storm, and fails unless each payment was made exactly once.
pub(super) async fn storm(options: &Options, settings: &Settings) -> Result<(), Box<dyn Error>> {
    let mut targets = options.url.clone();
    if targets.is_empty() {
        targets.push(format!("http://{}:{}", settings.reachable_host(), settings.port).parse()?);
    }
    let plan = Plan {
        targets,
        payments: options.payments,
        clients: options.clients,
        patience: options.patience,
        authorization: authorization()?,
    };
    // A client may open several connections. If the limit can't be raised, fewer have to do.
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} payments, {msg} {eta}")?;
    let bar = ProgressBar::new(plan.payments.into()).with_style(style);
    let report = payonce_storm::run(&plan, |done, doing| {
        bar.set_message(doing);
        bar.set_position(done);
    })
    .await;
    bar.finish_and_clear();
    let report = report?;
    if options.json {
        print::json(&report)?;
    } else {
        show(&report)?;
    }
    Ok(report.verdict()?)
}

/// The Authorization header. The API key is a secret, and has no flag.
fn authorization() -> Result<Option<HeaderValue>, Box<dyn Error>> {
    let key = std::env::var("PAYONCE_API_KEY").unwrap_or_default();
    if key.trim().is_empty() {
        return Ok(None);
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.trim()))
        .map_err(|_| "PAYONCE_API_KEY contains characters that no API key has")?;
    value.set_sensitive(true);
    Ok(Some(value))
}

fn show(report: &Report) -> io::Result<()> {
    let row = |name: &str, value: &dyn Display| format!("{name:<34}{value:>12}");
    let known =
        |count: Option<usize>| count.map_or("unknown".to_owned(), |count| count.to_string());
    let latency = |name: &str, value: f64| {
        row(&format!("latency of final responses, {name}"), &format!("{value:.1} ms"))
    };
    let mut lines = vec![
        row("intended payments", &report.intended),
        row("requests", &report.requests),
        row("  retries", &report.retries),
        row("  aborted", &report.hang_ups),
        row("payments read back", &known(report.found)),
        row("replays", &report.replays),
        row("refused reuses of keys", &report.reuses_refused),
        row("duplicates", &report.duplicates),
        row("lost", &known(report.lost)),
        row("without final response", &report.unanswered.len()),
        latency("p50", report.latency_ms.p50),
        latency("p95", report.latency_ms.p95),
        latency("p99", report.latency_ms.p99),
        latency("longest", report.latency_ms.longest),
        row("duration", &format!("{:.1} s", report.seconds)),
    ];
    let statuses = report.statuses.iter();
    lines.extend(statuses.map(|(status, count)| row(&format!("responses with {status}"), count)));
    let unanswered = report.unanswered.iter().take(SHOWN);
    lines.extend(unanswered.map(|what| format!("NO FINAL RESPONSE: {what}")));
    lines.extend(report.broken.iter().take(SHOWN).map(|what| format!("BROKEN: {what}")));
    if report.exactly_once {
        lines.push("every payment was made exactly once".to_owned());
    }
    print::text(&lines.join("\n"))
}
