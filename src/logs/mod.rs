//! Log lines, as text for people or as JSON for programs, with the same fields.
//!
//! A thread writes them to stderr. If stderr takes them too slowly, lines are dropped and counted.

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    env,
    io::{self, IsTerminal, Write},
    panic,
    str::FromStr,
    thread,
    time::Duration,
};

use chrono::Utc;
use env_logger::{Target, WriteStyle, fmt::Formatter};
use log::{
    Level, LevelFilter, Metadata, Record, error,
    kv::{self, Key, Value, VisitSource},
    log_enabled,
};
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};

use crate::db::timestamp::Timestamp;

mod repeats;
mod writer;

pub use repeats::admit;
pub use writer::dropped;

/// Time at the end of the program to write its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// actix-http logs each malformed request as an error, and anybody can send those.
const PARSE_ERRORS: &str = "actix_http::h1";

/// The filter if `RUST_LOG` is not set.
pub const DEFAULT_FILTER: &str = "info";

/// The crates of this program that log; targets begin with one of them.
const OURS: [&str; 2] = ["payonce", "payonce_idempotency"];

/// A filter from `RUST_LOG` that lets some lines of payonce pass, or says `off`.
///
/// env_logger takes an unknown word for the name of a module, so `infoo` would silence the server, errors included.
/// Here a single word must be a level or a target of payonce. Targets of other crates need a level.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut builder = env_filter::Builder::new();
        let filter = builder.try_parse(text).map_err(|error| error.to_string())?.build();
        // A pattern for messages follows the slash.
        let directives = text.split('/').next().unwrap_or_default().split(',').map(str::trim);
        let directives: Vec<_> = directives.filter(|directive| !directive.is_empty()).collect();
        let (mut targets, mut off) = (vec![OURS[0]], false);
        for directive in directives {
            let (name, level) = directive.split_once('=').unwrap_or(("", directive));
            let level = level.trim().parse();
            let ours = |target: &str| OURS.contains(&target.split("::").next().unwrap_or(target));
            off |= level == Ok(LevelFilter::Off) && (name.is_empty() || ours(name));
            if ours(name) {
                targets.push(name);
            } else if name.is_empty() && ours(directive) {
                targets.push(directive);
            } else if name.is_empty() && level.is_err() {
                return Err(format!("{directive:?} is neither a level nor a target of payonce"));
            }
        }
        let logged = |target| {
            filter.enabled(&Metadata::builder().level(Level::Error).target(target).build())
        };
        if off || targets.into_iter().any(logged) {
            Ok(Self(text.to_owned()))
        } else {
            Err("it would log nothing of payonce, not even errors".to_owned())
        }
    }
}

/// The format of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: the message, and its fields as name=value.
    Text,
    /// For programs: one object per line.
    Json,
}

/// Starts logging to stderr. Call it once.
pub fn start(format: LogFormat, filter: &Filter) {
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default());
    // payonce says itself where it listens and when it stops, and migrations raise harmless notices. A filter can name
    // these targets to get their lines.
    for target in ["actix_server", "sqlx::postgres::notice"] {
        builder.filter_module(target, LevelFilter::Warn);
    }
    builder.filter_module(PARSE_ERRORS, LevelFilter::Off);
    builder.parse_filters(&filter.0).format_timestamp_millis();
    match format {
        LogFormat::Text => builder.format_key_values(|out, fields| {
            fields.visit(&mut Text(out)).map_err(io::Error::other)
        }),
        LogFormat::Json => builder.format(|out, record| {
            serde_json::to_writer(&mut *out, &Line(record))?;
            writeln!(out)
        }),
    };
    // Without the thread, the logger writes lines itself.
    if writer::start().is_ok() {
        builder.target(Target::Pipe(Box::new(writer::Queue)));
        if wants_color() {
            builder.write_style(WriteStyle::Always);
        }
        log_panics();
    }
    builder.init();
}

