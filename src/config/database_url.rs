//! `DATABASE_URL`: where the database is. It holds a password, so an error never repeats it.

use percent_encoding::percent_decode_str;
use sqlx::postgres::PgConnectOptions;

use super::{ConfigError, error::UrlFault};

/// The parameters of a `DATABASE_URL` that sqlx understands, besides `options[…]`.
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

/// The database that `DATABASE_URL` names.
///
/// # Errors
/// When the variable is not set, or is not such a URL.
pub fn database() -> Result<PgConnectOptions, ConfigError> {
    let url = std::env::var_os("DATABASE_URL").unwrap_or_default();
    match url.to_str().map(str::trim) {
        None => Err(ConfigError::DatabaseUrl(UrlFault::Form)),
        Some("") => Err(ConfigError::NoDatabase),
        Some(url) => parse(url),
    }
}

/// A database's address as it may be shown: without its password.
#[must_use]
pub fn shown(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or_else(|| options.get_username());
    let host = match (options.get_socket(), options.get_host()) {
        (Some(directory), _) => directory.display().to_string(),
        (None, host) if host.contains(':') => format!("[{host}]"),
        (None, host) => host.to_owned(),
    };
    format!("{}@{host}:{}/{database}", options.get_username(), options.get_port())
}

fn parse(url: &str) -> Result<PgConnectOptions, ConfigError> {
    let fault = |fault| Err(ConfigError::DatabaseUrl(fault));
    let rest = url.strip_prefix("postgres://").or_else(|| url.strip_prefix("postgresql://"));
    let Some(rest) = rest else { return fault(UrlFault::Form) };
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let (before_query, query) = path.split_once('?').unwrap_or((path, ""));
    // A character of the password has ended it. The remainder would be taken for a port or a database.
    if before_query.contains('@') {
        return fault(UrlFault::Unescaped);
    }
    known_parameters(query)?;
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.contains(',') || query.split('&').any(is_list_of_hosts) {
        return fault(UrlFault::SeveralHosts);
    }
    if host.is_empty() && !user.is_empty() {
        return fault(UrlFault::NoHost);
    }
    if before_query.contains('#') || query.contains('#') {
        return fault(UrlFault::Fragment);
    }
    let Ok(options) = url.parse::<PgConnectOptions>() else {
        let mut parameters = query.split('&');
        return fault(parameters.find_map(invalid_value).unwrap_or(UrlFault::Form));
    };
    // PgBouncer refuses this parameter, and payonce reads no floating-point numbers.
    let options = options.extra_float_digits(None);
    // sqlx looks an IPv6 address up with its brackets.
    Ok(match options.get_host().strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => options.clone().host(address),
        None => options,
    })
}

/// The parameter's name, if its value is at fault.
fn invalid_value(parameter: &str) -> Option<UrlFault> {
    let alone = format!("postgres://localhost/?{parameter}").parse::<PgConnectOptions>();
    let (name, _) = parameter.split_once('=')?;
    alone.is_err().then(|| UrlFault::Value(name.to_owned()))
}

fn is_list_of_hosts(parameter: &str) -> bool {
    let value = parameter.strip_prefix("host=").or_else(|| parameter.strip_prefix("hostaddr="));
    value.is_some_and(|hosts| percent_decode_str(hosts).any(|byte| byte == b','))
}

/// Makes sure that sqlx knows every parameter. It ignores the others, such as a mistyped `sslmode`, and logs
/// them with their values, such as a mistyped `password`.
fn known_parameters(query: &str) -> Result<(), ConfigError> {
    let query = query.split('#').next().unwrap_or_default();
    for parameter in query.split('&').filter(|one| !one.is_empty()) {
        let (name, value) = parameter
            .split_once('=')
            .map_or((parameter, None), |(name, value)| (name, Some(value)));
        let name = percent_decode_str(name).decode_utf8_lossy();
        let option = name.strip_prefix("options[").is_some_and(|option| option.ends_with(']'));
        if !option && !PARAMETERS.contains(&name.as_ref()) {
            // Text that does not look like a name may be the rest of a password that contains ? or &.
            let plain = |c: char| c.is_ascii_alphanumeric() || "_-.[]".contains(c);
            let shown = value.is_some() && !query.contains('@') && name.chars().all(plain);
            return Err(ConfigError::DatabaseUrl(UrlFault::Parameter(
                shown.then(|| name.into_owned()),
            )));
        }
    }
    Ok(())
}
