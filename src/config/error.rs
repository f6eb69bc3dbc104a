//! Reasons to refuse settings.

use std::path::PathBuf;

use thiserror::Error;

use crate::webhooks::secrets::InvalidKeyring;

/// A setting that is missing, cannot be read, or contradicts another.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// `DATABASE_URL` is missing.
    #[error(
        "DATABASE_URL is not set, and payonce keeps everything in PostgreSQL. Choose one of these:

  docker compose up                  starts PostgreSQL and payonce in containers
  scripts/with-postgres cargo run    starts and stops a PostgreSQL that belongs to this checkout
  DATABASE_URL=postgres://user:password@host/database payonce
                                     uses a database of yours; the variable may also stand in a file .env here"
    )]
    NoDatabase,
    /// `DATABASE_URL` is not the URL of a PostgreSQL database. The message never contains the URL, which holds a
    /// password.
    #[error("DATABASE_URL can't be read: {0}")]
    DatabaseUrl(UrlFault),
    /// `METRICS_TOKEN` contains a character that no header can carry.
    #[error(
        "METRICS_TOKEN can't be sent in a header: use printable ASCII characters without spaces, as in \
         METRICS_TOKEN=$(openssl rand -hex 32)"
    )]
    MetricsToken,
    /// `WEBHOOK_SECRET` is not a list of random texts. The message never contains it.
    #[error("WEBHOOK_SECRET can't be used: {0}")]
    WebhookSecret(InvalidKeyring),
    /// `RUST_LOG` is not a log filter.
    #[error(
        "RUST_LOG={value:?} can't be read: {reason}. Write a level (off, error, warn, info, debug, trace), for \
         some targets another (info,payonce::request=debug), and other crates always with one (info,sqlx=debug)"
    )]
    LogFilter {
        /// Its value.
        value: String,
        /// The reason for the refusal.
        reason: String,
    },
    /// Two settings contradict each other.
    #[error("{0}")]
    Contradiction(String),
    /// `.env` exists and cannot be read.
    #[error("{path} can't be read: {reason}")]
    DotEnv {
        /// Its path.
        path: PathBuf,
        /// The reason, without any of its content.
        reason: String,
    },
}

/// A reason to refuse a `DATABASE_URL`.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UrlFault {
    /// It is another kind of URL, or none.
    #[error("write it as postgres://user:password@host:5432/database")]
    Form,
    /// A reserved character stands in the password as it is.
    #[error(
        "the user or password contains a reserved character as it is. Write / as %2F, # as %23, ? as %3F, \
         @ as %40 and % as %25"
    )]
    Unescaped,
    /// A `#` stands outside of the password.
    #[error("it contains a #, which ends a URL: write it as %23")]
    Fragment,
    /// It names several hosts, as libpq allows.
    #[error(
        "it names several hosts, and payonce connects to one: give the name or address that always leads to the \
         primary"
    )]
    SeveralHosts,
    /// There is a user and no host.
    #[error(
        "there is no host after the user. For a socket, give its directory and the user as parameters: \
         postgres:///database?host=/var/run/postgresql&user=payonce"
    )]
    NoHost,
    /// It has an unknown parameter: its name, if it looks like one, without the value.
    #[error(
        "{} is unknown. Known are sslmode, sslrootcert, sslcert, sslkey, host, port, user, password, \
         dbname, application_name and options; in a password write ? as %3F and & as %26",
        .0.as_ref().map_or("a parameter".to_owned(), |name| format!("the parameter {name:?}"))
    )]
    Parameter(Option<String>),
    /// A known parameter has a value that is none of its values: the parameter's name.
    #[error("the value of the parameter {0} is invalid")]
    Value(String),
}
