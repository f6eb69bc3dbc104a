//! Serves HTTP/1.1 on payonce's own [connections](super::connection). `actix_web::HttpServer` accepts no such stream.

use std::{
    fmt,
    future::ready,
    io,
    net::{SocketAddr, TcpListener, ToSocketAddrs},
    time::Duration,
};

use actix_http::{HttpService, Request, Response, body::MessageBody, error::DispatchError};
use actix_service::{IntoServiceFactory, ServiceFactory, ServiceFactoryExt, map_config};
use actix_web::dev::{AppConfig, Server, fn_service};
use tokio::net::{TcpSocket, TcpStream};

use super::{connection::Connection, turn::Turn};

/// Connections waiting to be accepted: room for a storm of retries.
const BACKLOG: u32 = 4096;

/// Limit of a chunked body with its framing, in times of the body limit: enough for chunks of one byte.
const CHUNKED_PER_BODY: u64 = 8;

/// Limits of a server's connections.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// Number of connections. Further ones wait to be accepted.
    pub limit: usize,
    /// Threads that serve them.
    pub workers: usize,
    /// Time without a request.
    pub keep_alive: Duration,
    /// Time to receive a head.
    pub header_timeout: Duration,
    /// Bytes of a body.
    pub body_limit: u64,
    /// Time that stopping waits for requests.
    pub shutdown_timeout: Duration,
}

/// Listens on an address. Returns the addresses that it resolves to, and the server to run.
///
/// # Errors
/// When it can listen on none of them.
pub fn listen<F, I, S, B>(
    address: impl ToSocketAddrs,
    connections: Connections,
    app: F,
) -> io::Result<(Vec<SocketAddr>, Server)>
where
    F: Fn() -> I + Send + Clone + 'static,
    I: IntoServiceFactory<S, Request>,
    S: ServiceFactory<Request, Config = AppConfig> + 'static,
    S::Error: Into<actix_web::Error> + 'static,
    S::InitError: fmt::Debug,
    S::Response: Into<Response<B>> + 'static,
    B: MessageBody + 'static,
{
    let Connections { limit, workers, keep_alive, header_timeout, body_limit, shutdown_timeout } =
        connections;
    let idle_limit = keep_alive + header_timeout;
    let mut builder = Server::build()
        .workers(workers)
        .max_concurrent_connections(limit.div_ceil(workers))
        .shutdown_timeout(shutdown_timeout.as_secs())
        .disable_signals();
    let mut addresses = Vec::new();
    for listener in listeners(address)? {
        let address = listener.local_addr()?;
        addresses.push(address);
        let stopping = builder.graceful_shutdown_signal();
        let app = app.clone();
        builder = builder.listen("http", listener, move || {
            let stopping = stopping.clone();
            let app = app().into_factory().map_err(|error| error.into().error_response());
            // AppConfig has no other public constructor. Nothing reads its contents.
            let app = map_config(app, |()| AppConfig::default());
            let http = HttpService::build()
                // As in HttpServer: stopping waits for no idle connection.
                .graceful_shutdown_signal(move || {
                    let stopping = stopping.clone();
                    async move { stopping.notified().await }
                })
                .keep_alive(keep_alive)
                .client_request_timeout(header_timeout)
                .client_disconnect_timeout(Duration::from_secs(1))
                .local_addr(address)
                .on_connect_ext(|connection: &Connection, extensions| {
                    extensions.insert(connection.turn());
                });
            fn_service(move |stream: TcpStream| {
                let peer = stream.peer_addr().ok();
                let turn = Turn::new(address, body_limit.saturating_mul(CHUNKED_PER_BODY));
                let connection = Connection::new(stream, turn, idle_limit);
                ready(Ok::<_, DispatchError>((connection, peer)))
            })
            .and_then(http.h1(app))
        })?;
    }
    Ok((addresses, builder.run()))
}

fn listeners(address: impl ToSocketAddrs) -> io::Result<Vec<TcpListener>> {
    let mut listeners = Vec::new();
    let mut failed = None;
    for address in address.to_socket_addrs()? {
        match listener(address) {
            Ok(listener) => listeners.push(listener),
            Err(error) => failed = Some(error),
        }
    }
    if listeners.is_empty() {
        return Err(failed.unwrap_or_else(|| io::Error::other("no such address")));
    }
    Ok(listeners)
}

fn listener(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?.into_std()
}
