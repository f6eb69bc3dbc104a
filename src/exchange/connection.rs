//! How long a client may hold a connection without asking for anything.
//!
//! actix closes a connection on which nothing arrives, and one whose first head is slow. It waits without
//! end for a later head once its first byte is there, for the rest of a chunked body that was refused, and
//! for a client that doesn't read its answers. Here each connection is closed on which no request was under
//! way for longer than all of that may honestly take, whatever the client does meanwhile.
//!
//! A request that is under way is never touched: its body and its answer have limits of their own. It ends
//! when its answer is made, since nothing says when that is read. So the limit is also for reading it.

use std::{any::Any, cell::Cell, net, os::fd::AsFd, rc::Rc, time::Duration};

use actix_web::{dev::Extensions, rt};
use log::debug;
use tokio::{
    net::TcpStream,
    task::AbortHandle,
    time::{Instant, sleep_until},
};

/// Since when no request is under way on a connection; nothing while one is. They come one after another.
type IdleSince = Rc<Cell<Option<Instant>>>;

/// A client's connection. Stands in its extensions, and goes with it.
pub(super) struct Connection {
    idle_since: IdleSince,
    watch: AbortHandle,
}

impl Connection {
    /// Says that a request is under way, until what this returns is dropped.
    pub(super) fn begin_request(&self) -> UnderWay {
        self.idle_since.set(None);
        UnderWay(Rc::clone(&self.idle_since))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // And with it the second descriptor, which keeps the socket open.
        self.watch.abort();
    }
}

/// A request that is under way.
pub(super) struct UnderWay(IdleSince);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.set(Some(Instant::now()));
    }
}

/// What a server does with each connection, so that it is closed when no request was under way on it for
/// `keep_alive` and `header_timeout` together.
///
/// Takes a second descriptor for each. Where there is none left, the connection is served unwatched.
pub fn watched(
    keep_alive: Duration,
    header_timeout: Duration,
) -> impl Fn(&dyn Any, &mut Extensions) + Send + Sync + 'static {
    let limit = keep_alive + header_timeout;
    move |stream, extensions| {
        let Some(stream) = stream.downcast_ref::<TcpStream>() else { return };
        bound_unread(stream, limit);
        let Ok(socket) = stream.as_fd().try_clone_to_owned() else { return };
        let idle_since = Rc::new(Cell::new(Some(Instant::now())));
        let watch = rt::spawn(watch(Rc::clone(&idle_since), socket.into(), limit)).abort_handle();
        extensions.insert(Connection { idle_since, watch });
    }
}

/// Lets the operating system keep what a client doesn't take no longer than this, after the connection was
/// closed too: else megabytes of each may stay for minutes.
#[cfg(target_os = "linux")]
fn bound_unread(stream: &TcpStream, limit: Duration) {
    let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    // Where that fails, the connection is closed in time all the same.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
}

/// Other systems have no such limit, or have it by another name.
#[cfg(not(target_os = "linux"))]
fn bound_unread(_: &TcpStream, _: Duration) {}

/// Wakes up when the limit may be over, and not with each request.
async fn watch(idle_since: IdleSince, socket: net::TcpStream, limit: Duration) {
    loop {
        let now = Instant::now();
        let end = idle_since.get().unwrap_or(now) + limit;
        if end <= now {
            break;
        }
        sleep_until(end).await;
    }
    if let Ok(peer) = socket.peer_addr() {
        debug!("{peer} asked for nothing in {limit:?}: its connection is closed");
    }
    // actix sees both of its directions end, and ends the connection.
    let _ = socket.shutdown(net::Shutdown::Both);
}
