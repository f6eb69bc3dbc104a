//! Requests for another protocol.

use payonce_testing::{PAYMENT, TestServer};

#[tokio::test]
async fn an_upgrade_request_is_answered_and_its_connection_closed() {
    let server = TestServer::start_with(&["--body-timeout", "1m"]).await;
    for (key, upgrade) in [
        ("a", "Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        ("b", "Upgrade: WebSocket\r\n"),
        (
            "c",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n",
        ),
    ] {
        let mut wire = server.wire().await;
        let head = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n{upgrade}");
        // Bytes after the body, in the same segment.
        let length = PAYMENT.len();
        wire.send(format!(
            "POST /payment HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{PAYMENT}GET /"
        ))
        .await;
        let (head, payment) = wire.response().await.unwrap();
        assert!(head.starts_with("http/1.1 201") && payment.contains("success"), "{head}{payment}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    for (request, status) in [
        ("GET /health/live HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n\r\n", 200),
        ("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
        ("CONNECT localhost:443 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n\r\n", 404),
    ] {
        let mut wire = server.wire().await;
        wire.send(request).await;
        assert_eq!(wire.status().await, status, "{request}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
}
