//! What is read from the environment alone, and `.env`, which adds to it.

use std::path::PathBuf;

use sqlx::postgres::PgConnectOptions;

use super::ConfigError;
use crate::{
    logs::{DEFAULT_FILTER, Filter},
    metrics::access::Token,
};

/// Reads `.env` from here or a folder above, where there is one, into the environment. What the
/// environment has already stays.
///
/// # Errors
/// When there is one and it can't be read.
pub fn read_dot_env() -> Result<(), ConfigError> {
    let refuse = |reason: String| Err(ConfigError::DotEnv { path: PathBuf::from(".env"), reason });
    match dotenvy::dotenv() {
        Ok(_) => Ok(()),
        Err(error) if error.not_found() => Ok(()),
        // The line itself may hold a secret.
        Err(dotenvy::Error::LineParse(line, place)) => {
            let name = line.split('=').next().unwrap_or_default().trim();
            refuse(format!("the line of {name:?} is not NAME=value, at character {place}"))
        }
        Err(error) => refuse(error.to_string()),
    }
}

/// The database that `DATABASE_URL` names.
///
/// # Errors
/// When it is not set, or no such URL.
pub fn database() -> Result<PgConnectOptions, ConfigError> {
    let url = std::env::var("DATABASE_URL").ok().filter(|url| !url.trim().is_empty());
    let url = url.ok_or(ConfigError::NoDatabase)?;
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return Err(ConfigError::DatabaseUrl);
    }
    url.parse().map_err(|_| ConfigError::DatabaseUrl)
}

/// What `RUST_LOG` says is logged.
///
/// # Errors
/// When it can't be read, or would silence payonce without saying so.
pub fn log_filter() -> Result<Filter, ConfigError> {
    let written = std::env::var_os("RUST_LOG").unwrap_or_default();
    let written = written.to_string_lossy();
    let value = if written.trim().is_empty() { DEFAULT_FILTER } else { written.as_ref() };
    value.parse().map_err(|reason| ConfigError::LogFilter { value: value.to_owned(), reason })
}

/// The token that `METRICS_TOKEN` is.
#[must_use]
pub fn metrics_token() -> Option<Token> {
    let token = std::env::var("METRICS_TOKEN").ok().filter(|token| !token.is_empty());
    token.map(|token| Token::new(&token))
}

/// A database's address as it may be shown: without its password.
#[must_use]
pub fn shown(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    format!("{}@{}:{}/{database}", options.get_username(), options.get_host(), options.get_port())
}
