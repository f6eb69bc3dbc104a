//! `payonce config`: the settings and their sources, without secrets.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    io,
};

use clap::{Arg, ArgMatches, Args, Command, parser::ValueSource};
use serde::Serialize;

use super::print;
use crate::{
    config::{self, ConfigError, Settings},
    logs::DEFAULT_FILTER,
};

/// A setting in force.
#[derive(Serialize)]
struct InForce {
    name: String,
    /// The value as it was written, or `null`.
    value: Option<String>,
    source: &'static str,
}

/// Prints every setting. `environment` has the names of the variables that were set outside of `.env`.
pub(super) fn show(
    settings: &Settings,
    matches: &ArgMatches,
    environment: &HashSet<OsString>,
    json: bool,
) -> io::Result<()> {
    let from_variable = |name: &str| {
        if environment.contains(OsStr::new(name)) { "environment" } else { ".env" }
    };
    let of_argument = |argument: &Arg| {
        let (id, name) = (argument.get_id().as_str(), argument.get_env().unwrap_or_default());
        let name = name.to_string_lossy().into_owned();
        let written = matches.get_raw(id).and_then(|mut values| values.next());
        // Its default depends on another setting.
        let derived =
            || (id == "account_queue_limit").then(|| settings.account_queue_limit().to_string());
        let value = written.map(|value| value.to_string_lossy().into_owned()).or_else(derived);
        InForce {
            source: match matches.value_source(id) {
                Some(ValueSource::CommandLine) => "flag",
                Some(ValueSource::EnvVariable) => from_variable(&name),
                _ if value.is_none() => "not set",
                _ => "default",
            },
            value,
            name,
        }
    };
    // Settings without a flag.
    let of_variable = |name: &str, default: Option<&str>, shown: &dyn Fn(&str) -> String| {
        let set = std::env::var(name).ok().filter(|value| !value.trim().is_empty());
        InForce {
            source: match (&set, default) {
                (Some(_), _) => from_variable(name),
                (None, Some(_)) => "default",
                (None, None) => "not set",
            },
            value: set.map(|value| shown(&value)).or(default.map(str::to_owned)),
            name: name.to_owned(),
        }
    };
    let mut all = vec![
        of_variable("DATABASE_URL", None, &|_| database()),
        of_variable("METRICS_TOKEN", None, &|_| "(secret)".to_owned()),
        of_variable("WEBHOOK_SECRET", None, &|_| "(secret)".to_owned()),
        of_variable("RUST_LOG", Some(DEFAULT_FILTER), &str::to_owned),
    ];
    let arguments = Settings::augment_args(Command::new("settings"));
    all.extend(arguments.get_arguments().map(of_argument));
    if json {
        return print::json(&all);
    }
    let rows = all.into_iter().map(|setting| {
        [setting.name, setting.value.unwrap_or_else(|| "-".to_owned()), setting.source.to_owned()]
    });
    print::table(["SETTING", "VALUE", "FROM"], rows)
}

/// The database, without its password.
fn database() -> String {
    let shown = config::database().map(|options| config::shown(&options));
    shown.unwrap_or_else(|error: ConfigError| error.to_string())
}
