//! What a client may take of the server's memory, connections and time, and that others are served
//! meanwhile.

use std::time::{Duration, Instant};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

use crate::support::{
    PAYMENT, TestDatabase, TestServer,
    binary::{Serve, payonce, url},
    client::Wire,
    wait::pending_until_released,
};

const SECOND: Duration = Duration::from_secs(1);

/// How long a head or a body may take to arrive where no setting says otherwise.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

/// A payment's head, for a body of this length.
fn head(length: usize) -> String {
    format!(
        "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: slow\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn a_body_may_be_as_long_as_the_setting_says() {
    for limit in [4096, 1_048_576] {
        let server = TestServer::start_with(&["--body-limit", &limit.to_string()]).await;
        let padded = |length: usize| format!("{PAYMENT}{}", " ".repeat(length - PAYMENT.len()));
        assert_eq!(server.pay("k", &padded(limit)).await.status, 201);
        let refused = server.pay("other", &padded(limit + 1)).await;
        refused.assert_problem(413, "body-too-large");
        assert!(refused.member("detail").contains(&format!("{limit} bytes")), "{}", refused.body);
        assert_eq!(server.pay("other", PAYMENT).await.status, 201);
    }
}

#[tokio::test]
async fn a_body_that_is_too_large_by_its_head_is_refused_before_it_comes() {
    let server = TestServer::start().await;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut wire = server.wire().await;
        wire.send(head(999_999).replace("Host:", &format!("{expect}Host:"))).await;
        // actix asks for the body before anybody is asked.
        assert!(expect.is_empty() || wire.status().await == 100);
        let (head, problem) = wire.answer().await.unwrap();
        assert!(head.starts_with("http/1.1 413") && problem.contains("16384 bytes"), "{problem}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.pay("slow", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn who_sends_a_body_that_is_too_large_all_the_same_reads_that_it_is() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(head(999_999)).await;
    for _ in 0..3 {
        wire.send(" ".repeat(333_333)).await;
        sleep(SECOND / 50).await;
    }
    let (head, problem) = wire.answer().await.unwrap();
    assert!(head.starts_with("http/1.1 413") && problem.contains("body-too-large"), "{problem}");
    assert_eq!(wire.status().await, 0, "the connection is closed");
}

/// The beginning of a chunked body, and what then comes without end.
const ENDLESS: [(&str, &str, &str); 4] = [
    ("extension", "1;a=\"", "x"),
    ("extensions", "1", ";x"),
    ("trailers", "0\r\n", "X: x\r\n"),
    ("body", "ffffffff\r\n", "x"),
];

#[tokio::test]
async fn a_chunked_body_without_an_end_is_refused_and_its_connection_closed() {
    // Nobody waits for either.
    let server = TestServer::start_with(&["--body-timeout", "5m", "--keep-alive", "10m"]).await;
    for (name, begin, part) in ENDLESS {
        let stream = server.wire().await.stream;
        let (mut read, mut write) = stream.into_split();
        let sent = async {
            let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
            write.write_all(format!("{chunked}{begin}").as_bytes()).await.unwrap();
            let part = part.repeat(64 * 1024 / part.len());
            let mut count = 0;
            while write.write_all(part.as_bytes()).await.is_ok() {
                count += part.len();
            }
            count
        };
        let received = async {
            let mut received = vec![0; 10_000];
            let count = read.read(&mut received).await.unwrap();
            String::from_utf8_lossy(&received[..count]).into_owned()
        };
        let both = async { tokio::join!(sent, received) };
        let (count, received) = tokio::time::timeout(60 * SECOND, both).await.expect(name);
        assert!(received.starts_with("HTTP/1.1 413"), "{name}: {received}");
        assert!(received.contains("connection: close"), "{name}: {received}");
        // What the operating system holds comes on top.
        assert!(count < 64 << 20, "{name}: {count} bytes were read");
    }
    assert_eq!(server.pay("slow", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn a_body_may_come_in_many_small_chunks() {
    let server = TestServer::start().await;
    let chunked = head(0).replace("Content-Length: 0", "Transfer-Encoding: chunked");
    let body = format!("{}{PAYMENT}", " ".repeat(16_000));
    let chunks = body.as_bytes().chunks(3);
    let chunks: String = chunks
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()))
        .collect();
    let mut wire = server.wire().await;
    wire.send(format!("{chunked}{chunks}0\r\nX-Trailer: x\r\n\r\n")).await;
    assert_eq!(wire.status().await, 201);
    // The connection goes on.
    wire.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(wire.status().await, 200);
}

#[tokio::test]
async fn the_shortest_body_limit_holds_the_longest_payment() {
    let server = TestServer::start_with(&["--body-limit", "4096"]).await;
    // Each character as two escapes of six bytes.
    let user = "\\ud83d\\ude00".repeat(255);
    let longest =
        format!(r#"{{"user_id": "{user}", "amount": 9007199254740991, "currency": "USD"}}"#);
    assert_eq!(server.pay("k", &longest).await.status, 201);
}

#[tokio::test]
async fn a_slow_head_is_ended_while_others_are_served() {
    let server = TestServer::start_with(&["--header-timeout", "1s"]).await;
    let begun = Instant::now();
    let mut slow = server.wire().await;
    slow.send("POST /payment HTTP/1.1\r\nHost: local").await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    assert_eq!(slow.status().await, 408);
    assert_eq!(slow.status().await, 0, "the connection is closed");
    let took = begun.elapsed();
    assert!((SECOND / 2..DEFAULT_TIMEOUT).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_slow_body_is_ended_while_others_are_served() {
    let server = TestServer::start_with(&["--body-timeout", "1s"]).await;
    let begun = Instant::now();
    let mut slow = server.wire().await;
    slow.send(head(PAYMENT.len()) + &PAYMENT[..10]).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    let (head, problem) = slow.answer().await.unwrap();
    assert!(head.starts_with("http/1.1 408") && problem.contains("request-timeout"), "{problem}");
    let took = begun.elapsed();
    assert!((SECOND / 2..DEFAULT_TIMEOUT).contains(&took), "{took:?}");
    assert_eq!(server.pay("slow", PAYMENT).await.status, 201, "its key is still free");
}

#[tokio::test]
async fn a_head_of_more_than_96_lines_or_128_kib_is_refused() {
    let server = TestServer::start().await;
    for (lines, length, status) in [(90, 10, 200), (97, 10, 431), (64, 2100, 431)] {
        let mut wire = server.wire().await;
        let padding = format!("X-Padding: {}\r\n", "x".repeat(length)).repeat(lines);
        wire.send(format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{padding}\r\n")).await;
        assert_eq!(wire.status().await, status, "{lines} lines of {length}");
    }
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn more_connections_than_allowed_wait_until_others_end() {
    let server =
        TestServer::start_with(&["--connection-limit", "64", "--header-timeout", "5m"]).await;
    // Threads share the limit, each rounded up: so twice as many are more than all of them take.
    let mut silent = Vec::new();
    for _ in 0..128 {
        silent.push(server.wire().await);
    }
    let (answer, ()) =
        pending_until_released(server.pay("k", PAYMENT), sleep(SECOND / 2), async { drop(silent) })
            .await;
    assert_eq!(answer.status, 201);
    assert_eq!(server.pay("other", PAYMENT).await.status, 201);
}

/// A server that a shell started with these limits on open files.
fn serve_with(database: &TestDatabase, limits: &str) -> Serve {
    let program = payonce(&[]).get_program().to_string_lossy().into_owned();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("{limits}; exec {program} serve --port 0")])
        .env_clear()
        .current_dir(std::env::temp_dir())
        .env("DATABASE_URL", url(&database.options));
    Serve::spawn(&mut command)
}

#[tokio::test]
async fn it_takes_all_the_open_files_that_it_may_have() {
    let database = TestDatabase::create().await;
    let serve = serve_with(&database, "ulimit -Sn 50 && ulimit -Hn 700");
    let mut wires = Vec::new();
    for _ in 0..200 {
        wires.push(Wire::connect(serve.address).await);
    }
    for wire in &mut wires {
        wire.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(wire.status().await, 200);
    }
    let log = serve.log();
    assert!(log.contains("may open 700 files, and CONNECTION_LIMIT (10000) needs 10100"), "{log}");
}
