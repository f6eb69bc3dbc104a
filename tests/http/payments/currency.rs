//! The currency of a payment, which never changes what a retry means.

use payonce_testing::{PAYMENT, TestServer};

fn in_currency(currency: &str) -> String {
    format!(r#"{{"user_id": "user_1", "amount": 100, "currency": {currency}}}"#)
}

/// The currency of this response's payment, as `GET` shows it.
async fn shown(server: &TestServer, location: &str) -> String {
    server.get(location).await.field("currency")
}

#[tokio::test]
async fn a_payment_has_the_currency_of_its_request_and_the_response_shows_it() {
    let server = TestServer::start().await;
    let response = server.pay("k", &in_currency("\"EUR\"")).await;
    let id = response.field("transaction_id");
    let expected = format!(
        r#"{{"status":"success","transaction_id":"{id}","user_id":"user_1","amount":100,"currency":"EUR"}}"#
    );
    assert_eq!((response.status, response.body.as_str()), (201, expected.as_str()));
    let replay = server.pay("k", &in_currency("\"EUR\"")).await;
    assert_eq!((replay.status, replay.body), (200, response.body.clone()));
    assert_eq!(shown(&server, response.header("location")).await, "EUR");
}

#[tokio::test]
async fn a_payment_without_a_currency_has_the_default_and_the_response_does_not_show_it() {
    let server = TestServer::start().await;
    let response = server.pay("k", PAYMENT).await;
    assert_eq!(response.json().get("currency"), None);
    assert_eq!(shown(&server, response.header("location")).await, "USD");
    let server = TestServer::start_on(&server.database, &["--default-currency", "JPY"]).await;
    let response = server.pay("other", PAYMENT).await;
    assert_eq!(response.json().get("currency"), None);
    assert_eq!(shown(&server, response.header("location")).await, "JPY");
}

#[tokio::test]
async fn a_currency_without_minor_units_is_refused() {
    let server = TestServer::start().await;
    for currency in [
        "\"usd\"",
        "\"Usd\"",
        "\"US\"",
        "\"USDT\"",
        "\"\"",
        "\" USD\"",
        "\"ABC\"",
        "\"840\"",
        "\"XXX\"",
        "\"XTS\"",
        "\"XAU\"",
        "\"HRK\"",
        "\"US\\u0044 \"",
        "840",
        "null",
        "[\"USD\"]",
        "{}",
        "true",
    ] {
        let response = server.pay("k", &in_currency(currency)).await;
        response.assert_problem(400, "invalid-payment");
        assert_eq!(response.pointers(), ["/currency"], "{currency}");
        assert!(response.body.contains("ISO 4217"), "{}", response.body);
    }
    let twice = r#"{"user_id": "user_1", "amount": 100, "currency": "USD", "currency": "USD"}"#;
    assert_eq!(server.pay("k", twice).await.pointers(), ["/currency"]);
    // The key is still unused.
    assert_eq!(server.pay("k", &in_currency("\"KWD\"")).await.status, 201);
}

#[tokio::test]
async fn a_payment_in_a_withdrawn_currency_can_be_read_and_refunded() {
    let server = TestServer::start().await;
    let payment = server.paid("k", 100).await;
    server.database.execute("UPDATE payments SET currency = 'HRK'").await;
    assert_eq!(shown(&server, &format!("/payment/{payment}")).await, "HRK");
    assert_eq!(server.refund(&payment, "r", r#"{"amount":40}"#).await.status, 201);
    assert_eq!(server.get("/payment").await.json()["payments"][0]["refunded"], 40);
}

#[tokio::test]
async fn a_request_that_names_the_default_currency_differs_from_one_that_does_not() {
    let server = TestServer::start().await;
    let unnamed = server.pay("unnamed", PAYMENT).await;
    let named = server.pay("named", &in_currency("\"USD\"")).await;
    for (key, body) in [
        ("unnamed", in_currency("\"USD\"")),
        ("unnamed", in_currency("\"EUR\"")),
        ("named", PAYMENT.to_owned()),
        ("named", in_currency("\"EUR\"")),
    ] {
        let response = server.pay(key, &body).await;
        response.assert_problem(422, "idempotency-key-reused");
        assert_eq!(response.field("members"), r#"["currency"]"#, "{key}: {body}");
    }
    assert_eq!(server.pay("unnamed", PAYMENT).await.body, unnamed.body);
    assert_eq!(server.pay("named", &in_currency("\"US\\u0044\"")).await.body, named.body);
    assert_eq!(server.database.payments().await, 2);
}

#[tokio::test]
async fn a_new_default_currency_changes_neither_retries_nor_existing_payments() {
    let mut server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    server.stop();
    let server = TestServer::start_on(&server.database, &["--default-currency", "EUR"]).await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, &replay.body), (200, &first.body));
    for currency in ["\"USD\"", "\"EUR\""] {
        server.pay("k", &in_currency(currency)).await.assert_problem(422, "idempotency-key-reused");
    }
    assert_eq!(shown(&server, first.header("location")).await, "USD");
}

#[tokio::test]
async fn the_fingerprint_of_a_request_without_a_currency_never_changes() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    // Version, operation, user_id and amount, without eight bytes for a currency.
    server
        .database
        .execute("UPDATE idempotency_keys SET fingerprint = substr(fingerprint, 1, 25)")
        .await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, &replay.body), (200, &first.body));
    let named = server.pay("k", &in_currency("\"USD\"")).await;
    named.assert_problem(422, "idempotency-key-reused");
    assert_eq!(named.field("members"), r#"["currency"]"#);
}
