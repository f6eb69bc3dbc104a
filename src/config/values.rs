//! Values of settings as they are written.

use std::{fmt, str::FromStr, time::Duration};

/// A lifetime or an interval, which may be without an end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ttl(pub Option<Duration>);

impl FromStr for Ttl {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "never" { Ok(Self(None)) } else { duration(text).map(|ttl| Self(Some(ttl))) }
    }
}

impl fmt::Display for Ttl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(ttl) => humantime::format_duration(ttl).fmt(f),
            None => f.write_str("never"),
        }
    }
}

/// A part of the service that is on or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Switch {
    /// It works.
    On,
    /// It does nothing.
    Off,
}

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it as 500ms, 2s, 1m, 24h or 30d"))
}

/// A number of bytes: 16384, 16k, 16kB or 16KiB, and the same with m.
pub(super) fn body_limit(text: &str) -> Result<u32, String> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1024,
        "m" | "mb" | "mib" => 1024 * 1024,
        _ => return Err(format!("{unit:?} is not a unit; write it as 16384, 16k or 1m")),
    };
    let bytes = number.parse().ok().and_then(|number: u32| number.checked_mul(factor));
    let bytes = bytes.filter(|bytes| (4096..=1_048_576).contains(bytes));
    bytes.ok_or_else(|| "expected 4096 to 1048576 bytes, written as 16384, 16k or 1m".to_owned())
}
