//! `payonce serve` and `payonce healthcheck`.

use std::{
    error::Error,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use log::{info, warn};
use sqlx::postgres::PgConnectOptions;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    accounts::AnonymousAccess,
    config::{self, Settings, Ttl},
    logs,
    server::{self, Server},
};

/// Time for `healthcheck` to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs a server until a signal stops it.
pub(super) async fn serve(
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), Box<dyn Error>> {
    // Before the first client is served: from then on a signal must not end the process.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    server::raise_file_limit(settings);
    let mut server = tokio::select! {
        server = Server::start(settings, options) => server?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    announce(settings, options, &server);

    let signal = tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
        // The supervisor of this process starts another one.
        ended = server.ended() => {
            let why = ended.err().map_or_else(String::new, |error| format!(": {error}"));
            return Err(format!("the HTTP server ended{why}").into());
        }
    };
    if settings.shutdown_delay.is_zero() {
        info!("{signal}: finishing accepted requests; a second signal stops at once");
    } else {
        let delay = Ttl(Some(settings.shutdown_delay));
        info!(
            "{signal}: serving for another {delay} while not ready, then finishing accepted requests; a second signal stops at once"
        );
    }
    tokio::select! {
        () = server.stop() => info!("stopped"),
        _ = terminate.recv() => exit_at_once(),
        _ = interrupt.recv() => exit_at_once(),
    }
    Ok(())
}

fn exit_at_once() -> ! {
    logs::finish(None);
    std::process::exit(130)
}

/// Logs the settings that matter, without secrets, and then where the server listens.
fn announce(settings: &Settings, options: &PgConnectOptions, server: &Server) {
    info!("database {}", config::shown(options));
    info!(
        "keys are kept {}, responses for {}; request deadline {}, in-flight wait {}",
        match settings.idempotency_key_ttl {
            Ttl(None) => "permanently".to_owned(),
            ttl => format!("for {ttl}"),
        },
        settings.idempotency_response_ttl,
        Ttl(Some(settings.request_deadline)),
        Ttl(Some(settings.in_flight_wait)),
    );
    info!(
        "committers {}, payments per transaction {}, queue {} ({} per account), read connections {}, \
         default currency {}",
        settings.committers,
        settings.max_batch,
        settings.queue_limit,
        settings.account_queue_limit(),
        settings.read_connections,
        settings.default_currency
    );
    if settings.anonymous_access == AnonymousAccess::True {
        warn!(
            "ANONYMOUS_ACCESS is true: until the first API key is created, everybody who reaches this server \
             can pay"
        );
    }
    if settings.allow_asynchronous_commit {
        warn!(
            "ALLOW_ASYNCHRONOUS_COMMIT is on: a crash of PostgreSQL may lose payments that were acknowledged"
        );
    }
    let metrics = server.metrics_addresses();
    if !metrics.is_empty() {
        info!("/metrics is served at {}", urls(metrics));
    } else if settings.metrics_token.is_none() && server.had_api_keys() {
        info!(
            "/metrics is not served: there are API keys, and METRICS_ADDRESS and METRICS_TOKEN are not set"
        );
    }
    info!("payonce {} listens on {}", env!("CARGO_PKG_VERSION"), urls(server.addresses()));
    // As a browser on this machine reaches it.
    let port = server.addresses().first().map_or(settings.port, SocketAddr::port);
    info!("to try it, open http://{}:{port}/docs", settings.reachable_host());
}

fn urls(addresses: &[SocketAddr]) -> String {
    let urls: Vec<String> = addresses.iter().map(|address| format!("http://{address}")).collect();
    urls.join(", ")
}

/// Asks the server at HOST and PORT whether it is ready. Without a database, its response takes up to half of
/// REQUEST_DEADLINE.
pub(super) fn healthcheck(settings: &Settings) -> Result<(), Box<dyn Error>> {
    let host = settings.reachable_host();
    let address = (host.trim_matches(['[', ']']), settings.port)
        .to_socket_addrs()?
        .next()
        .ok_or("HOST has no address")?;
    let mut server = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)
        .map_err(|error| format!("can't reach {address}: {error}"))?;
    let limit = settings.request_deadline / 2 + Duration::from_secs(1);
    server.set_read_timeout(Some(limit))?;
    server.set_write_timeout(Some(limit))?;
    write!(server, "GET /health/ready HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut response = String::new();
    server.read_to_string(&mut response).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("no response from {address} within {}", Ttl(Some(limit)))
        }
        _ => format!("no response from {address}: {error}"),
    })?;
    let status = response.lines().next().unwrap_or("no response");
    if status.starts_with("HTTP/1.1 200") {
        Ok(())
    } else {
        Err(format!("not ready: {status}").into())
    }
}
