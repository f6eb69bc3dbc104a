//! Reads the command line and the environment, and says what is wrong with either.

use std::{error::Error as _, io::Write, process};

use clap::{
    ArgMatches, Command, CommandFactory, Error, FromArgMatches,
    error::{ContextKind, ContextValue, ErrorKind},
};

use super::{Cli, USAGE, concern::concerned};

/// Sources of settings besides flags.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Variables {
    /// Those of the environment. An empty one counts as not set.
    Set,
    /// None.
    Ignored,
}

/// The command line with the environment. Exits if either cannot be read.
pub(super) fn parse() -> (Cli, ArgMatches) {
    let matches =
        command_with(Variables::Set).try_get_matches().unwrap_or_else(|error| exit(&error));
    match Cli::from_arg_matches(&matches) {
        Ok(cli) => (cli, matches),
        Err(error) => exit(&error),
    }
}

/// The whole command line. The help of each command lists the settings that concern it.
pub(super) fn command() -> Command {
    command_with(Variables::Set)
}

fn command_with(variables: Variables) -> Command {
    let mut command = Cli::command().mut_args(|arg| {
        let Some(value) = arg.get_env().map(std::env::var_os) else { return arg };
        // There are many settings: -h is a page, --help has them all.
        let arg = arg.global(true).hide_env_values(true).hide_short_help(true);
        let empty = value.is_some_and(|value| value.is_empty());
        if empty || variables == Variables::Ignored { arg.env(None) } else { arg }
    });
    // Global arguments become those of each command when the command is built.
    command.build();
    command.mut_subcommands(|command| hide_other_settings(command, ""))
}

/// Hides the settings that do not concern a command.
fn hide_other_settings(command: Command, parent: &str) -> Command {
    let name = format!("{parent} {}", command.get_name()).trim_start().to_owned();
    let settings = concerned(&name);
    let command = command.mut_args(|arg| {
        let hidden = arg.get_env().is_some() && !settings.shows(arg.get_id().as_str());
        if hidden { arg.hide(true) } else { arg }
    });
    command.mut_subcommands(|command| hide_other_settings(command, &name))
}

fn exit(error: &Error) -> ! {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        error.exit();
    }
    // Without the environment, any error is the command line's. clap names flags only, and its usage lists each flag
    // that has a value from the environment.
    let message = match command_with(Variables::Ignored).try_get_matches() {
        Err(error) if hides_nothing(&error.to_string()) => error.exit(),
        Err(error) => without_user_info(&error.to_string()),
        Ok(_) => format!("payonce: {}\n", of_variable(error)),
    };
    // Nobody reads it if stderr is closed.
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
    let command = command();
    let argument = command.get_arguments().find(|argument| argument.to_string() == flag);
    let Some((argument, name)) = argument.and_then(|one| Some((one, one.get_env()?))) else {
        return error.to_string();
    };
    let name = name.to_string_lossy();
    let reason = match (error.source(), error.get(ContextKind::ValidValue)) {
        (Some(reason), _) => reason.to_string(),
        (None, Some(ContextValue::Strings(values))) => format!("expected {}", values.join(", ")),
        _ => "the value is not valid".to_owned(),
    };
    let default = argument.get_default_values().first();
    let example = match default.map(|value| value.to_string_lossy()) {
        Some(default) => default.into_owned(),
        None if name == "METRICS_ADDRESS" => "127.0.0.1:9100".to_owned(),
        None if name == "WEBHOOK_ALLOWED_NETWORKS" => "10.0.0.0/8,fd00::/8".to_owned(),
        None => "3072".to_owned(),
    };
    format!("{name}={value} can't be read: {reason}. For example {name}={example}")
}

/// Returns whether a message may be shown as it is.
fn hides_nothing(message: &str) -> bool {
    without_user_info(message) == message
}

/// A message without the user and password of URLs.
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
    fn a_message_shows_urls_without_their_passwords() {
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
