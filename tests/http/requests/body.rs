//! Request bodies: length, chunks and content type.

use std::time::Duration;

use payonce_testing::{PAYMENT, TestServer};
use reqwest::Method;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::sleep,
};

const SECOND: Duration = Duration::from_secs(1);

/// The head of a payment with a body of this length.
pub(crate) fn head(length: usize) -> String {
    format!(
        "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Idempotency-Key: slow\r\nContent-Length: {length}\r\n\r\n"
    )
}

#[tokio::test]
async fn the_body_limit_is_a_setting() {
    for limit in [4096, 1_048_576] {
        let server = TestServer::start_with(&["--body-limit", &limit.to_string()]).await;
        let padded = |length: usize| format!("{PAYMENT}{}", " ".repeat(length - PAYMENT.len()));
        assert_eq!(server.pay("k", &padded(limit)).await.status, 201);
        let refused = server.pay("other", &padded(limit + 1)).await;
        refused.assert_problem(413, "body-too-large");
        assert!(refused.field("detail").contains(&format!("{limit} bytes")), "{}", refused.body);
        assert_eq!(server.pay("other", PAYMENT).await.status, 201);
    }
}

#[tokio::test]
async fn a_body_with_too_large_a_content_length_is_refused_before_it_is_sent() {
    let server = TestServer::start().await;
    for expect in ["", "Expect: 100-continue\r\n"] {
        let mut wire = server.wire().await;
        wire.send(head(999_999).replace("Host:", &format!("{expect}Host:"))).await;
        // The framework asks for the body before it calls the handler.
        assert!(expect.is_empty() || wire.status().await == 100);
        let (head, problem) = wire.response().await.unwrap();
        assert!(head.starts_with("http/1.1 413") && problem.contains("16384 bytes"), "{problem}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.pay("slow", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn a_client_that_sends_too_large_a_body_can_read_the_refusal() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(head(999_999)).await;
    for _ in 0..3 {
        wire.send(" ".repeat(333_333)).await;
        sleep(SECOND / 50).await;
    }
    let (head, problem) = wire.response().await.unwrap();
    assert!(head.starts_with("http/1.1 413") && problem.contains("body-too-large"), "{problem}");
    assert_eq!(wire.status().await, 0, "the connection is closed");
}

/// The start of a chunked body, and what follows it endlessly.
const ENDLESS: [(&str, &str, &str); 4] = [
    ("extension", "1;a=\"", "x"),
    ("extensions", "1", ";x"),
    ("trailers", "0\r\n", "X: x\r\n"),
    ("body", "ffffffff\r\n", "x"),
];

#[tokio::test]
async fn an_endless_chunked_body_is_refused_and_its_connection_closed() {
    // No chunk is ever complete.
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
        // Plus what the operating system buffers.
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
    let chunks: Vec<String> = chunks
        .map(|chunk| format!("{:x}\r\n{}\r\n", chunk.len(), std::str::from_utf8(chunk).unwrap()))
        .collect();
    let mut wire = server.wire().await;
    wire.send(format!("{chunked}{}0\r\nX-Trailer: x\r\n\r\n", chunks.concat())).await;
    assert_eq!(wire.status().await, 201);
    // The connection stays open.
    wire.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(wire.status().await, 200);
}

#[tokio::test]
async fn the_smallest_body_limit_admits_the_longest_payment() {
    let server = TestServer::start_with(&["--body-limit", "4096"]).await;
    // Each character is written as two escapes of six bytes.
    let user = "\\ud83d\\ude00".repeat(255);
    let longest =
        format!(r#"{{"user_id": "{user}", "amount": 9007199254740991, "currency": "USD"}}"#);
    assert_eq!(server.pay("k", &longest).await.status, 201);
}

/// The head of a payment with a chunked body.
const CHUNKED: &str = "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                       Idempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn a_body_has_at_most_16_kib() {
    let server = TestServer::start().await;
    let padded = |size: usize| format!("{PAYMENT}{}", " ".repeat(size - PAYMENT.len()));
    assert_eq!(server.pay("k", &padded(16 * 1024)).await.status, 201);
    server.pay("other", &padded(16 * 1024 + 1)).await.assert_problem(413, "body-too-large");
    server.pay("other", &padded(1024 * 1024)).await.assert_problem(413, "body-too-large");
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_body_may_come_in_chunks() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(CHUNKED).await;
    for part in PAYMENT.as_bytes().chunks(5) {
        wire.send([format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).await;
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    wire.send("0\r\n\r\n").await;
    assert_eq!(wire.status().await, 201);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn a_chunked_body_has_at_most_16_kib() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(CHUNKED).await;
    for _ in 0..5 {
        wire.send(format!("1000\r\n{}\r\n", " ".repeat(0x1000))).await;
    }
    assert_eq!(wire.status().await, 413);
}

#[tokio::test]
async fn an_invalid_chunk_is_refused_and_its_connection_closed() {
    let server = TestServer::start().await;
    for chunks in ["zz\r\n", "5\r\n{\"useXX", "1\r\n{\r\n;\r\n", "fffffffffffffffff\r\n"] {
        let mut wire = server.wire().await;
        wire.send(CHUNKED).await;
        wire.send(chunks).await;
        let (head, problem) = wire.response().await.unwrap();
        assert!(head.starts_with("http/1.1 400") && problem.contains("malformed-json"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(problem.contains("chunks") && problem.contains("corrected_request"), "{problem}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.pay("k", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn a_request_whose_body_was_cut_off_may_be_repeated() {
    let server = TestServer::start().await;
    let whole = format!("{CHUNKED}{:x}\r\n{PAYMENT}\r\n", PAYMENT.len());
    let length = CHUNKED.replace("Transfer-Encoding: chunked", "Content-Length: 36");
    for request in [whole, CHUNKED.to_owned(), format!("{CHUNKED}2"), length + &PAYMENT[..10]] {
        let mut wire = server.wire().await;
        wire.send(&request).await;
        wire.stream.shutdown().await.unwrap();
        let (head, problem) = wire.response().await.unwrap();
        assert!(head.starts_with("http/1.1 408") && problem.contains("same_request"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.database.payments().await, 0);
    assert_eq!(server.pay("k", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn a_body_of_another_content_type_is_refused() {
    let server = TestServer::start().await;
    let send = async |headers: &[(&str, &str)]| {
        let headers = [headers, &[("idempotency-key", "k")]].concat();
        server.request(Method::POST, "/payment", &headers, PAYMENT).await
    };
    for content_type in [
        "text/plain",
        "application/xml",
        "application/x-www-form-urlencoded",
        "application/json; charset=latin1",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json; charset=utf-8; charset=utf-8",
        "application/json; version=1",
        "application/problem+json",
        "json",
        "",
    ] {
        send(&[("content-type", content_type)]).await.assert_problem(415, "unsupported-media-type");
    }
    send(&[]).await.assert_problem(415, "unsupported-media-type");
    for second in ["text/plain", "application/json"] {
        let headers = [("content-type", "application/json"), ("content-type", second)];
        send(&headers).await.assert_problem(415, "unsupported-media-type");
    }
    for encoding in ["gzip", "identity"] {
        let headers = [("content-type", "application/json"), ("content-encoding", encoding)];
        send(&headers).await.assert_problem(415, "unsupported-media-type");
    }
    for content_type in [
        "application/json",
        "application/json;charset=UTF-8",
        "Application/JSON; charset=\"utf-8\"",
    ] {
        assert!(
            [200, 201].contains(&send(&[("content-type", content_type)]).await.status),
            "{content_type}"
        );
    }
}
