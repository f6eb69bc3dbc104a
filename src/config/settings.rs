//! The settings of the server, each with its flag, its variable and its default.

use std::{net::SocketAddr, num::NonZeroUsize, time::Duration};

use clap::{ArgAction, Args, value_parser};

use super::{
    Switch, Ttl,
    values::{body_limit, duration},
};
use crate::{
    accounts::AnonymousAccess,
    http::idempotent::ReplayStatus,
    idempotency,
    logs::LogFormat,
    metrics::access::Token,
    payments::currency::Currency,
    webhooks::{AllowedNetworks, secrets::Keyring},
};

/// The settings. The database's URL and other secrets have no flag, which lists of processes would show.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Settings")]
pub struct Settings {
    /// Address or name to listen on
    #[arg(long, env, default_value = "127.0.0.1")]
    pub host: String,
    /// Port to listen on; 0 takes a free one
    #[arg(long, env, default_value_t = 5000)]
    pub port: u16,
    /// Lifetime of an idle client connection; longer than your load balancer's (usually 60s)
    #[arg(long, env, default_value = "75s", value_parser = duration)]
    pub keep_alive: Duration,
    /// Time for the head of a request to arrive
    #[arg(long, env, default_value = "10s", value_parser = duration)]
    pub header_timeout: Duration,
    /// Time for the body of a request to arrive, before 408
    #[arg(long, env, default_value = "10s", value_parser = duration)]
    pub body_timeout: Duration,
    /// Largest body of a request, in bytes or as 16k; 4k to 1m; a larger one gets 413
    #[arg(long, env, default_value = "16384", value_parser = body_limit)]
    pub body_limit: u32,
    /// Client connections at a time; others wait for one to end
    #[arg(long, env, default_value_t = 10_000, value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub connection_limit: u32,
    /// Time to keep serving after a signal to stop, while not ready and closing connections
    #[arg(long, env, default_value = "0s", value_parser = duration)]
    pub shutdown_delay: Duration,
    /// Form of log lines: text for people, json for programs
    #[arg(long, env, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Default currency for payments that do not name one (ISO 4217)
    #[arg(long, env, default_value = "USD")]
    pub default_currency: Currency,
    /// Time for which a stored response can be replayed; a later duplicate gets 410
    #[arg(long, env, default_value = "24h")]
    pub idempotency_response_ttl: Ttl,
    /// Time for which a key stays used; afterwards a retry pays again
    #[arg(long, env, default_value = "never")]
    pub idempotency_key_ttl: Ttl,
    /// Status with which a stored 201 is replayed
    #[arg(long, env, value_enum, default_value = "ok")]
    pub idempotency_replay_status: ReplayStatus,
    /// Time that a request waits for another server that is executing its key, before 409; at least 100ms
    #[arg(long, env, default_value = "2s", value_parser = duration)]
    pub in_flight_wait: Duration,
    /// Latest time for a response; time-outs of statements are parts of it
    #[arg(long, env, default_value = "10s", value_parser = duration)]
    pub request_deadline: Duration,
    /// Database connections that commit payments
    #[arg(long, env, default_value = "1")]
    pub committers: NonZeroUsize,
    /// Largest number of payments in one transaction; 1 gives each its own
    #[arg(long, env, default_value = "512")]
    pub max_batch: NonZeroUsize,
    /// Keys that wait or execute, before 503
    #[arg(long, env, default_value = "4096")]
    pub queue_limit: NonZeroUsize,
    /// Keys of one account that wait or execute, before 429 [default: three quarters of QUEUE_LIMIT]
    #[arg(long, env)]
    pub account_queue_limit: Option<NonZeroUsize>,
    /// Callers that need no API key until the first one exists: loopback (programs on this machine), true
    /// (everybody who reaches the server) or false (nobody)
    #[arg(long, env, value_enum, default_value = "loopback")]
    pub anonymous_access: AnonymousAccess,
    /// Events of payments and refunds: on, or off, which leaves a gap until payonce events backfill
    #[arg(long, env, value_enum, default_value = "on")]
    pub events: Switch,
    /// Lifetime of events; the newest of each account are kept longer
    #[arg(long, env, default_value = "30d")]
    pub event_ttl: Ttl,
    /// Database connections for reads
    #[arg(long, env, default_value_t = 4, value_parser = value_parser!(u32).range(1..))]
    pub read_connections: u32,
    /// Interval of deleting expired responses and keys; never leaves it to payonce sweep
    #[arg(long, env, default_value = "1m")]
    pub sweep_interval: Ttl,
    /// Address and port for /metrics alone, open to everybody who reaches it [default: on PORT, for programs on this
    /// machine]
    #[arg(long, env)]
    pub metrics_address: Option<SocketAddr>,
    /// Token that readers of /metrics must send; set from [`metrics_token`](super::metrics_token)
    #[arg(skip)]
    pub metrics_token: Option<Token>,
    /// Keys that encrypt the signing secrets of webhook endpoints; set from
    /// [`webhook_secret`](super::webhook_secret)
    #[arg(skip)]
    pub webhook_secret: Option<Keyring>,
    /// Networks that webhooks reach besides the public internet, also by http://, as 10.0.0.0/8,fd00::/8
    #[arg(long, env)]
    pub webhook_allowed_networks: Option<AllowedNetworks>,
    /// Apply missing migrations when serve starts
    #[arg(long, env, default_value = "true", action = ArgAction::Set)]
    pub auto_migrate: bool,
    /// Run on a PostgreSQL that may lose acknowledged commits in a crash
    #[arg(long, env, default_value = "false", action = ArgAction::Set)]
    pub allow_asynchronous_commit: bool,
}

impl Settings {
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

    /// Number of keys of one account that may wait or execute. By default a quarter of the queue is left to other accounts.
    #[must_use]
    pub fn account_queue_limit(&self) -> usize {
        let limit = self.queue_limit.get();
        self.account_queue_limit.map_or(limit - limit / 4, NonZeroUsize::get)
    }

    /// The settings of the idempotency layer.
    #[must_use]
    pub fn idempotency(&self) -> idempotency::Settings {
        idempotency::Settings {
            committers: self.committers.get(),
            max_batch: self.max_batch.get(),
            queue_limit: self.queue_limit.get(),
            account_queue_limit: Some(self.account_queue_limit()),
            request_deadline: self.request_deadline,
            in_flight_wait: self.in_flight_wait,
            response_ttl: self.idempotency_response_ttl.0,
            key_ttl: self.idempotency_key_ttl.0,
            announce: self.events == Switch::On,
            allow_asynchronous_commit: self.allow_asynchronous_commit,
        }
    }
}
