//! Refunds that are refused.

use payonce_testing::{PAYMENT, REMAINING, TestServer, client::Response};
use reqwest::Method;
use serde_json::json;

const NO_SUCH_PAYMENT: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// Asserts that the refund was refused permanently, with this amount left.
#[track_caller]
pub(crate) fn assert_refused(response: &Response, refundable: i64) {
    response.assert_problem(402, "refund-refused");
    assert_eq!(response.field("refundable"), refundable.to_string());
    assert_eq!(response.header("location"), "");
}

async fn refunded(server: &TestServer, payment: &str) -> i64 {
    server.get(&format!("/payment/{payment}")).await.json()["refunded"].as_i64().unwrap()
}

#[tokio::test]
async fn a_body_without_amount_and_remaining_refunds_nothing_and_uses_no_key() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let path = format!("/payment/{payment}/refund");
    let json = [("content-type", "application/json"), ("idempotency-key", "k")];
    for (headers, body) in
        [(&json[..], "{}"), (&json[..], " { } "), (&json[..], ""), (&json[1..], "")]
    {
        let response = server.request(Method::POST, &path, headers, body).await;
        response.assert_problem(400, "invalid-refund");
        assert_eq!(response.pointers(), [""], "{body}");
    }
    let mut wire = server.wire().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    );
    wire.send(&head).await;
    let (head, body) = wire.response().await.unwrap();
    assert!(head.starts_with("http/1.1 400") && body.contains("invalid-refund"), "{head}{body}");
    assert_eq!(refunded(&server, &payment).await, 0);
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_post_with_query_parameters_is_refused_and_uses_no_key() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    for (path, body) in [
        (format!("/payment/{payment}/refund"), REMAINING),
        ("/payment".to_owned(), PAYMENT),
        ("/idempotency-key/void".to_owned(), "{}"),
    ] {
        for query in ["amount=30", "amount", "=", "%ff"] {
            let path = format!("{path}?{query}");
            let response = server.request(Method::POST, &path, &headers, body).await;
            response.assert_problem(400, "invalid-query");
            assert_eq!(response.header("idempotency-key"), "k", "{path}");
        }
    }
    assert_eq!(server.get("/payment").await.json()["payments"].as_array().unwrap().len(), 1);
    // An empty query has no parameter.
    let path = format!("/payment/{payment}/refund?");
    assert_eq!(server.request(Method::POST, &path, &headers, REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_refund_of_more_than_is_left_is_refused_and_the_refusal_is_stored() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "first", r#"{"amount": 40}"#).await;
    let refusal = server.refund(&payment, "too-much", r#"{"amount": 61}"#).await;
    assert_refused(&refusal, 60);
    assert!(refusal.field("detail").contains("60"), "{}", refusal.body);
    assert_eq!(refusal.header("idempotent-replayed"), "false");
    assert_eq!(refusal.header("idempotency-key"), "too-much");
    let replay = server.refund(&payment, "too-much", r#"{"amount": 61}"#).await;
    assert_eq!((replay.status, &replay.body), (402, &refusal.body));
    assert_eq!(replay.header("content-type"), "application/problem+json");
    assert_eq!(replay.header("cache-control"), "no-store");
    assert_eq!(replay.header("idempotent-replayed"), "true");
    server
        .refund(&payment, "too-much", r#"{"amount": 60}"#)
        .await
        .assert_problem(422, "idempotency-key-reused");
    assert_eq!(server.refund(&payment, "rest", r#"{"amount": 60}"#).await.status, 201);
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn a_fully_refunded_payment_cannot_be_refunded_again() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "all", REMAINING).await.status, 201);
    for (key, body) in [("again", REMAINING), ("least", r#"{"amount": 1}"#)] {
        assert_refused(&server.refund(&payment, key, body).await, 0);
    }
    assert_eq!(server.refund(&payment, "all", REMAINING).await.status, 200);
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn a_stored_refusal_is_replayed_after_the_refund_became_possible() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let refusal = server.refund(&payment, "k", r#"{"amount": 150}"#).await;
    assert_refused(&refusal, 100);
    server.database.execute("UPDATE payments SET amount = 200").await;
    // Unlike the response of a success, it does not expire.
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now() WHERE replayable_until IS NOT NULL").await;
    assert_eq!(server.refund(&payment, "k", r#"{"amount": 150}"#).await.body, refusal.body);
    assert_eq!(refunded(&server, &payment).await, 0);
}

#[tokio::test]
async fn a_refund_of_an_unknown_payment_is_not_found_and_the_refusal_is_stored() {
    let server = TestServer::start().await;
    let refusal = server.refund(NO_SUCH_PAYMENT, "k", REMAINING).await;
    refusal.assert_problem(404, "not-found");
    assert_eq!(refusal.header("idempotent-replayed"), "false");
    assert_eq!(refusal.field("retry"), "new_key");
    assert!(refusal.field("detail").contains("with a new key"), "{}", refusal.body);
    let payment = server.paid("pay", 100).await;
    server
        .database
        .execute(&format!("UPDATE payments SET transaction_id = '{NO_SUCH_PAYMENT}' WHERE transaction_id = '{payment}'"))
        .await;
    let replay = server.refund(NO_SUCH_PAYMENT, "k", REMAINING).await;
    assert_eq!((replay.status, &replay.body), (404, &refusal.body));
    assert_eq!(replay.header("idempotent-replayed"), "true");
    assert_eq!(replay.header("content-type"), "application/problem+json");
    assert_eq!(server.refund(NO_SUCH_PAYMENT, "other", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_payment_of_another_account_cannot_be_refunded() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.database.execute(&format!("UPDATE payments SET account_id = '{NO_SUCH_PAYMENT}'")).await;
    let foreign = server.refund(&payment, "foreign", REMAINING).await;
    foreign.assert_problem(404, "not-found");
    // The response does not differ from that for an unknown payment.
    let mut absent = server.refund(NO_SUCH_PAYMENT, "absent", REMAINING).await.json();
    absent["instance"] = foreign.json()["instance"].clone();
    assert_eq!(foreign.json(), absent);
    assert_eq!(server.database.number("SELECT sum(refunded)::bigint FROM payments").await, 0);
}

#[tokio::test]
async fn a_payment_id_that_is_no_uuid_is_not_found_and_uses_no_key() {
    let server = TestServer::start().await;
    for id in ["1", "not-a-uuid", "%00", "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b"] {
        let response = server.refund(id, "k", REMAINING).await;
        response.assert_problem(404, "not-found");
        assert_eq!(response.header("idempotency-key"), "k");
        assert_eq!(response.header("idempotent-replayed"), "");
        assert_eq!(response.field("retry"), "corrected_request");
        assert!(response.field("detail").contains("has not used the key"), "{}", response.body);
    }
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn an_invalid_refund_is_refused_and_uses_no_key() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    for amount in ["0", "-1", "1.0", "1e2", "\"40\"", "null", "9007199254740992", "[]"] {
        let response = server.refund(&payment, "k", &format!(r#"{{"amount": {amount}}}"#)).await;
        response.assert_problem(400, "invalid-refund");
        assert_eq!(response.pointers(), ["/amount"], "{amount}");
    }
    for (body, pointer) in [
        (r#"{"amount": 1, "amount": 1}"#, "/amount"),
        (r#"{"amount": 1, "reason": "late"}"#, "/reason"),
        (r#"{"amount": 1, "remaining": true}"#, ""),
        (r#"{"remaining": false}"#, "/remaining"),
        (r#"{"amount": 1, "remaining": false}"#, "/remaining"),
        (r#"{"remaining": null}"#, "/remaining"),
        (r#"{"remaining": "true"}"#, "/remaining"),
        (r#"{"remaining": true, "remaining": true}"#, "/remaining"),
        ("[]", ""),
        ("40", ""),
    ] {
        let response = server.refund(&payment, "k", body).await;
        response.assert_problem(400, "invalid-refund");
        assert_eq!(response.pointers(), [pointer], "{body}");
    }
    for body in [" ", "{", "amount=1"] {
        server.refund(&payment, "k", body).await.assert_problem(400, "malformed-json");
    }
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_refund_is_checked_in_the_documented_order() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let send = async |path: &str, headers: &[(&str, &str)], body: &str| {
        server.request(Method::POST, path, headers, body).await
    };
    let path = format!("/payment/{payment}/refund");
    let (text, json) = (("content-type", "text/plain"), ("content-type", "application/json"));
    let bad_key = ("idempotency-key", "a b");
    let large = " ".repeat(20_000);
    // A body needs a content type, which must be JSON.
    send(&path, &[text, bad_key], "").await.assert_problem(415, "unsupported-media-type");
    send(&path, &[bad_key], "{}").await.assert_problem(415, "unsupported-media-type");
    send(&path, &[bad_key, ("content-encoding", "gzip")], "")
        .await
        .assert_problem(415, "unsupported-media-type");
    send(&path, &[json, bad_key], &large).await.assert_problem(413, "body-too-large");
    send(&path, &[json, bad_key], "{").await.assert_problem(400, "idempotency-key-invalid");
    send(&path, &[], "").await.assert_problem(400, "idempotency-key-missing");
    send("/payment/1/refund", &[], "").await.assert_problem(400, "idempotency-key-missing");
    send(&path, &[json, ("idempotency-key", "pay")], "{")
        .await
        .assert_problem(400, "malformed-json");
    let response = send(&path, &[json, ("idempotency-key", "pay")], REMAINING).await;
    response.assert_problem(422, "idempotency-key-reused");
    assert_eq!(response.field("members"), r#"["operation"]"#);
    // A payment needs a body.
    let key = ("idempotency-key", "k");
    send("/payment", &[key], "").await.assert_problem(400, "malformed-json");
}

#[tokio::test]
async fn a_refund_with_the_key_of_another_payments_refund_is_refused() {
    let server = TestServer::start().await;
    let (one, two) = (server.paid("one", 100).await, server.paid("two", 100).await);
    assert_eq!(server.refund(&one, "k", r#"{"amount": 40}"#).await.status, 201);
    for (payment, body, members) in [
        (&two, r#"{"amount": 40}"#, r#"["transaction_id"]"#),
        (&one, r#"{"amount": 41}"#, r#"["amount"]"#),
        (&two, REMAINING, r#"["transaction_id","amount","remaining"]"#),
    ] {
        let response = server.refund(payment, "k", body).await;
        response.assert_problem(422, "idempotency-key-reused");
        assert_eq!(response.field("members"), members);
    }
    server.pay("k", PAYMENT).await.assert_problem(422, "idempotency-key-reused");
    assert_eq!((refunded(&server, &one).await, refunded(&server, &two).await), (40, 0));
}

#[tokio::test]
async fn a_payment_has_at_most_a_hundred_refunds_and_the_last_one_refunds_the_rest() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 1000).await;
    for number in 1..100 {
        let response =
            server.refund(&payment, &format!("refund-{number}"), r#"{"amount": 1}"#).await;
        assert_eq!(response.status, 201, "{number}");
    }
    let refusal = server.refund(&payment, "one-more", r#"{"amount": 900}"#).await;
    assert_refused(&refusal, 901);
    assert!(refusal.field("detail").contains("901"), "{}", refusal.body);
    let rest = server.refund(&payment, "rest", REMAINING).await;
    assert_eq!((rest.status, rest.field("amount").as_str()), (201, "901"));
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    assert_eq!(
        (&shown["refunded"], shown["refunds"].as_array().unwrap().len()),
        (&json!(1000), 100)
    );
}

#[tokio::test]
async fn a_database_constraint_prevents_refunds_of_more_than_was_paid() {
    let server = TestServer::start().await;
    server.paid("pay", 100).await;
    let mut conn = server.database.connect().await;
    for statement in [
        "UPDATE payments SET refunded = 101",
        "UPDATE payments SET refunded = -1",
        "UPDATE payments SET refund_count = 101",
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut conn).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(Into::into));
        assert_eq!(code, Some("23514".to_owned()), "{statement}");
    }
}
