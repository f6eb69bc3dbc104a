//! How long a client may keep a connection, and who is never disconnected.

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use payonce_testing::{TestDatabase, TestServer, binary::Serve, client::Wire, wait::until};
use sqlx::raw_sql;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::sleep,
};

const SHORT: [&str; 4] = ["--keep-alive", "2s", "--header-timeout", "500ms"];

/// The sum of both limits.
const LIMIT: Duration = Duration::from_millis(2500);

const LIVE: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Its response has 140 KB.
const LARGE: &str = "GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Sends single bytes, and asserts that the server closes the connection, but not before the limit.
async fn assert_cut_off(begun: Instant, stream: &mut TcpStream) {
    until("the connection is cut off", async || stream.write_all(b"x").await.is_err()).await;
    assert!(begun.elapsed() > LIMIT * 9 / 10, "{:?}", begun.elapsed());
}

/// A connection with a small receive buffer.
async fn narrow(address: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.connect(address).await.unwrap()
}

/// The address in the notation of /proc/net/tcp.
#[cfg(target_os = "linux")]
fn hexadecimal(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("{address}") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

#[tokio::test]
async fn a_client_that_sends_its_next_head_too_slowly_is_disconnected() {
    let server = TestServer::start_with(&SHORT).await;
    let mut wire = server.wire().await;
    wire.send(LIVE).await;
    assert_eq!(wire.status().await, 200);
    let begun = Instant::now();
    wire.send("GET /health/live HTTP/1.1\r\nX-Slow: ").await;
    assert_cut_off(begun, &mut wire.stream).await;
}

#[tokio::test]
async fn a_client_that_goes_on_with_a_refused_body_is_disconnected() {
    let flags = ["--keep-alive", "10m", "--body-timeout", "500ms"];
    let server = TestServer::start_with(&flags).await;
    let mut wire = server.wire().await;
    wire.send("POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
        .await;
    wire.send("Idempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nx").await;
    assert_eq!(wire.status().await, 408);
    until("it is cut off", async || wire.stream.write_all(b"x").await.is_err()).await;
}

#[tokio::test]
async fn a_client_that_reads_no_response_is_disconnected() {
    let server = TestServer::start_with(&SHORT).await;
    let mut stream = narrow(server.address).await;
    let begun = Instant::now();
    // More than the operating system buffers.
    stream.write_all(LARGE.repeat(200).as_bytes()).await.unwrap();
    assert_cut_off(begun, &mut stream).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn unread_responses_are_discarded_with_their_connection() {
    let server = TestServer::start_with(&SHORT).await;
    let mut stream = narrow(server.address).await;
    // Both ends: other connections may have one of these ports, too.
    let ends = [server.address, stream.local_addr().unwrap()].map(hexadecimal);
    // Whether the server's side of this connection exists, in any state.
    let kept = || {
        let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
        sockets.lines().any(|line| line.split_whitespace().skip(1).take(2).eq(&ends))
    };
    assert!(kept());
    let begun = Instant::now();
    stream.write_all(LARGE.repeat(200).as_bytes()).await.unwrap();
    until("nothing is kept", async || !kept()).await;
    assert!(begun.elapsed() > LIMIT * 9 / 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_every_response() {
    let server = TestServer::start_with(&SHORT).await;
    let mut stream = narrow(server.address).await;
    let length = server.get("/openapi.json").await.body.len();
    stream.write_all(LARGE.repeat(60).as_bytes()).await.unwrap();
    let (begun, mut read, mut chunk) = (Instant::now(), 0, vec![0; 16 * 1024]);
    while read < 60 * length {
        let count = stream.read(&mut chunk).await.unwrap();
        assert!(count > 0, "cut off after {:?} and {read} bytes", begun.elapsed());
        read += count;
        sleep(Duration::from_millis(8)).await;
    }
    assert!(begun.elapsed() > LIMIT, "too fast to tell: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_client_that_pauses_for_less_than_keep_alive_stays_connected() {
    // The pauses below are much shorter than either limit, and all of them longer than both.
    let flags = ["--keep-alive", "2s", "--header-timeout", "2s"];
    let server = TestServer::start_with(&flags).await;
    let mut wire = server.wire().await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(4500) {
        let (first, second) = LIVE.split_at(20);
        wire.send(first).await;
        sleep(Duration::from_millis(200)).await;
        wire.send(second).await;
        assert_eq!(wire.status().await, 200, "after {:?}", begun.elapsed());
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_request_in_progress_keeps_its_connection_open() {
    let server =
        TestServer::start_with(&[&SHORT[..], &["--request-deadline", "20s"]].concat()).await;
    let mut holder = server.database.lock_payments().await;
    let mut wire = server.wire().await;
    wire.send("GET /payment HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    sleep(2 * LIMIT).await;
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    assert_eq!(wire.status().await, 200);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_closed_connection_leaves_no_open_file() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    let open = || fs::read_dir(format!("/proc/{}/fd", serve.child.id())).unwrap().count();
    let before = open();
    let mut wires = Vec::new();
    for _ in 0..50 {
        let mut wire = Wire::connect(serve.address).await;
        wire.send(LIVE).await;
        assert_eq!(wire.status().await, 200);
        wires.push(wire);
    }
    // Just after its start the server may have had one or two others open.
    assert!(open() >= before + 45, "{} of {before}", open());
    drop(wires);
    until("the files are closed", async || open() <= before + 5).await;
}

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn an_idle_connection_is_closed_after_keep_alive() {
    let database = TestDatabase::create().await;
    // More than the framework's default, and less than payonce's.
    let serve = Serve::start(&database.options, &[("KEEP_ALIVE", "6s")]);
    let mut idle = Wire::connect(serve.address).await;
    let begun = Instant::now();
    idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.status().await, 200);
    assert_eq!(idle.response().await, None);
    assert!((11 * SECOND / 2..75 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}
