//! Every setting: read from flags, then the environment, then `.env`, and validated once.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    num::NonZeroUsize,
    str::FromStr,
    time::Duration,
};

use clap::{ArgAction, Args};

use crate::{
    accounts::AnonymousAccess, idempotency, keyed::ReplayStatus, logs::LogFormat,
    metrics::access::Token, payments::currency::Currency,
};

mod database_url;
mod dot_env;
mod error;
mod variables;

pub use database_url::{database, shown};
pub use dot_env::read_dot_env;
pub use error::{ConfigError, UrlFault};
pub use variables::{log_filter, metrics_token};

/// Shorter ones leave no time for PostgreSQL to answer, and for the time-outs below it.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(500);

/// As long as a row that somebody else has locked is waited for: who is put aside for one, and alone there, is tried.
const SHORTEST_IN_FLIGHT_WAIT: Duration = Duration::from_millis(100);

/// Longer than any client waits.
const LONGEST_DEADLINE: Duration = Duration::from_mins(10);

/// A pass each second keeps up with everything.
const SHORTEST_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Shorter ones refuse clients on a slow line.
const SHORTEST_READ_TIMEOUT: Duration = Duration::from_millis(100);

/// No proxy keeps a connection for longer.
const LONGEST_KEEP_ALIVE: Duration = Duration::from_hours(24);

/// More than anybody keeps records; less than what PostgreSQL's intervals and dates can hold.
const LONGEST_TTL: Duration = Duration::from_hours(24 * 36_500);

/// A time to live, which may be for ever.
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

pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write it as 500ms, 2s, 1m, 24h or 30d"))
}

