//! Reading the command line and the environment, and saying what is wrong with either.

use std::{error::Error as _, io::Write, process};

use clap::{
    ArgMatches, CommandFactory, Error, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, USAGE};

/// The command line with the environment. A variable that is set to nothing counts as not set. Exits where either
/// cannot be read.
pub(super) fn parse() -> (Cli, ArgMatches) {
    let command = Cli::command().mut_args(|arg| {
        let Some(value) = arg.get_env().map(std::env::var_os) else { return arg };
        // There are many settings: -h is a page, --help has them all.
        let arg = arg.hide_short_help(true);
        if value.is_some_and(|value| value.is_empty()) { arg.env(None) } else { arg }
    });
    let matches = command.try_get_matches().unwrap_or_else(|error| exit(error));
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => (cli, matches),
        Err(error) => exit(error),
    }
}

fn exit(error: Error) -> ! {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        error.exit();
    }
    // Without the environment, any error is the command line's. clap names flags only, and lists those that have
    // a value from the environment in its usage.
    let message = match Cli::command().mut_args(|arg| arg.env(None)).try_get_matches() {
        Err(error) if hides_nothing(&error.to_string()) => error.exit(),
        Err(error) => without_user_info(&error.to_string()),
        Ok(_) => format!("payonce: {}\n", of_variable(&error)),
    };
    // Nobody can be told where stderr is closed.
    let _ = std::io::stderr().write_all(message.as_bytes());
    process::exit(USAGE.into());
}

/// Names the variable that cannot be read, with an example.
fn of_variable(error: &Error) -> String {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => text.as_str(),
        _ => "",
    };
    let (value, flag) = (context(ContextKind::InvalidValue), context(ContextKind::InvalidArg));
    let mut command = Cli::command();
    command.build();
    let argument = command.get_arguments().find(|argument| argument.to_string() == flag);
    let Some((argument, name)) = argument.and_then(|one| Some((one, one.get_env()?))) else {
        return error.to_string();
    };
    let name = name.to_string_lossy();
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(ContextValue::Strings(values))) => format!("expected {}", values.join(", ")),
        _ => "it has no value of the kind that is expected".to_owned(),
    };
    let default = argument.get_default_values().first();
    let example = match default.map(|value| value.to_string_lossy()) {
        Some(default) => default.into_owned(),
        None if name == "METRICS_ADDRESS" => "127.0.0.1:9100".to_owned(),
        None => "3072".to_owned(),
    };
    format!("{name}={value} can't be read: {reason}. For example {name}={example}")
}

/// Whether a message may be shown as it is.
fn hides_nothing(message: &str) -> bool {
    without_user_info(message) == message
}

/// A message without user and password of the URLs in it.
fn without_user_info(message: &str) -> String {
    let mut parts = message.split("://");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let word = part.find([' ', '\n']).unwrap_or(part.len());
        let (url, rest) = part.split_at(word);
        let url = url.rsplit_once('@').map_or(url.to_owned(), |(_, host)| format!("…@{host}"));
        shown.extend(["://", &url, rest]);
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::without_user_info;

    #[test]
    fn a_message_is_shown_without_the_passwords_in_its_urls() {
        for (message, shown) in [
            ("no URL", "no URL"),
            ("'http://host/x' is wrong", "'http://host/x' is wrong"),
            ("'http://u:p@host/x' is wrong", "'http://…@host/x' is wrong"),
            ("a://u:p/q@h and b://v@w\nc", "a://…@h and b://…@w\nc"),
        ] {
            assert_eq!(without_user_info(message), shown);
        }
    }
}
