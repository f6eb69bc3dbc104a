//! The command line: a file for each family of commands.
//!
//! Commands print tables and sentences for people, and JSON for programs (`--json`) in the shape that the
//! HTTP API has for the same thing, where it has one. Errors go to stderr.

use std::{collections::HashSet, error::Error, ffi::OsString, process::ExitCode};

use actix_web::rt::System;
use clap::{ArgMatches, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use sqlx::{PgConnection, postgres::PgConnectOptions};

use self::{
    accounts::{AccountCommand, ApiKeyCommand},
    error::CommandError,
    key::KeyCommand,
    payment::PaymentCommand,
};
use crate::{
    config::{self, ConfigError, Settings},
    database, logs,
};

mod accounts;
mod arguments;
mod error;
mod key;
mod maintenance;
mod payment;
mod print;
mod serve;
mod settings;
mod storm;

/// The exit code where an argument or a setting can't be read, or is missing: clap's own.
const USAGE: u8 = 2;

/// Takes payments exactly once.
///
/// Settings are read from flags, then the environment, then a file .env in the working directory.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Environment only:\n  DATABASE_URL  postgres://user:password@host:5432/database (required)\n  \
                  METRICS_TOKEN what readers of /metrics have to show as Authorization: Bearer\n  \
                  RUST_LOG      what is logged [default: info]; a line for each request: info,payonce::request=debug\n\n\
                  Exit codes: 0 done; 1 it failed, or what was asked about isn't so, and stderr says why;\n\
                  2 a flag, argument or setting can't be read, or a flag or argument is missing;\n\
                  130 stopped at once by a second signal"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run the server (also what no command means)
    Serve,
    /// Apply the migrations that the database lacks
    Migrate {
        /// Apply none: list what is lacking, and exit with 1 where anything is
        #[arg(long)]
        check: bool,
        /// Print the list as JSON
        #[arg(long, requires = "check")]
        json: bool,
    },
    /// Delete what has expired, now
    Sweep {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the server at HOST and PORT whether it is ready; exit 0 if it is
    Healthcheck,
    /// Create and list accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Find out what became of a request, by its idempotency key, or make sure that it never executes
    #[command(subcommand)]
    Key(KeyCommand),
    /// List and show payments
    #[command(subcommand)]
    Payment(PaymentCommand),
    /// Make many real payments while you break the server, and tell whether each was made exactly once
    ///
    /// These are REAL PAYMENTS, at whatever server --url names: they are there afterwards, and nothing takes
    /// them back. Point it at a server for testing. Their users are called storm-…, their amounts are 1 and
    /// up.
    ///
    /// Some are sent several times at once, some again later, some are given up in the middle and sent
    /// again, and some of their keys are used for another payment afterwards. Kill servers, databases and
    /// networks meanwhile: what isn't answered is sent again, as the contract says. At the end all are read
    /// back and counted. Exits with 1 when one was not made exactly once, or that can't be told.
    ///
    /// Where the server asks for an API key, put it into the environment (or .env) as PAYONCE_API_KEY.
    Storm(storm::Options),
    /// Show the settings that are in force, and where each comes from
    Config {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what makes a shell complete this command line, to be saved where that shell looks for it
    Completions {
        /// Which shell
        shell: Shell,
    },
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    // Before anything reads the environment, and before there is a second thread.
    let environment = std::env::vars_os().map(|(name, _)| name).collect();
    let dot_env = config::read_dot_env();
    let (cli, matches) = arguments::parse();
    let filter = dot_env.and_then(|()| config::log_filter());
    let logging = filter.map(|filter| logs::start(cli.settings.log_format, &filter));
    let execute = || System::new().block_on(execute(&cli, &matches, &environment));
    match logging.map_err(Into::into).and_then(|()| execute()) {
        Ok(()) => {
            logs::finish(None);
            ExitCode::SUCCESS
        }
        Err(error) => {
            logs::finish(Some(&format!("payonce: {error}")));
            let unreadable = error.downcast_ref().is_some_and(ConfigError::is_unreadable)
                || error.downcast_ref().is_some_and(CommandError::is_of_usage);
            if unreadable { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// `environment` has the names of what was set outside of `.env`.
async fn execute(
    cli: &Cli,
    matches: &ArgMatches,
    environment: &HashSet<OsString>,
) -> Result<(), Box<dyn Error>> {
    let settings = &cli.settings;
    match &cli.command {
        // Above all where settings contradict each other, one wants to see them.
        Some(Command::Config { json }) => settings::show(settings, matches, environment, *json)?,
        Some(Command::Completions { shell }) => return Ok(completions(*shell)?),
        Some(Command::Storm(options)) => return storm::storm(options, settings).await,
        _ => {}
    }
    settings.validate()?;
    match &cli.command {
        None | Some(Command::Serve) => {
            let settings = Settings { metrics_token: config::metrics_token()?, ..settings.clone() };
            serve::serve(&settings, &config::database()?).await
        }
        Some(Command::Migrate { check: false, .. }) => {
            maintenance::migrate(&config::database()?).await
        }
        Some(Command::Migrate { check: true, json }) => {
            maintenance::check(&config::database()?, *json).await
        }
        Some(Command::Sweep { json }) => {
            maintenance::sweep(settings, &config::database()?, *json).await
        }
        Some(Command::Healthcheck) => serve::healthcheck(settings),
        Some(Command::Account(command)) => {
            Ok(accounts::account(command, &config::database()?).await?)
        }
        Some(Command::ApiKey(command)) => {
            Ok(accounts::api_key(command, settings, &config::database()?).await?)
        }
        Some(Command::Key(command)) => Ok(key::key(command, settings, &config::database()?).await?),
        Some(Command::Payment(command)) => {
            Ok(payment::payment(command, settings, &config::database()?).await?)
        }
        // Shown above; a script wants to know.
        Some(Command::Config { .. }) => match config::database() {
            Ok(_) | Err(ConfigError::NoDatabase) => Ok(()),
            Err(error) => Err(error.into()),
        },
        Some(Command::Completions { .. } | Command::Storm(_)) => Ok(()),
    }
}

fn completions(shell: Shell) -> std::io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "payonce", &mut script);
    print::text(String::from_utf8_lossy(&script).trim_end())
}

/// A connection to a database that has all migrations.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, CommandError> {
    database::refuse_shared_sessions(options).await?;
    let mut conn = database::connect(options).await?;
    database::migrated(&mut conn).await??;
    Ok(conn)
}
