//! Slow or oversized request heads and bodies.

use std::time::{Duration, Instant};

use payonce_testing::{PAYMENT, TestServer};

use crate::requests::body::head;

const SECOND: Duration = Duration::from_secs(1);

/// The default of the header and body timeouts.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn a_slow_request_head_times_out_while_others_are_served() {
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
async fn a_slow_body_times_out_while_others_are_served() {
    let server = TestServer::start_with(&["--body-timeout", "1s"]).await;
    let begun = Instant::now();
    let mut slow = server.wire().await;
    slow.send(head(PAYMENT.len()) + &PAYMENT[..10]).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    let (head, problem) = slow.response().await.unwrap();
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
