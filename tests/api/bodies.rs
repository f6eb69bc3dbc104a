//! Bodies: what is a payment, and what is said of what isn't.

use reqwest::Method;
use tokio::io::AsyncWriteExt;

use crate::support::{PAYMENT, TestServer};

/// The head of a payment in chunks.
const CHUNKED: &str = "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
                       Idempotency-Key: k\r\nTransfer-Encoding: chunked\r\n\r\n";

fn with_amount(amount: &str) -> String {
    format!(r#"{{"user_id": "user_1", "amount": {amount}}}"#)
}

fn with_user(user: &str) -> String {
    format!(r#"{{"user_id": {user}, "amount": 100}}"#)
}

async fn assert_invalid(server: &TestServer, body: &str, pointers: &[&str]) {
    let answer = server.pay("k", body).await;
    answer.assert_problem(400, "invalid-payment");
    assert_eq!(answer.pointers(), pointers, "{body}");
}

/// Asserts that one member is wrong, and that it is said of it what was expected.
async fn assert_expected(server: &TestServer, body: &str, pointer: &str, expected: &str) {
    assert_invalid(server, body, &[pointer]).await;
    let detail = server.pay("k", body).await.json()["errors"][0]["detail"].take();
    assert!(detail.as_str().unwrap().ends_with(expected), "{body}: {detail}");
}

#[tokio::test]
async fn an_amount_is_a_whole_number_of_minor_units() {
    let server = TestServer::start().await;
    for amount in [
        "0",
        "-1",
        "-0",
        "1.5",
        "100.0",
        "1e2",
        "1E2",
        "\"100\"",
        "null",
        "true",
        "[]",
        "{}",
        "9007199254740992",
        "9223372036854775807",
        "9223372036854775808",
        "18446744073709551616",
        "1e300",
        "1e999",
    ] {
        let expected = "a whole number of minor units, 1 to 9007199254740991, without fraction, exponent or quotes";
        assert_expected(&server, &with_amount(amount), "/amount", expected).await;
    }
    for (key, amount) in [("least", "1"), ("most", "9007199254740991")] {
        let answer = server.pay(key, &with_amount(amount)).await;
        assert_eq!((answer.status, answer.member("amount").as_str()), (201, amount));
    }
}

#[tokio::test]
async fn a_user_id_has_1_to_255_characters_and_something_visible() {
    let server = TestServer::start().await;
    let too_long = format!("\"{}\"", "é".repeat(256));
    for user in [
        "\"\"",
        "\" \"",
        "\"\\u00a0\"",
        "\"\\u200b\\u202e\"",
        "\"a\\u0000b\"",
        "\"a\\nb\"",
        "\"\\u0085\"",
        "\"\\ud800\"",
        "1",
        "null",
        "[]",
        &too_long,
    ] {
        let expected =
            "1 to 255 characters, at least one of them visible, without control characters";
        assert_expected(&server, &with_user(user), "/user_id", expected).await;
    }
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    assert_invalid(&server, &with_user(&deep), &["/user_id"]).await;
    let longest = "é".repeat(255);
    let answer = server.pay("longest", &with_user(&format!("\"{longest}\""))).await;
    assert_eq!((answer.status, answer.member("user_id")), (201, longest));
}

#[tokio::test]
async fn every_member_that_is_wrong_is_named_at_once() {
    let server = TestServer::start().await;
    assert_invalid(&server, "{}", &["/user_id", "/amount"]).await;
    assert_invalid(
        &server,
        r#"{"user_id": 1, "amount": 0, "a/~b": 1}"#,
        &["/user_id", "/amount", "/a~1~0b"],
    )
    .await;
}

#[tokio::test]
async fn unknown_and_repeated_members_are_refused() {
    let server = TestServer::start().await;
    let unknown = r#"{"user_id": "u", "amount": 1, "amout": 2}"#;
    let known = "expected no others than user_id, amount, currency";
    assert_expected(&server, unknown, "/amout", known).await;
    for (repeated, pointer) in [
        (r#"{"user_id": "u", "amount": 1, "amount": 1}"#, "/amount"),
        (r#"{"user_id": "u", "user_id": "u", "amount": 1}"#, "/user_id"),
        (r#"{"user_id": "u", "amount": 1, "\u0061mount": 2}"#, "/amount"),
    ] {
        assert_expected(&server, repeated, pointer, "expected it once").await;
    }
}

#[tokio::test]
async fn json_that_is_no_object_is_no_payment() {
    let server = TestServer::start().await;
    for body in [r#"["user_1", 100]"#, "[]", "\"text\"", "1", "-1", "1.5", "null", "true"] {
        assert_invalid(&server, body, &[""]).await;
    }
}

#[tokio::test]
async fn what_is_not_json_is_refused() {
    let server = TestServer::start().await;
    let deep = format!(r#"{{"user_id": {}"#, "[".repeat(10_000));
    for body in [
        "",
        " ",
        "{",
        "{}}",
        "{\"user_id\": \"u\", \"amount\": 1,}",
        "user_id=u&amount=1",
        "{'user_id': 'u'}",
        "\u{feff}{\"user_id\": \"u\", \"amount\": 1}",
        r#"{"user_id": "u", "amount": 01}"#,
        r#"{"user_id": "u", "amount": NaN}"#,
        "[1",
        &deep,
    ] {
        let answer = server.pay("k", body).await;
        answer.assert_problem(400, "malformed-json");
        assert_eq!(answer.pointers(), [""]);
        let (detail, errors) = (answer.member("detail"), answer.member("errors"));
        assert!(detail.starts_with("The body is not JSON: "), "{detail}");
        for said in ["at line 1 column ", "a JSON object with user_id and amount"] {
            assert!(detail.contains(said) && errors.contains(said), "{said}: {}", answer.body);
        }
    }
    let mut wire = server.wire().await;
    let body = b"{\"user_id\": \"\xff\", \"amount\": 1}";
    let head = "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n";
    wire.send([format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat())
        .await;
    let (_, body) = wire.answer().await.unwrap();
    assert!(body.contains("malformed-json"), "{body}");
}

#[tokio::test]
async fn what_is_expected_instead_is_said_of_each_operation() {
    let server = TestServer::start().await;
    let payment = server.paid("k", 100).await;
    let refund = format!("/payment/{payment}/refund");
    for (path, expected) in [
        ("/payment", "a JSON object with user_id and amount, and with currency if you like"),
        (&refund, "a JSON object with amount, or with remaining to refund everything that is left"),
        ("/idempotency-key/void", "an empty JSON object, or no body at all"),
    ] {
        let headers = [("content-type", "application/json"), ("idempotency-key", "free")];
        for body in ["{", "[]"] {
            let answer = server.request(Method::POST, path, &headers, body).await;
            assert_eq!(answer.status, 400);
            assert!(answer.member("errors").contains(expected), "{}", answer.body);
        }
    }
}

#[tokio::test]
async fn a_body_has_up_to_16_kib() {
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
async fn a_chunked_body_has_up_to_16_kib_too() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(CHUNKED).await;
    for _ in 0..5 {
        wire.send(format!("1000\r\n{}\r\n", " ".repeat(0x1000))).await;
    }
    assert_eq!(wire.status().await, 413);
}

#[tokio::test]
async fn what_comes_in_no_chunks_is_to_be_corrected_and_ends_its_connection() {
    let server = TestServer::start().await;
    for chunks in ["zz\r\n", "5\r\n{\"useXX", "1\r\n{\r\n;\r\n", "fffffffffffffffff\r\n"] {
        let mut wire = server.wire().await;
        wire.send(CHUNKED).await;
        wire.send(chunks).await;
        let (head, problem) = wire.answer().await.unwrap();
        assert!(head.starts_with("http/1.1 400") && problem.contains("malformed-json"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert!(problem.contains("chunks") && problem.contains("corrected_request"), "{problem}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.pay("k", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn a_body_that_is_broken_off_may_be_sent_again_as_it_was() {
    let server = TestServer::start().await;
    let whole = format!("{CHUNKED}{:x}\r\n{PAYMENT}\r\n", PAYMENT.len());
    let length = CHUNKED.replace("Transfer-Encoding: chunked", "Content-Length: 36");
    for request in [whole, CHUNKED.to_owned(), format!("{CHUNKED}2"), length + &PAYMENT[..10]] {
        let mut wire = server.wire().await;
        wire.send(&request).await;
        wire.stream.shutdown().await.unwrap();
        let (head, problem) = wire.answer().await.unwrap();
        assert!(head.starts_with("http/1.1 408") && problem.contains("same_request"), "{head}");
        assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
        assert_eq!(wire.status().await, 0, "the connection is closed");
    }
    assert_eq!(server.database.payments().await, 0);
    assert_eq!(server.pay("k", PAYMENT).await.status, 201, "the key is still free");
}

#[tokio::test]
async fn who_asks_for_another_protocol_is_answered_at_once_and_told_that_the_connection_ends() {
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
        // What comes after the body, together with it, is none of it.
        let length = PAYMENT.len();
        wire.send(format!(
            "POST /payment HTTP/1.1\r\nHost: localhost\r\n{head}Content-Length: {length}\r\n\r\n{PAYMENT}GET /"
        ))
        .await;
        let (head, payment) = wire.answer().await.unwrap();
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

#[tokio::test]
async fn only_json_in_utf_8_is_read() {
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

#[tokio::test]
async fn a_request_is_judged_in_the_order_of_the_contract() {
    let server = TestServer::start().await;
    let large = " ".repeat(20_000);
    let send = async |method: Method, path: &str, headers: &[(&str, &str)], body: &str| {
        server.request(method, path, headers, body).await
    };
    let json = ("content-type", "application/json");
    let bad_key = ("idempotency-key", "a b");
    send(Method::POST, "/nowhere", &[bad_key], &large).await.assert_problem(404, "not-found");
    send(Method::PUT, "/payment", &[bad_key], &large)
        .await
        .assert_problem(405, "method-not-allowed");
    send(Method::POST, "/payment", &[bad_key], &large)
        .await
        .assert_problem(415, "unsupported-media-type");
    send(Method::POST, "/payment", &[json, bad_key], &large)
        .await
        .assert_problem(413, "body-too-large");
    send(Method::POST, "/payment", &[json, bad_key], "{")
        .await
        .assert_problem(400, "idempotency-key-invalid");
    send(Method::POST, "/payment", &[json], "{")
        .await
        .assert_problem(400, "idempotency-key-missing");
    let used = ("idempotency-key", "used");
    assert_eq!(send(Method::POST, "/payment", &[json, used], PAYMENT).await.status, 201);
    send(Method::POST, "/payment", &[json, used], "{}")
        .await
        .assert_problem(400, "invalid-payment");
}

#[tokio::test]
async fn a_body_of_nothing_but_mistakes_gets_a_short_answer_that_counts_them() {
    let server = TestServer::start().await;
    let members: Vec<String> = (0..1000).map(|number| format!(r#""m{number}": 1"#)).collect();
    let answer = server.pay("k", &format!("{{{}}}", members.join(","))).await;
    answer.assert_problem(400, "invalid-payment");
    let errors = answer.json()["errors"].as_array().unwrap().clone();
    assert_eq!((errors.len(), errors[0]["pointer"].as_str()), (21, Some("/user_id")));
    // Two are missing, and eighteen of the thousand are named.
    assert_eq!(errors[20]["detail"], "982 more are wrong: expected none");
}
