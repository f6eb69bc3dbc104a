//! Several requests on one connection, sent before the responses to the earlier ones.

use std::time::Duration;

use payonce_testing::{PAYMENT, TestServer};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    for key in ["a", "b", "a"] {
        wire.send_payment(
            &format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n"),
            PAYMENT,
        )
        .await;
    }
    assert_eq!([wire.status().await, wire.status().await, wire.status().await], [201, 201, 200]);
}

#[tokio::test]
async fn empty_lines_between_two_requests_are_ignored_wherever_they_are_cut() {
    let server = TestServer::start().await;
    let head = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    for split in 0..=4 {
        let (first, second) = "\r\n\r\n".split_at(split);
        let mut wire = server.wire().await;
        let length = PAYMENT.len();
        wire.send(format!(
            "POST /payment HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{PAYMENT}{first}"
        ))
        .await;
        assert!(matches!(wire.status().await, 200 | 201));
        wire.send(second).await;
        wire.send_payment(head, PAYMENT).await;
        assert_eq!(wire.status().await, 200, "{first:?}");
    }
}

/// Only ends a hang.
const LIMIT: Duration = Duration::from_mins(1);

const LIVE: &str = "/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";

const LAST: &str = "GET /health/live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";

fn payment(key: &str, headers: &str, body: &str) -> String {
    format!(
        "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: {key}\r\n{headers}\r\n{body}"
    )
}

fn sized_payment(key: &str, body: &str) -> String {
    payment(key, &format!("Content-Length: {}\r\n", body.len()), body)
}