/// Writes the waiting lines and then this one, within a second. Call it before the program ends.
pub fn finish(last_line: Option<&str>) {
    if !writer::is_started() {
        // If stderr is closed, nobody is left to tell.
        let _ = last_line.map(|line| writeln!(io::stderr(), "{line}"));
        return;
    }
    repeats::report_now();
    if let Some(line) = last_line {
        let _ = writer::Queue.write(format!("{line}\n").as_bytes());
    }
    writer::flush(LAST_LINES);
}

/// Applies env_logger's rules for stderr, because it sees a pipe instead.
fn wants_color() -> bool {
    let is_empty = |name| env::var_os(name).is_none_or(|value| value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    io::stderr().is_terminal() && is_empty("RUST_LOG_STYLE") && is_empty("NO_COLOR") && !is_dumb
}

/// Logs panics by the thread too: the standard hook would block on stderr.
fn log_panics() {
    let standard = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        if !log_enabled!(Level::Error) {
            return standard(panic);
        }
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("(no message)");
        let backtrace = Backtrace::capture();
        if backtrace.status() == BacktraceStatus::Captured {
            error!("panicked at {place}: {message}\n{backtrace}");
        } else {
            error!("panicked at {place}: {message}");
        }
        // A panic of the main thread ends the program.
        if thread::current().name() == Some("main") {
            writer::flush(LAST_LINES);
        }
    }));
}

/// Writes fields after a message.
struct Text<'a>(&'a mut Formatter);

impl<'kvs> VisitSource<'kvs> for Text<'_> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let told_apart =
            |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"');
        match value.to_borrowed_str() {
            Some(text) if !told_apart(text) => write!(self.0, " {key}={text:?}")?,
            _ => write!(self.0, " {key}={value}")?,
        }
        Ok(())
    }
}

/// A record as an object: timestamp, level, target, message, and then its fields.
struct Line<'a>(&'a Record<'a>);

impl Serialize for Line<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut line = serializer.serialize_map(None)?;
        line.serialize_entry("timestamp", &Timestamp(Utc::now()))?;
        line.serialize_entry("level", self.0.level().as_str())?;
        line.serialize_entry("target", self.0.target())?;
        line.serialize_entry("message", self.0.args())?;
        self.0.key_values().visit(&mut Json(&mut line)).map_err(S::Error::custom)?;
        line.end()
    }
}

/// Writes fields into an object, with numbers as numbers.
struct Json<'a, M>(&'a mut M);

impl<'kvs, M: SerializeMap> VisitSource<'kvs> for Json<'_, M> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let written = match (value.to_u64(), value.to_f64()) {
            (Some(number), _) => self.0.serialize_entry(key.as_str(), &number),
            (None, Some(number)) => self.0.serialize_entry(key.as_str(), &number),
            (None, None) => self.0.serialize_entry(key.as_str(), &format_args!("{value}")),
        };
        written.map_err(|_| kv::Error::msg("cannot write a field"))
    }
}

#[cfg(test)]
mod tests {
    use super::Filter;

    #[test]
    fn a_filter_logs_something_of_payonce_or_says_that_it_does_not() {
        for filter in [
            "info",
            "INFO",
            "off",
            "payonce=off",
            "info,payonce::request=debug",
            "payonce",
            "payonce::request",
            "payonce::request=debug",
            "payonce_idempotency=debug",
            "trace,sqlx=warn,mio=warn,actix_http=warn",
            "warn, payonce::problem=off",
            "info/refund",
            ",",
        ] {
            assert!(filter.parse::<Filter>().is_ok(), "{filter}");
        }
        for filter in [
            "infoo",
            "verbose",
            "3",
            "infoo,payonce::request=debug",
            "info,sqlx",
            "payoncee",
            "payonce =info",
            "sqlx=debug",
            "sqlx=off",
            "payonce=loud",
            "foo=bar=baz",
            "info/(",
            "info/a/b",
        ] {
            assert!(filter.parse::<Filter>().is_err(), "{filter}");
        }
    }
}
