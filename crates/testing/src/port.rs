//! Ports for processes that a test restarts.

use std::{
    net::TcpListener,
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// A port that nobody listens on, and that no other part of this process gets.
///
/// The system gives none of these ports to others, so that nobody takes it while its process is down. Clients that still
/// send to a killed server would otherwise reach another test's server, or wait for a proxy of PostgreSQL connections.
pub(crate) fn free_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(fastrand::u16(..)));
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    let ports = std::iter::repeat_with(|| 20_000 + NEXT.fetch_add(1, Ordering::Relaxed) % 10_000);
    ports.take(1000).find(is_free).expect("a free port")
}