/// Sends these bytes in pieces of this size, and returns everything received until the connection ends.
async fn exchange(server: &TestServer, bytes: &str, at_a_time: usize) -> String {
    let stream = server.wire().await.stream;
    stream.set_nodelay(true).unwrap();
    let (mut read, mut write) = stream.into_split();
    let mut received = Vec::new();
    let sent = async {
        for part in bytes.as_bytes().chunks(at_a_time) {
            // The server may have closed the connection before the last one.
            if write.write_all(part).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    let all = async { tokio::join!(sent, read.read_to_end(&mut received)) };
    // A client that goes on sending to a closed connection hears a reset behind the responses.
    let ((), _) = timeout(LIMIT, all).await.expect("the end of the connection");
    String::from_utf8(received).unwrap()
}

/// Splits the received bytes into the responses to requests with these methods.
#[track_caller]
fn responses<'a>(mut received: &'a str, methods: &[&str]) -> Vec<(&'a str, &'a str)> {
    let mut responses = Vec::new();
    for method in methods {
        let (head, rest) = received.split_once("\r\n\r\n").expect("a whole head");
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let length = length.map_or(0, |length| length.parse().unwrap());
        let length = if *method == "HEAD" { 0 } else { length };
        assert!(rest.len() >= length, "{head}\n{rest}");
        let (body, rest) = rest.split_at(length);
        responses.push((head, body));
        received = rest;
    }
    assert_eq!(received, "", "{responses:?}");
    responses
}

#[tokio::test]
async fn each_response_fits_its_own_request() {
    let server = TestServer::start().await;
    let chunked = |key: &str, body: &str| {
        let body = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        payment(key, "Transfer-Encoding: chunked\r\n", &body)
    };
    let spaced = PAYMENT.replace('{', "{\r\n\r\n \n\n");
    for (name, requests) in [
        ("ph", vec![("POST", sized_payment("a", PAYMENT)), ("HEAD", format!("HEAD {LIVE}"))]),
        ("hp", vec![("HEAD", format!("HEAD {LIVE}")), ("POST", sized_payment("b", PAYMENT))]),
        ("lines", vec![("POST", sized_payment("c", &spaced)), ("HEAD", format!("HEAD {LIVE}"))]),
        ("chunks", vec![("POST", chunked("d", &spaced)), ("HEAD", format!("HEAD {LIVE}"))]),
        ("empty", vec![("GET", format!("GET {LIVE}\r\n\r\n")), ("HEAD", format!("HEAD {LIVE}"))]),
        ("bare", vec![("GET", format!("GET {LIVE}").replace('\r', ""))]),
        ("many", vec![("GET", format!("GET {LIVE}")); 40]),
        ("keys", (0..40).map(|n| ("POST", sized_payment(&n.to_string(), PAYMENT))).collect()),
    ] {
        for at_a_time in [usize::MAX, 1, 7] {
            let bytes: String = requests.iter().map(|(_, bytes)| bytes.as_str()).collect();
            let key = format!("Idempotency-Key: {name}-{at_a_time}-");
            let bytes = bytes.replace("Idempotency-Key: ", &key);
            let methods: Vec<&str> = requests.iter().map(|(method, _)| *method).collect();
            let received = exchange(&server, &(bytes + LAST), at_a_time).await;
            let responses = responses(&received, &[&methods[..], &["GET"]].concat());
            for (method, (head, body)) in methods.iter().zip(&responses) {
                let status = if *method == "POST" { "201" } else { "200" };
                assert!(head.starts_with(&format!("HTTP/1.1 {status}")), "{name}: {head}");
                assert!(!head.contains("connection: close"), "{name}: {head}");
                assert_eq!(body.contains("transaction_id"), *method == "POST", "{name}: {body}");
            }
        }
    }
}

#[tokio::test]
async fn a_response_has_the_version_and_connection_of_its_own_request() {
    let server = TestServer::start().await;
    let old = "GET /health/live HTTP/1.0\r\nHost: localhost\r\n";
    let requests = format!("{}{old}\r\n", sized_payment("a", PAYMENT));
    let received = exchange(&server, &requests, usize::MAX).await;
    let both = responses(&received, &["POST", "GET"]);
    assert!(both[0].0.starts_with("HTTP/1.1 201") && !both[0].0.contains("connection"), "{both:?}");
    assert!(both[1].0.starts_with("HTTP/1.0 200"), "{both:?}");

    let kept = format!("{old}Connection: keep-alive\r\n\r\n{LAST}");
    let received = exchange(&server, &kept, usize::MAX).await;
    let both = responses(&received, &["GET", "GET"]);
    assert!(both[0].0.starts_with("HTTP/1.0 200"), "{both:?}");
    assert!(both[0].0.contains("connection: keep-alive"), "{both:?}");
    assert!(both[1].0.starts_with("HTTP/1.1 200"), "{both:?}");
    assert!(both[1].0.contains("connection: close"), "{both:?}");
}

#[tokio::test]
async fn nothing_is_executed_behind_a_request_that_closes_the_connection() {
    let large = "x".repeat(20_000);
    for (first, status) in [
        (
            payment(
                "a",
                &format!("Connection: close\r\nContent-Length: {}\r\n", PAYMENT.len()),
                PAYMENT,
            ),
            "201",
        ),
        (sized_payment("a", PAYMENT).replace("HTTP/1.1", "HTTP/1.0"), "201"),
        (sized_payment("a", &large), "413"),
        (
            payment(
                "a",
                "Transfer-Encoding: chunked\r\n",
                &format!("4e20\r\n{large}\r\n0\r\n\r\n"),
            ),
            "413",
        ),
        (payment("a", "Transfer-Encoding: chunked\r\n", "x\r\n"), "400"),
    ] {
        for at_a_time in [usize::MAX, 1000] {
            // Anonymous requests need HTTP/1.1.
            let server = TestServer::start_with(&["--anonymous-access", "true"]).await;
            let bytes = format!("{first}{}{LAST}", sized_payment("b", PAYMENT));
            let received = exchange(&server, &bytes, at_a_time).await;
            let responses = responses(&received, &["POST"]);
            assert_eq!(responses[0].0.split(' ').nth(1), Some(status), "{first:.200}: {received}");
            let payments = i64::from(status == "201");
            assert_eq!(server.database.payments().await, payments, "{first:.200}");
        }
    }
}
