//! What is read from the environment alone, and `.env`, which adds to it.

use std::path::Path;

use percent_encoding::percent_decode_str;
use sqlx::postgres::PgConnectOptions;

use super::ConfigError;
use crate::{
    logs::{DEFAULT_FILTER, Filter},
    metrics::access::Token,
};

/// What sqlx understands behind the question mark of a `DATABASE_URL`, besides `options[…]`.
const PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

/// Reads `.env` from the working directory, where there is one, into the environment. What the environment
/// has already stays. Folders above are not looked into: what stands there is about something else.
///
/// # Errors
/// When there is one and it can't be read.
pub fn read_dot_env() -> Result<(), ConfigError> {
    let path = Path::new(".env");
    let refuse = |reason: String| Err(ConfigError::DotEnv { path: path.to_path_buf(), reason });
    // A folder of this name is a Python environment's, or made by Docker for a mount of what isn't there.
    if path.is_dir() {
        return Ok(());
    }
    match dotenvy::from_path(path) {
        Ok(()) => Ok(()),
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
    known_parameters(&url)?;
    url.parse().map_err(|_| ConfigError::DatabaseUrl)
}

/// Makes sure that sqlx knows every parameter of this URL. What it doesn't, it would ignore, be it a mistyped
/// `sslmode`, and log with its value, be it a mistyped `password`.
fn known_parameters(url: &str) -> Result<(), ConfigError> {
    let query = url.split('#').next().and_then(|url| url.split_once('?')).map(|(_, query)| query);
    let query = query.unwrap_or_default();
    for parameter in query.split('&').filter(|one| !one.is_empty()) {
        let (name, value) = parameter
            .split_once('=')
            .map_or((parameter, None), |(name, value)| (name, Some(value)));
        let name = percent_decode_str(name).decode_utf8_lossy();
        let option = name.strip_prefix("options[").is_some_and(|option| option.ends_with(']'));
        if !option && !PARAMETERS.contains(&name.as_ref()) {
            // What doesn't look like a name may be the rest of a password that has a ? or & in it.
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
            let shown = value.is_some() && !query.contains('@') && name.chars().all(plain);
            return Err(ConfigError::DatabaseParameter(shown.then(|| name.into_owned())));
        }
    }
    Ok(())
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
