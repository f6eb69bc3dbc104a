//! The stream between a client's socket and actix.
//!
//! It passes on [one request at a time](super::turn), and sets limits that actix lacks:
//!
//! - on the bytes of a chunked body with its framing;
//! - on the rest of a refused body: the connection closes after the response;
//! - on the time without a request, whatever the client sends and however slowly it reads.
//!
//! It does not limit a request in progress. The body and the response have their own limits.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, BytesMut};
use log::debug;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

use super::turn::Turn;

/// Limits of reading the rest of a refused body and of further requests, so that their sender gets the last response:
/// closing a connection with unread bytes discards what was sent on it.
const LINGER_TIME: Duration = Duration::from_secs(1);
const LINGER_BYTES: usize = 16 << 20;

/// A client's connection.
pub(super) struct Connection {
    stream: TcpStream,
    turn: Rc<Turn>,
    /// Bytes that arrived too early.
    held: BytesMut,
    /// Limit of the time without a request.
    limit: Duration,
    timer: Pin<Box<Sleep>>,
    is_over: bool,
    /// Bytes after the last request that are still read.
    linger: Option<usize>,
}

impl Connection {
    pub(super) fn new(stream: TcpStream, turn: Rc<Turn>, limit: Duration) -> Self {
        bound_unread(&stream, limit);
        let timer = Box::pin(sleep_until(Instant::now() + limit));
        Self { stream, turn, held: BytesMut::new(), limit, timer, is_over: false, linger: None }
    }

    pub(super) fn turn(&self) -> Rc<Turn> {
        Rc::clone(&self.turn)
    }

    /// Returns whether the connection was without a request for too long. The timer is set when it fires, not with each
    /// request.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        while !self.is_over && self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let end = self.turn.idle_since().unwrap_or(now) + self.limit;
            if end > now {
                self.timer.as_mut().reset(end);
            } else {
                self.is_over = true;
                debug!("closing a connection without a request for {:?}", self.limit);
            }
        }
        self.is_over
    }

    /// Reads and drops until the client has closed its side too, or a limit is reached.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut left = self.linger.unwrap_or_else(|| {
            self.timer.as_mut().reset(Instant::now() + LINGER_TIME);
            LINGER_BYTES
        });
        let mut bytes = [0; 8192];
        while left > 0 {
            self.linger = Some(left);
            let mut buf = ReadBuf::new(&mut bytes);
            match Pin::new(&mut self.stream).poll_read(cx, &mut buf) {
                Poll::Ready(Ok(())) if !buf.filled().is_empty() => {
                    left = left.saturating_sub(buf.filled().len());
                }
                Poll::Ready(_) => break,
                Poll::Pending => return self.timer.as_mut().poll(cx),
            }
        }
        Poll::Ready(())
    }
}

/// Limits how long the operating system keeps bytes that a client does not take, even after the connection was closed.
/// Otherwise megabytes per connection may stay for minutes.
#[cfg(target_os = "linux")]
fn bound_unread(stream: &TcpStream, limit: Duration) {
    let milliseconds = u32::try_from(limit.as_millis()).unwrap_or(u32::MAX);
    // If that fails, the connection is still closed in time.
    let _ = rustix::net::sockopt::set_tcp_user_timeout(stream, milliseconds);
}

/// Other systems lack this limit or name it differently.
#[cfg(not(target_os = "linux"))]
fn bound_unread(_: &TcpStream, _: Duration) {}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.turn.wait(cx.waker(), !this.held.is_empty());
        // To actix this is a client that has closed its side.
        if this.is_over(cx) || this.turn.is_closed() {
            return Poll::Ready(Ok(()));
        }
        if this.turn.passes_empty_line() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        match (this.turn.is_open(), this.held.is_empty()) {
            (true, true) => {
                let before = buf.filled().len();
                ready!(Pin::new(&mut this.stream).poll_read(cx, buf))?;
                let bytes = buf.filled().get(before..).unwrap_or_default();
                let (admitted, early) = bytes.split_at(this.turn.admit(bytes));
                let end = before + admitted.len();
                this.held.extend_from_slice(early);
                this.turn.wait(cx.waker(), !this.held.is_empty());
                buf.set_filled(end);
                Poll::Ready(Ok(()))
            }
            (true, false) => {
                let room = this.held.len().min(buf.remaining());
                let bytes = this.held.get(..room).unwrap_or_default();
                let admitted = this.turn.admit(bytes);
                buf.put_slice(bytes.get(..admitted).unwrap_or_default());
                this.held.advance(admitted);
                Poll::Ready(Ok(()))
            }
            (false, true) => {
                let mut bytes = [0; 1024];
                let mut early = ReadBuf::new(&mut bytes);
                ready!(Pin::new(&mut this.stream).poll_read(cx, &mut early))?;
                if early.filled().is_empty() {
                    return Poll::Ready(Ok(()));
                }
                this.held.extend_from_slice(early.filled());
                this.turn.wait(cx.waker(), true);
                Poll::Pending
            }
            (false, false) => Poll::Pending,
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.is_over(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut this.stream).poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(Pin::new(&mut this.stream).poll_shutdown(cx))?;
        // After the last request the client may still be sending others, whose bytes would reset the connection.
        if this.turn.is_closed() && !this.is_over {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::{Pin, pin},
        sync::{
            Arc,
            atomic::{AtomicU32, Ordering},
        },
        task::{Context, Poll, Wake, Waker},
        time::Duration,
    };

    use futures_util::FutureExt;
    use tokio::{
        io::{AsyncRead, AsyncWriteExt, ReadBuf},
        net::{TcpListener, TcpStream},
    };

    use super::{
        super::turn::{Length, Turn, UnderWay},
        Connection, LINGER_BYTES,
    };

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    #[derive(Default)]
    struct Wakes(AtomicU32);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client and the server's end of its connection.
    async fn connect() -> (TcpStream, Connection) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = TcpStream::connect(address).await.unwrap();
        let stream = listener.accept().await.unwrap().0;
        (client, Connection::new(stream, Turn::new(address, 100), Duration::from_mins(1)))
    }

    #[tokio::test]
    async fn a_request_that_arrived_together_with_the_one_before_wakes_its_reader() {
        let (mut client, mut connection) = connect().await;
        let turn = connection.turn();
        client.write_all(&[HEAD, HEAD].concat()).await.unwrap();
        connection.stream.readable().await.unwrap();

        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let mut bytes = [0; 1024];
        let mut buf = ReadBuf::new(&mut bytes);
        // actix may start the request without another look at what has arrived.
        let read = Pin::new(&mut connection).poll_read(&mut Context::from_waker(&waker), &mut buf);
        assert!(matches!(read, Poll::Ready(Ok(()))) && buf.filled() == HEAD);
        let under_way = UnderWay::begin(&turn, Length::Bytes(0));
        let before = wakes.0.load(Ordering::Relaxed);
        drop(under_way);
        assert_eq!(wakes.0.load(Ordering::Relaxed), before + 1);
    }

    #[tokio::test]
    async fn further_requests_are_read_after_the_last_one_until_the_client_closes() {
        let (mut client, mut connection) = connect().await;
        // A connection closes after a request whose head it did not find.
        drop(UnderWay::begin(&connection.turn(), Length::Bytes(0)));
        client.write_all(&HEAD.repeat(1000)).await.unwrap();
        let mut shutdown = pin!(connection.shutdown());
        assert!(shutdown.as_mut().now_or_never().is_none());
        drop(client);
        shutdown.await.unwrap();
        assert!(connection.linger.is_some_and(|left| left < LINGER_BYTES));
    }
}
