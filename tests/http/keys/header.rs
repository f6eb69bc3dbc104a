//! The `Idempotency-Key` header.

use payonce_testing::{PAYMENT, TestServer};

const JSON: &str = "Content-Type: application/json\r\n";

#[tokio::test]
async fn a_quoted_and_a_bare_key_are_the_same_key() {
    let server = TestServer::start().await;
    assert_eq!(server.pay("\"order-7\"", PAYMENT).await.status, 201);
    assert_eq!(server.pay("order-7", PAYMENT).await.status, 200);
    assert_eq!(server.pay(r#""a \"quoted\" key, with; all""#, PAYMENT).await.status, 201);
    assert_eq!(server.database.payments().await, 2);
}

#[tokio::test]
async fn keys_are_case_sensitive() {
    let server = TestServer::start().await;
    for key in ["order-7", "Order-7", "\"order-7 \"", "\" order-7\"", r#""order-7\\""#] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 201, "{key}");
    }
}

#[tokio::test]
async fn an_invalid_key_is_refused() {
    let server = TestServer::start().await;
    let too_long = "k".repeat(256);
    let too_long_quoted = format!("\"{too_long}\"");
    for key in [
        "",
        "\"\"",
        "a b",
        "a,b",
        "a;b",
        "a\"b",
        "a\tb",
        "\"a\", \"b\"",
        "\"a\" \"b\"",
        "\"a\";p=1",
        "\"a",
        "\"a\\b\"",
        "\"a\tb\"",
        "\"",
        &too_long,
        &too_long_quoted,
    ] {
        let response = server.pay(key, PAYMENT).await;
        response.assert_problem(400, "idempotency-key-invalid");
        let echo = response.headers.get("idempotency-key");
        assert_eq!(echo, None, "{key}: only a valid key is echoed");
    }
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn a_key_has_at_most_255_characters() {
    let server = TestServer::start().await;
    assert_eq!(server.pay(&"k".repeat(255), PAYMENT).await.status, 201);
    assert_eq!(server.pay(&format!("\"{}\"", "\\\\".repeat(255)), PAYMENT).await.status, 201);
}

#[tokio::test]
async fn a_key_is_ascii() {
    let server = TestServer::start().await;
    for key in [&b"caf\xc3\xa9"[..], b"\"caf\xc3\xa9\"", b"\xff"] {
        let mut wire = server.wire().await;
        let head = [JSON.as_bytes(), b"Idempotency-Key: ", key, b"\r\n"].concat();
        let length = PAYMENT.len();
        let rest = format!("Host: localhost\r\nContent-Length: {length}\r\n\r\n{PAYMENT}");
        wire.send([b"POST /payment HTTP/1.1\r\n", &head[..], rest.as_bytes()].concat()).await;
        let (head, body) = wire.response().await.unwrap();
        assert!(
            head.starts_with("http/1.1 400") && body.contains("idempotency-key-invalid"),
            "{head}{body}"
        );
    }
}

#[tokio::test]
async fn control_characters_in_a_header_are_refused() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send_payment(&format!("{JSON}Idempotency-Key: a\u{1}b\r\n"), PAYMENT).await;
    assert_eq!(wire.status().await, 400);
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn two_key_headers_are_refused_even_if_equal() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send_payment(&format!("{JSON}Idempotency-Key: a\r\nIdempotency-Key: a\r\n"), PAYMENT)
        .await;
    let (head, body) = wire.response().await.unwrap();
    assert!(
        head.starts_with("http/1.1 400") && body.contains("idempotency-key-invalid"),
        "{head}{body}"
    );
}

#[tokio::test]
async fn a_valid_key_is_returned_unchanged() {
    let server = TestServer::start().await;
    for (key, body, status) in [
        ("\"order-7\"", PAYMENT, 201),
        ("order-7", PAYMENT, 200),
        ("\"order-7\"", r#"{"user_id": "user_1", "amount": 101}"#, 422),
        ("order-8", "{", 400),
    ] {
        let response = server.pay(key, body).await;
        assert_eq!((response.status, response.header("idempotency-key")), (status, key));
    }
    let headers = [("content-type", "text/plain"), ("idempotency-key", "order-9")];
    let response = server.request(reqwest::Method::POST, "/payment", &headers, PAYMENT).await;
    assert_eq!((response.status, response.header("idempotency-key")), (415, "order-9"));
    let response = server.pay("order-9", &" ".repeat(20_000)).await;
    assert_eq!((response.status, response.header("idempotency-key")), (413, "order-9"));
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_unused() {
    let server = TestServer::start().await;
    for body in ["{", r#"{"user_id": "user_1", "amount": 0}"#] {
        assert_eq!(server.pay("order-7", body).await.status, 400);
    }
    let headers = [("content-type", "text/plain"), ("idempotency-key", "order-7")];
    assert_eq!(
        server.request(reqwest::Method::POST, "/payment", &headers, PAYMENT).await.status,
        415
    );
    assert_eq!(server.pay("order-7", &" ".repeat(20_000)).await.status, 413);
    assert_eq!(server.pay("order-7", PAYMENT).await.status, 201);
}
