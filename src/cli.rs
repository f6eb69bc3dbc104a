//! The command line.

use std::{
    error::Error,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    process::ExitCode,
    time::Duration,
};

use actix_web::rt::System;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use log::info;
use sqlx::postgres::PgConnectOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    accounts::cli::{self as accounts, AccountCommand, ApiKeyCommand},
    config::{self, Settings},
    database,
    idempotency::{Sweeper, loggable},
    server::{self, Server},
};

/// How long `healthcheck` waits for the server.
const HEALTHCHECK_TIMEOUT: Duration = Duration::from_secs(3);

/// Takes payments exactly once.
///
/// Settings are read from flags, then the environment, then a file .env.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "Environment only:\n  DATABASE_URL  postgres://user:password@host:5432/database (required)\n  \
                  METRICS_TOKEN what readers of /metrics have to show as Authorization: Bearer\n  \
                  RUST_LOG      what is logged [default: info]; a line for each request: info,payonce::request=debug\n\n\
                  Exit codes: 0 done; 1 it failed, and stderr says why; 2 a flag or setting can't be read;\n\
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
    Migrate,
    /// Delete what has expired, now
    Sweep,
    /// Ask the server at HOST and PORT whether it is ready; exit 0 if it is
    Healthcheck,
    /// Create and list accounts
    #[command(subcommand)]
    Account(AccountCommand),
    /// Create, list and revoke API keys
    #[command(subcommand)]
    ApiKey(ApiKeyCommand),
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    // Before anything reads the environment, and before there is a second thread.
    let dot_env = config::read_dot_env();
    let cli = parse();
    let filter = std::env::var("RUST_LOG").ok().filter(|filter| !filter.is_empty());
    env_logger::Builder::from_env(env_logger::Env::default())
        .parse_filters(filter.as_deref().unwrap_or("info"))
        .init();
    let done = dot_env.map_err(Into::into).and_then(|()| System::new().block_on(execute(&cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody is left to be told when stderr is closed.
            let _ = writeln!(io::stderr(), "payonce: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Reads flags and environment; a variable that is set to nothing counts as not set.
fn parse() -> Cli {
    let command = Cli::command().mut_args(|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(None) } else { arg }
    });
    Cli::from_arg_matches(&command.get_matches()).unwrap_or_else(|error| error.exit())
}

async fn execute(cli: &Cli) -> Result<(), Box<dyn Error>> {
    let settings = &cli.settings;
    settings.validate()?;
    match &cli.command {
        None | Some(Command::Serve) => {
            let settings = Settings { metrics_token: config::metrics_token(), ..settings.clone() };
            serve(&settings, &config::database()?).await
        }
        Some(Command::Migrate) => Ok(database::migrate(&config::database()?).await?),
        Some(Command::Sweep) => sweep(settings, &config::database()?).await,
        Some(Command::Healthcheck) => healthcheck(settings),
        Some(Command::Account(command)) => {
            Ok(accounts::account(command, &config::database()?).await?)
        }
        Some(Command::ApiKey(command)) => {
            Ok(accounts::api_key(command, &config::database()?).await?)
        }
    }
}

async fn serve(settings: &Settings, options: &PgConnectOptions) -> Result<(), Box<dyn Error>> {
    // Before the first client can be served: from then on a signal must not kill.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = tokio::select! {
        server = Server::start(settings, options) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    server::announce(settings, options, &server);

    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: what was accepted is finished, and no more; again to stop at once"),
        _ = interrupt.recv() => info!("SIGINT: what was accepted is finished, and no more; again to stop at once"),
    }
    tokio::select! {
        () = server.stop() => info!("stopped"),
        _ = terminate.recv() => std::process::exit(130),
        _ = interrupt.recv() => std::process::exit(130),
    }
    Ok(())
}

async fn sweep(settings: &Settings, options: &PgConnectOptions) -> Result<(), Box<dyn Error>> {
    let mut sweeper =
        Sweeper::new(settings.idempotency_response_ttl.0, settings.idempotency_key_ttl.0);
    let pass = server::sweep_pass(&mut sweeper, options, Duration::ZERO).await;
    let (responses, keys) = pass.map_err(|error| loggable(&error))?;
    writeln!(io::stdout(), "{responses} expired responses and {keys} expired keys deleted")?;
    Ok(())
}

fn healthcheck(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let host = match settings.host.as_str() {
        "0.0.0.0" => "127.0.0.1",
        "::" | "[::]" => "::1",
        host => host.trim_matches(['[', ']']),
    };
    let address = (host, settings.port).to_socket_addrs()?.next().ok_or("HOST has no address")?;
    let mut server = TcpStream::connect_timeout(&address, HEALTHCHECK_TIMEOUT)
        .map_err(|error| format!("can't reach {address}: {error}"))?;
    server.set_read_timeout(Some(HEALTHCHECK_TIMEOUT))?;
    server.set_write_timeout(Some(HEALTHCHECK_TIMEOUT))?;
    write!(server, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    server.read_to_string(&mut answer)?;
    let status = answer.lines().next().unwrap_or("no answer");
    if status.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(format!("not ready: {status}").into())
    }
}
