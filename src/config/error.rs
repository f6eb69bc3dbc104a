//! Why settings are not taken.

use std::path::PathBuf;

use thiserror::Error;

/// Settings that contradict each other, or can't be read.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// There is no `DATABASE_URL`.
    #[error(
        "DATABASE_URL is not set, and payonce keeps everything in PostgreSQL. One of these gives it one:

  docker compose up                  PostgreSQL and payonce, both in containers
  scripts/with-postgres cargo run    a PostgreSQL of this repository's own, started and stopped for you
  DATABASE_URL=postgres://user:password@host/database payonce
                                     one that you have; the line may also stand in a file .env here"
    )]
    NoDatabase,
    /// It is no URL of a PostgreSQL database. What it says may be a secret.
    #[error("DATABASE_URL can't be read: write it as postgres://user:password@host:5432/database")]
    DatabaseUrl,
    /// It has a parameter that nobody knows. Its name, where it looks like one, and not its value.
    #[error(
        "DATABASE_URL can't be read: nothing is known of its parameter{}. Of those of PostgreSQL's own programs \
         sslmode, sslrootcert, sslcert, sslkey, application_name, options and some more are known; a ? or & \
         in a password is written %3F or %26",
        .0.as_ref().map(|name| format!(" {name:?}")).unwrap_or_default()
    )]
    DatabaseParameter(Option<String>),
    /// `RUST_LOG` says nothing that could be meant.
    #[error(
        "RUST_LOG={value:?} can't be read: {reason}. Write a level (off, error, warn, info, debug, trace), for \
         some targets another (info,payonce::request=debug), and other crates always with one (info,sqlx=debug)"
    )]
    LogFilter {
        /// What it says.
        value: String,
        /// What is wrong with that.
        reason: String,
    },
    /// A relation between settings that doesn't hold.
    #[error("{0}")]
    Contradiction(String),
    /// There is a `.env`, and it can't be read.
    #[error("{path} can't be read: {reason}")]
    DotEnv {
        /// Where it is.
        path: PathBuf,
        /// Why; nothing of its content.
        reason: String,
    },
}

impl ConfigError {
    /// Whether something is written that can't be read, as opposed to what can and doesn't do.
    #[must_use]
    pub fn is_unreadable(&self) -> bool {
        match self {
            Self::DatabaseUrl
            | Self::DatabaseParameter(_)
            | Self::LogFilter { .. }
            | Self::DotEnv { .. } => true,
            Self::NoDatabase | Self::Contradiction(_) => false,
        }
    }
}
