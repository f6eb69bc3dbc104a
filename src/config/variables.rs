//! Settings that are read from the environment alone.

use super::ConfigError;
use crate::{
    logs::{DEFAULT_FILTER, Filter},
    metrics::access::Token,
    webhooks::secrets::{InvalidKeyring, Keyring},
};

/// The log filter in `RUST_LOG`.
///
/// # Errors
/// When it cannot be parsed, or would silence payonce without saying so.
pub fn log_filter() -> Result<Filter, ConfigError> {
    let written = std::env::var_os("RUST_LOG").unwrap_or_default();
    let written = written.to_string_lossy();
    let value = if written.trim().is_empty() { DEFAULT_FILTER } else { written.as_ref() };
    value.parse().map_err(|reason| ConfigError::LogFilter { value: value.to_owned(), reason })
}

/// The token in `METRICS_TOKEN`. Surrounding white space is dropped: secrets are often stored with a newline at
/// their end, and no header could carry it.
///
/// # Errors
/// When a header cannot carry the token.
pub fn metrics_token() -> Result<Option<Token>, ConfigError> {
    let token = std::env::var_os("METRICS_TOKEN").unwrap_or_default();
    let token = token.to_str().ok_or(ConfigError::MetricsToken)?.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ConfigError::MetricsToken);
    }
    Ok((!token.is_empty()).then(|| Token::new(token)))
}

/// The keys in `WEBHOOK_SECRET`, which encrypt the signing secrets of webhook endpoints.
///
/// # Errors
/// When an entry of the list cannot be a random text.
pub fn webhook_secret() -> Result<Option<Keyring>, ConfigError> {
    let list = std::env::var_os("WEBHOOK_SECRET").unwrap_or_default();
    let list = list.to_str().ok_or(ConfigError::WebhookSecret(InvalidKeyring))?.trim();
    let keyring = (!list.is_empty()).then(|| Keyring::parse(list)).transpose();
    keyring.map_err(ConfigError::WebhookSecret)
}