/// A number of bytes: 16384, 16k, 16kB or 16KiB, and the same with m.
fn body_limit(text: &str) -> Result<u32, String> {
    let (number, unit) =
        text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
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

/// The settings as they are written. Secrets have no flag: see [`database`].
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Address or name to listen on
    #[arg(long, env = "HOST", default_value = "127.0.0.1", global = true, hide_env_values = true)]
    pub host: String,
    /// Port to listen on; 0 takes any that is free
    #[arg(long, env = "PORT", default_value_t = 5000, global = true, hide_env_values = true)]
    pub port: u16,
    /// How long an idle client connection is kept; longer than your load balancer's own (usually 60s)
    #[arg(long, env = "KEEP_ALIVE", default_value = "75s", value_parser = duration, global = true, hide_env_values = true)]
    pub keep_alive: Duration,
    /// How long the head of a request may take to arrive
    #[arg(long, env = "HEADER_TIMEOUT", default_value = "10s", value_parser = duration, global = true, hide_env_values = true)]
    pub header_timeout: Duration,
    /// How long the body of a request may take to arrive, before 408
    #[arg(long, env = "BODY_TIMEOUT", default_value = "10s", value_parser = duration, global = true, hide_env_values = true)]
    pub body_timeout: Duration,
    /// Largest request body in bytes or as 16k, 4k to 1m; beyond it, 413
    #[arg(long, env = "BODY_LIMIT", default_value = "16384", value_parser = body_limit, global = true, hide_env_values = true)]
    pub body_limit: u32,
    /// Client connections at most; more wait until one ends
    #[arg(long, env = "CONNECTION_LIMIT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000), global = true, hide_env_values = true)]
    pub connection_limit: u32,
    /// How long to go on serving after a signal, not ready and closing connections, before stopping
    #[arg(long, env = "SHUTDOWN_DELAY", default_value = "0s", value_parser = duration, global = true, hide_env_values = true)]
    pub shutdown_delay: Duration,
    /// How log lines look: text for people, json for programs
    #[arg(
        long,
        env = "LOG_FORMAT",
        value_enum,
        default_value = "text",
        global = true,
        hide_env_values = true
    )]
    pub log_format: LogFormat,
    /// In what currency payments are that name none (ISO 4217)
    #[arg(
        long,
        env = "DEFAULT_CURRENCY",
        default_value = "USD",
        global = true,
        hide_env_values = true
    )]
    pub default_currency: Currency,
    /// How long a stored answer can be replayed; later copies get 410
    #[arg(
        long,
        env = "IDEMPOTENCY_RESPONSE_TTL",
        default_value = "24h",
        global = true,
        hide_env_values = true
    )]
    pub idempotency_response_ttl: Ttl,
    /// How long a key stays used up; after that it can pay again
    #[arg(
        long,
        env = "IDEMPOTENCY_KEY_TTL",
        default_value = "never",
        global = true,
        hide_env_values = true
    )]
    pub idempotency_key_ttl: Ttl,
    /// With what status a stored 201 is replayed
    #[arg(
        long,
        env = "IDEMPOTENCY_REPLAY_STATUS",
        value_enum,
        default_value = "ok",
        global = true,
        hide_env_values = true
    )]
    pub idempotency_replay_status: ReplayStatus,
    /// How long a request waits for another server that is executing its key, before 409; at least 100ms
    #[arg(long, env = "IN_FLIGHT_WAIT", default_value = "2s", value_parser = duration, global = true, hide_env_values = true)]
    pub in_flight_wait: Duration,
    /// When a request is answered at the latest; time-outs towards PostgreSQL are parts of it
    #[arg(long, env = "REQUEST_DEADLINE", default_value = "10s", value_parser = duration, global = true, hide_env_values = true)]
    pub request_deadline: Duration,
    /// Connections that commit payments
    #[arg(long, env = "COMMITTERS", default_value = "1", global = true, hide_env_values = true)]
    pub committers: NonZeroUsize,
    /// Payments in one transaction at most; 1 is a transaction for each
    #[arg(long, env = "MAX_BATCH", default_value = "512", global = true, hide_env_values = true)]
    pub max_batch: NonZeroUsize,
    /// Keys that wait or are being executed at most, before 503
    #[arg(
        long,
        env = "QUEUE_LIMIT",
        default_value = "4096",
        global = true,
        hide_env_values = true
    )]
    pub queue_limit: NonZeroUsize,
    /// Keys of one account that wait or are being executed at most, before 429 [default: three quarters of
    /// `QUEUE_LIMIT`]
    #[arg(long, env = "ACCOUNT_QUEUE_LIMIT", global = true, hide_env_values = true)]
    pub account_queue_limit: Option<NonZeroUsize>,
    /// Who may call without an API key, as long as there has never been one: programs on this machine
    /// (loopback), everybody who reaches it (true), nobody (false)
    #[arg(
        long,
        env = "ANONYMOUS_ACCESS",
        value_enum,
        default_value = "loopback",
        global = true,
        hide_env_values = true
    )]
    pub anonymous_access: AnonymousAccess,
    /// Connections that read
    #[arg(long, env = "READ_CONNECTIONS", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..), global = true, hide_env_values = true)]
    pub read_connections: u32,
    /// How often what has expired is deleted; never leaves it to `payonce sweep`
    #[arg(
        long,
        env = "SWEEP_INTERVAL",
        default_value = "1m",
        global = true,
        hide_env_values = true
    )]
    pub sweep_interval: Ttl,
    /// Address and port to serve /metrics at, to whoever reaches it and no longer on PORT [default: on PORT, to
    /// programs on this machine]
    #[arg(long, env = "METRICS_ADDRESS", global = true, hide_env_values = true)]
    pub metrics_address: Option<SocketAddr>,
    /// What readers of /metrics show; read by [`metrics_token`]
    #[arg(skip)]
    pub metrics_token: Option<Token>,
    /// Whether serve migrates the database when it starts
    #[arg(long, env = "AUTO_MIGRATE", default_value = "true", action = ArgAction::Set, global = true, hide_env_values = true)]
    pub auto_migrate: bool,
    /// Whether to work on a PostgreSQL with synchronous_commit off, which may lose answered payments
    #[arg(long, env = "ALLOW_ASYNCHRONOUS_COMMIT", default_value = "false", action = ArgAction::Set, global = true, hide_env_values = true)]
    pub allow_asynchronous_commit: bool,
}

