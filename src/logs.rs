//! How log lines look: text for people, or JSON for programs, each a line. Both have the same fields.

use std::io::{self, Write};

use chrono::Utc;
use env_logger::fmt::Formatter;
use log::{
    Record,
    kv::{self, Key, Value, VisitSource},
};
use serde::{
    Serialize, Serializer,
    ser::{Error, SerializeMap},
};

use crate::timestamp::Timestamp;

/// What is logged where `RUST_LOG` says nothing.
pub const DEFAULT_FILTER: &str = "info";

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// For people: the fields behind the message, as name=value.
    Text,
    /// For programs: an object on each line.
    Json,
}

/// Logs to stderr from now on, what `RUST_LOG` says. To be called once.
pub fn start(format: LogFormat) {
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    let mut builder = env_logger::Builder::from_env(env_logger::Env::default());
    builder.parse_filters(filter.as_deref().unwrap_or(DEFAULT_FILTER)).format_timestamp_millis();
    match format {
        LogFormat::Text => builder.format_key_values(|out, fields| {
            fields.visit(&mut Text(out)).map_err(io::Error::other)
        }),
        LogFormat::Json => builder.format(|out, record| {
            serde_json::to_writer(&mut *out, &Line(record))?;
            writeln!(out)
        }),
    };
    builder.init();
}

/// Writes fields behind a message.
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

/// A record as an object: what every one has, and then its fields.
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

/// Writes fields into an object, numbers as numbers.
struct Json<'a, M>(&'a mut M);

impl<'kvs, M: SerializeMap> VisitSource<'kvs> for Json<'_, M> {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let written = match (value.to_u64(), value.to_f64()) {
            (Some(number), _) => self.0.serialize_entry(key.as_str(), &number),
            (None, Some(number)) => self.0.serialize_entry(key.as_str(), &number),
            (None, None) => self.0.serialize_entry(key.as_str(), &format_args!("{value}")),
        };
        written.map_err(|_| kv::Error::msg("a field can't be written"))
    }
}
