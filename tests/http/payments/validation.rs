//! The fields of a payment, and the errors of invalid ones.

use payonce_testing::{PAYMENT, TestServer};
use reqwest::Method;

fn with_amount(amount: &str) -> String {
    format!(r#"{{"user_id": "user_1", "amount": {amount}}}"#)
}

fn with_user(user: &str) -> String {
    format!(r#"{{"user_id": {user}, "amount": 100}}"#)
}

async fn assert_invalid(server: &TestServer, body: &str, pointers: &[&str]) {
    let response = server.pay("k", body).await;
    response.assert_problem(400, "invalid-payment");
    assert_eq!(response.pointers(), pointers, "{body}");
}

/// Asserts that one field is reported, with what was expected.
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
        let response = server.pay(key, &with_amount(amount)).await;
        assert_eq!((response.status, response.field("amount").as_str()), (201, amount));
    }
}

#[tokio::test]
async fn a_user_id_has_1_to_255_characters_and_at_least_one_visible() {
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
    let response = server.pay("longest", &with_user(&format!("\"{longest}\""))).await;
    assert_eq!((response.status, response.field("user_id")), (201, longest));
}

#[tokio::test]
async fn every_invalid_field_is_reported_at_once() {
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
async fn unknown_and_repeated_fields_are_refused() {
    let server = TestServer::start().await;
    let unknown = r#"{"user_id": "u", "amount": 1, "amout": 2}"#;
    let known = "unknown field; expected user_id, amount, currency";
    assert_expected(&server, unknown, "/amout", known).await;
    for (repeated, pointer) in [
        (r#"{"user_id": "u", "amount": 1, "amount": 1}"#, "/amount"),
        (r#"{"user_id": "u", "user_id": "u", "amount": 1}"#, "/user_id"),
        (r#"{"user_id": "u", "amount": 1, "\u0061mount": 2}"#, "/amount"),
    ] {
        assert_expected(&server, repeated, pointer, "repeated; expected once").await;
    }
}

#[tokio::test]
async fn a_payment_is_a_json_object() {
    let server = TestServer::start().await;
    for body in [r#"["user_1", 100]"#, "[]", "\"text\"", "1", "-1", "1.5", "null", "true"] {
        assert_invalid(&server, body, &[""]).await;
    }
}

#[tokio::test]
async fn a_body_that_is_not_json_is_refused() {
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
        let response = server.pay("k", body).await;
        response.assert_problem(400, "malformed-json");
        assert_eq!(response.pointers(), [""]);
        let (detail, errors) = (response.field("detail"), response.field("errors"));
        assert!(detail.starts_with("The body is not JSON: "), "{detail}");
        for said in ["at line 1 column ", "a JSON object with user_id, amount"] {
            assert!(detail.contains(said) && errors.contains(said), "{said}: {}", response.body);
        }
    }
    let mut wire = server.wire().await;
    let body = b"{\"user_id\": \"\xff\", \"amount\": 1}";
    let head = "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n";
    wire.send([format!("{head}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body].concat())
        .await;
    let (_, body) = wire.response().await.unwrap();
    assert!(body.contains("malformed-json"), "{body}");
}

#[tokio::test]
async fn a_refused_body_is_told_what_its_operation_expects() {
    let server = TestServer::start().await;
    let payment = server.paid("k", 100).await;
    let refund = format!("/payment/{payment}/refund");
    for (path, expected) in [
        ("/payment", "a JSON object with user_id, amount and, optionally, currency"),
        (&refund, "a JSON object with amount, or with remaining to refund everything that is left"),
        ("/idempotency-key/void", "an empty JSON object, or no body at all"),
    ] {
        let headers = [("content-type", "application/json"), ("idempotency-key", "free")];
        for body in ["{", "[]"] {
            let response = server.request(Method::POST, path, &headers, body).await;
            assert_eq!(response.status, 400);
            assert!(response.field("errors").contains(expected), "{}", response.body);
        }
    }
}

#[tokio::test]
async fn a_request_is_checked_in_the_documented_order() {
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
async fn a_body_with_many_errors_gets_a_short_response_that_counts_them() {
    let server = TestServer::start().await;
    let members: Vec<String> = (0..1000).map(|number| format!(r#""m{number}": 1"#)).collect();
    let response = server.pay("k", &format!("{{{}}}", members.join(","))).await;
    response.assert_problem(400, "invalid-payment");
    let errors = response.json()["errors"].as_array().unwrap().clone();
    assert_eq!((errors.len(), errors[0]["pointer"].as_str()), (21, Some("/user_id")));
    // Two missing fields and eighteen of the thousand unknown ones are listed.
    assert_eq!(errors[20]["detail"], "982 further errors not listed");
}