impl Settings {
    /// Checks what clap can't: how settings stand to each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let never = Duration::MAX;
        let key_ttl = ("IDEMPOTENCY_KEY_TTL", self.idempotency_key_ttl.0.unwrap_or(never));
        let response_ttl =
            ("IDEMPOTENCY_RESPONSE_TTL", self.idempotency_response_ttl.0.unwrap_or(never));
        let deadline = ("REQUEST_DEADLINE", self.request_deadline);
        let wait = ("IN_FLIGHT_WAIT", self.in_flight_wait);
        let shown = |value: Duration| Ttl((value != never).then_some(value));
        let demand = |holds: bool,
                      (longer, a): (&str, Duration),
                      relation: &str,
                      (shorter, b): (&str, Duration)| {
            let contradiction =
                || format!("{longer} ({}) must be {relation} {shorter} ({})", shown(a), shown(b));
            holds.then_some(()).ok_or_else(|| ConfigError::Contradiction(contradiction()))
        };
        demand(key_ttl.1 >= response_ttl.1, key_ttl, "at least", response_ttl)?;
        demand(response_ttl.1 > deadline.1, response_ttl, "more than", deadline)?;
        demand(deadline.1 > wait.1, deadline, "more than", wait)?;
        let sweep = ("SWEEP_INTERVAL", self.sweep_interval.0.unwrap_or(never));
        for (setting, shortest, longest) in [
            (deadline, SHORTEST_DEADLINE, LONGEST_DEADLINE),
            (wait, SHORTEST_IN_FLIGHT_WAIT, LONGEST_DEADLINE),
            (sweep, SHORTEST_SWEEP_INTERVAL, never),
            (("KEEP_ALIVE", self.keep_alive), Duration::ZERO, LONGEST_KEEP_ALIVE),
            (("HEADER_TIMEOUT", self.header_timeout), SHORTEST_READ_TIMEOUT, LONGEST_DEADLINE),
            (("BODY_TIMEOUT", self.body_timeout), SHORTEST_READ_TIMEOUT, LONGEST_DEADLINE),
            (("SHUTDOWN_DELAY", self.shutdown_delay), Duration::ZERO, LONGEST_DEADLINE),
        ] {
            demand(setting.1 >= shortest, setting, "at least", ("the shortest", shortest))?;
            demand(setting.1 <= longest, setting, "at most", ("the longest", longest))?;
        }
        for ttl in [key_ttl, response_ttl].into_iter().filter(|ttl| ttl.1 != never) {
            demand(ttl.1 <= LONGEST_TTL, ttl, "never, or at most", ("the longest", LONGEST_TTL))?;
        }
        if let (Some(metrics), false) = (self.metrics_address, self.port == 0)
            && let Ok(host) = self.host.trim_matches(['[', ']']).parse::<IpAddr>()
            && metrics.port() == self.port
            && overlap(host, metrics.ip())
        {
            return Err(ConfigError::Contradiction(format!(
                "METRICS_ADDRESS ({metrics}) must be another address than that of HOST ({host}) and PORT ({})",
                self.port
            )));
        }
        let (share, limit) = (self.account_queue_limit(), self.queue_limit.get());
        if share > limit {
            return Err(ConfigError::Contradiction(format!(
                "ACCOUNT_QUEUE_LIMIT ({share}) must be at most QUEUE_LIMIT ({limit})"
            )));
        }
        Ok(())
    }

    /// The host at which a program on this machine reaches the server, as a URL has it.
    #[must_use]
    pub fn reachable_host(&self) -> String {
        match self.host.trim_matches(['[', ']']) {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            "::" => "[::1]".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        }
    }

    /// How many keys of one account may wait or be executed. Where nothing is said, a quarter of the queue
    /// is left to the others.
    #[must_use]
    pub fn account_queue_limit(&self) -> usize {
        let limit = self.queue_limit.get();
        self.account_queue_limit.map_or(limit - limit / 4, NonZeroUsize::get)
    }

    /// What of this is for the committers.
    #[must_use]
    pub fn idempotency(&self) -> idempotency::Settings {
        idempotency::Settings {
            committers: self.committers.get(),
            max_batch: self.max_batch.get(),
            queue_limit: self.queue_limit.get(),
            account_queue_limit: self.account_queue_limit(),
            request_deadline: self.request_deadline,
            in_flight_wait: self.in_flight_wait,
            response_ttl: self.idempotency_response_ttl.0,
            key_ttl: self.idempotency_key_ttl.0,
            allow_asynchronous_commit: self.allow_asynchronous_commit,
        }
    }
}

/// Whether nobody can listen at both, on one port. That of all IPv6 addresses is that of IPv4 ones as well.
fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let covers =
        |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
    one == other || covers(one, other) || covers(other, one)
}
