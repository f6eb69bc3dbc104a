//! The command line, with a file for each family of commands.
//!
//! Commands print tables and sentences for people. With `--json` they print the shape that the HTTP API has for the same
//! thing, if it has one. Errors go to stderr.

use std::{collections::HashSet, error::Error, ffi::OsString, process::ExitCode};

use actix_web::rt::System;
use clap::{ArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use sqlx::{PgConnection, postgres::PgConnectOptions};

use self::{
    accounts::AccountCommand, api_keys::ApiKeyCommand, error::CommandError, events::EventsCommand,
    key::KeyCommand, payment::PaymentCommand, webhook::WebhookCommand,
};
use crate::{
    config::{self, ConfigError, Settings},
    db, logs,
};

mod accounts;
mod api_keys;
mod arguments;
mod concern;
mod error;
mod events;
mod key;
mod maintenance;
mod payment;
mod print;
mod serve;
mod settings;
mod storm;
mod webhook;

/// The exit code of a usage or configuration error. clap has the same.
const USAGE: u8 = 2;

/// Creates payments exactly once.
///
/// Settings are read from flags, then the environment, then a file .env in the working directory.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Environment only:\n  DATABASE_URL   postgres://user:password@host:5432/database (required)\n  \
                  METRICS_TOKEN  token that readers of /metrics must send as Authorization: Bearer\n  \
                  WEBHOOK_SECRET list of keys that encrypt signing secrets, the newest first: openssl rand -base64 32\n  \
                  RUST_LOG       log filter [default: info]; info,payonce::request=debug logs each request\n\n\
                  Exit codes: 0 success, 1 failure (reason on stderr), 2 usage or configuration error,\n\
                  130 stopped by a second signal"
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    settings: Settings,
}

#[derive(Debug, Clone, Subcommand)]
enum Command {
    /// Run the server (the default command)
    Serve,
    /// Apply missing migrations
    Migrate {
        /// Apply none: list missing migrations, and exit with 1 if there are any
        #[arg(long)]
        check: bool,
        /// Print the list as JSON
        #[arg(long, requires = "check")]
        json: bool,
    },
    /// Delete expired responses, keys and events now
    Sweep {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Ask the server at HOST and PORT whether it is ready; exit with 0 if it is
    Healthcheck,
    /// Create and list accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
    /// Look up an idempotency key, or void it so that its request is never executed
    #[command(subcommand)]
    Key(KeyCommand),
    /// List and show payments
    #[command(subcommand)]
    Payment(PaymentCommand),
    /// Create and change webhook endpoints, and send events once more
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// Follow the feed of events
    #[command(subcommand)]
    Events(EventsCommand),
    /// Make many real payments, and check that each was made exactly once
    ///
    /// These are REAL PAYMENTS on the server at --url, and they stay there. Use a server for tests. User ids start with
    /// storm-, and amounts with 1.
    ///
    /// Some requests are sent several times at once, some are repeated later, some are aborted and repeated, and some keys
    /// are reused for another payment. Meanwhile, stop servers, databases and networks: the storm repeats every request that
    /// got no response. Finally it reads all payments back. It exits with 1 unless each payment exists exactly once.
    ///
    /// If the server requires an API key, set PAYONCE_API_KEY in the environment or in .env.
    Storm(storm::Options),
    /// Show the settings and their sources, without secrets
    Config {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Runs the program with its command line.
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
            let usage = error.is::<ConfigError>()
                || error.downcast_ref().is_some_and(CommandError::is_of_usage);
            if usage { ExitCode::from(USAGE) } else { ExitCode::FAILURE }
        }
    }
}

/// Executes the command. `environment` has the names of the variables that were set outside of `.env`.
async fn execute(
    cli: &Cli,
    matches: &ArgMatches,
    environment: &HashSet<OsString>,
) -> Result<(), Box<dyn Error>> {
    let settings = &cli.settings;
    let command = cli.command.as_ref().unwrap_or(&Command::Serve);
    match command {
        Command::Completions { shell } => return Ok(completions(*shell)?),
        // Before they are validated: that helps most when they contradict each other.
        Command::Config { json } => settings::show(settings, matches, environment, *json)?,
        _ => {}
    }
    settings.validate()?;
    let database = config::database;
    match command {
        Command::Serve => {
            let settings = Settings {
                metrics_token: config::metrics_token()?,
                webhook_secret: config::webhook_secret()?,
                ..settings.clone()
            };
            serve::serve(&settings, &database()?).await
        }
        Command::Migrate { check: false, .. } => maintenance::migrate(&database()?).await,
        Command::Migrate { check: true, json } => maintenance::check(&database()?, *json).await,
        Command::Sweep { json } => maintenance::sweep(settings, &database()?, *json).await,
        Command::Healthcheck => serve::healthcheck(settings),
        Command::Account(command) => Ok(accounts::account(command, &database()?).await?),
        Command::ApiKey(command) => Ok(api_keys::api_key(command, settings, &database()?).await?),
        Command::Key(command) => Ok(key::key(command, settings, &database()?).await?),
        Command::Payment(command) => Ok(payment::payment(command, settings, &database()?).await?),
        Command::Webhook(command) => {
            let settings =
                Settings { webhook_secret: config::webhook_secret()?, ..settings.clone() };
            Ok(webhook::webhook(command, &settings, &database()?).await?)
        }
        Command::Events(command) => Ok(events::events(command, settings, &database()?).await?),
        Command::Storm(options) => storm::storm(options, settings).await,
        // Printed above. A script wants to know whether the settings are valid.
        Command::Config { .. } => {
            match config::metrics_token().and(config::webhook_secret()).and(database()) {
                Ok(_) | Err(ConfigError::NoDatabase) => Ok(()),
                Err(error) => Err(error.into()),
            }
        }
        Command::Completions { .. } => Ok(()),
    }
}

fn completions(shell: Shell) -> std::io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut arguments::command(), "payonce", &mut script);
    print::text(String::from_utf8_lossy(&script).trim_end())
}

/// A connection to a database that has all migrations.
async fn connect(options: &PgConnectOptions) -> Result<PgConnection, CommandError> {
    db::refuse_shared_sessions(options).await?;
    let mut conn = db::connect(options).await?;
    db::migrated(&mut conn).await??;
    Ok(conn)
}
