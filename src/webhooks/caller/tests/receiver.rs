//! Receivers of webhooks that behave well or badly.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// A listener that counts connections, and handles each by a function.
pub(super) struct Receiver {
    pub(super) address: SocketAddr,
    pub(super) connections: Arc<AtomicUsize>,
    pub(super) requests: mpsc::UnboundedReceiver<String>,
}

/// Handles one connection.
pub(super) trait Handler: Fn(Connection) -> BoxFuture<'static, ()> + Send + 'static {}

impl<T: Fn(Connection) -> BoxFuture<'static, ()> + Send + 'static> Handler for T {}

/// One connection to a [`Receiver`].
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    pub(super) requests: mpsc::UnboundedSender<String>,
}

impl Connection {
    /// Reads one request, and passes it to the test. Returns whether there was one.
    pub(super) async fn request(&mut self) -> bool {
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('}') {
            if !matches!(self.stream.read(&mut byte).await, Ok(1)) {
                return false;
            }
            text.push(char::from(byte[0]));
        }
        self.requests.send(text).is_ok()
    }

    /// Sends, and returns whether the caller still took it.
    pub(super) async fn send(&mut self, text: &str) -> bool {
        self.stream.write_all(text.as_bytes()).await.is_ok()
    }

    /// Waits until the caller has closed the connection.
    pub(super) async fn closed(&mut self) {
        while matches!(self.stream.read(&mut [0; 1024]).await, Ok(1..)) {}
    }
}

impl Receiver {
    pub(super) async fn start(handle: impl Handler) -> Self {
        Self::start_at("127.0.0.1:0", handle).await
    }

    pub(super) async fn start_at(address: &str, handle: impl Handler) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let (sender, requests) = mpsc::unbounded_channel();
        let (address, connections) =
            (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(handle(Connection { stream, requests: sender.clone() }));
            }
        });
        Self { address, connections, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/webhooks?token=se-cret", self.address)
    }

    pub(super) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Waits for the end of the first connection, of which its handler tells by a last message.
    pub(super) async fn ended(&mut self) {
        while self.requests.recv().await.expect("the end") != "end" {}
    }
}

/// Answers every request with 200 and a body.
pub(super) fn accept(mut connection: Connection) -> BoxFuture<'static, ()> {
    Box::pin(async move {
        while connection.request().await {
            connection.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
        }
    })
}

/// Sends a beginning, then the same piece without end, and tells when the connection was closed.
pub(super) fn endless(beginning: &'static str, piece: &'static str, pause: u64) -> impl Handler {
    move |mut connection: Connection| -> BoxFuture<'static, ()> {
        Box::pin(async move {
            connection.request().await;
            let mut open = connection.send(beginning).await;
            while open {
                tokio::time::sleep(Duration::from_millis(pause)).await;
                open = connection.send(piece).await;
            }
            connection.requests.send("end".to_owned()).unwrap();
        })
    }
}
