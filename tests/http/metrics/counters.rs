//! Metrics of requests, payments and refunds.

use std::sync::Arc;

use payonce_testing::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    metrics::Sample,
    proxy::{Fault, Proxy, Step},
};
use reqwest::Method;

/// A server that has sent most kinds of responses.
pub(crate) async fn busy() -> TestServer {
    let server = TestServer::start().await;
    let payment = server.paid("a", 100).await;
    server.pay("a", r#"{"user_id": "user_1", "amount": 100}"#).await;
    server.pay("yen", r#"{"user_id": "user_1", "amount": 7, "currency": "JPY"}"#).await;
    server.pay("yen", r#"{"user_id": "user_1", "amount": 200}"#).await;
    server.refund(&payment, "b", r#"{"amount": 40}"#).await;
    server.refund(&payment, "c", r#"{"amount": 400}"#).await;
    server.refund(&payment, "c", r#"{"amount": 400}"#).await;
    let headers = [("idempotency-key", "d")];
    server.request(Method::POST, "/idempotency-key/void", &headers, "").await;
    server.pay("d", PAYMENT).await;
    server
}

#[tokio::test]
async fn each_outcome_is_counted() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    for (operation, outcome, count) in [
        ("pay", "new", 2),
        ("pay", "replayed", 1),
        ("pay", "reused", 1),
        ("pay", "voided", 1),
        ("pay", "refused", 0),
        ("refund", "new", 1),
        ("refund", "refused", 1),
        ("refund", "replayed", 1),
        ("void", "new", 1),
    ] {
        let counted = sample.outcome(operation, outcome);
        assert!((counted - f64::from(count)).abs() < 0.5, "{operation} {outcome}: {counted}");
    }
}

#[tokio::test]
async fn a_request_whose_response_expired_is_counted_as_expired() {
    let server = TestServer::start().await;
    server.pay("a", PAYMENT).await;
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    assert_eq!(server.pay("a", PAYMENT).await.status, 410);
    assert!((Sample::of(&server).await.outcome("pay", "expired") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn amounts_are_counted_by_currency_and_replays_as_avoided_duplicates() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    for (name, value) in [
        ("payonce_payments_total{currency=\"USD\"}", 1),
        ("payonce_payments_total{currency=\"JPY\"}", 1),
        ("payonce_payments_amount_minor_units_total{currency=\"USD\"}", 100),
        ("payonce_payments_amount_minor_units_total{currency=\"JPY\"}", 7),
        ("payonce_duplicate_payments_avoided_total{currency=\"USD\"}", 1),
        ("payonce_duplicate_payments_avoided_amount_minor_units_total{currency=\"USD\"}", 100),
        ("payonce_duplicate_payments_avoided_total{currency=\"JPY\"}", 0),
        // The refused request is counted as refused only.
        ("payonce_refunds_total{currency=\"USD\"}", 1),
        ("payonce_refunds_amount_minor_units_total{currency=\"USD\"}", 40),
        ("payonce_refunds_total{currency=\"JPY\"}", 0),
    ] {
        sample.assert(name, value);
    }
}

#[tokio::test]
async fn a_refund_is_counted_in_the_currency_of_its_payment() {
    let server = TestServer::start_with(&["--default-currency", "EUR"]).await;
    let euros = server.paid("a", 100).await;
    let yen = server.pay("yen", r#"{"user_id": "user_1", "amount": 7, "currency": "JPY"}"#).await;
    let yen = yen.field("transaction_id");
    server.refund(&euros, "b", r#"{"amount": 40}"#).await;
    // The remaining amount; and duplicates, which refund nothing.
    for _ in 0..2 {
        server.refund(&euros, "c", REMAINING).await;
        server.refund(&yen, "d", REMAINING).await;
    }
    let sample = Sample::of(&server).await;
    for (name, value) in [
        ("payonce_refunds_total{currency=\"EUR\"}", 2),
        ("payonce_refunds_amount_minor_units_total{currency=\"EUR\"}", 100),
        ("payonce_refunds_total{currency=\"JPY\"}", 1),
        ("payonce_refunds_amount_minor_units_total{currency=\"JPY\"}", 7),
    ] {
        sample.assert(name, value);
    }
}

#[tokio::test]
async fn a_refund_whose_batch_was_repeated_is_counted_once() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let server = TestServer::start_through(&database, &options, &[]).await;
    let payment = server.paid("a", 100).await;
    for (key, step) in [("b", Step::Stored), ("c", Step::CommitSent), ("d", Step::Committed)] {
        proxy.arm(step, Fault::Cut);
        assert_eq!(server.refund(&payment, key, r#"{"amount": 10}"#).await.status, 201);
    }
    let sample = Sample::of(&server).await;
    sample.assert("payonce_batch_failures_total{remedy=\"reconnect\"}", 3);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"committed\"}", 1);
    sample.assert("payonce_refunds_total{currency=\"USD\"}", 3);
    sample.assert("payonce_refunds_amount_minor_units_total{currency=\"USD\"}", 30);
}

#[tokio::test]
async fn a_request_without_an_outcome_counts_as_failed() {
    let server = TestServer::start().await;
    server.database.execute("ALTER TABLE payments RENAME TO elsewhere").await;
    assert_eq!(server.pay("a", PAYMENT).await.status, 500);
    let sample = Sample::of(&server).await;
    assert!((sample.outcome("pay", "failed") - 1.0).abs() < 0.5);
    sample.assert("payonce_batch_failures_total{remedy=\"isolate\"}", 1);
    sample.assert("payonce_commits_total", 0);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_unknown_paths_share_a_label() {
    let server = busy().await;
    for path in ["/x", "/y", "/payment/1/2"] {
        server.get(path).await;
    }
    server.request(Method::from_bytes(b"BREW").unwrap(), "/payment", &[], "").await;
    server.request(Method::from_bytes(b"STIR").unwrap(), "/payment", &[], "").await;
    let sample = Sample::of(&server).await;
    let requests = |labels| format!("payonce_http_requests_total{{{labels}}}");
    for (method, route, status, count) in [
        ("POST", "/payment", 201, 2),
        ("POST", "/payment", 200, 1),
        ("POST", "/payment/{transaction_id}/refund", 201, 1),
        ("GET", "other", 404, 3),
        ("other", "/payment", 405, 2),
    ] {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        sample.assert(&requests(labels), count);
    }
    let shown = |text: &str| sample.names().any(|name| name.contains(text));
    assert!(!shown("/x") && !shown("BREW"));
    sample.assert(
        "payonce_http_request_duration_seconds_count{method=\"POST\",route=\"/payment\"}",
        5,
    );
}

#[tokio::test]
async fn the_process_and_its_version_are_included() {
    let server = TestServer::start().await;
    let sample = Sample::of(&server).await;
    sample.assert(&format!("payonce_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1);
    if cfg!(target_os = "linux") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - sample.get("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(sample.get("process_resident_memory_bytes") > 1_000_000.0);
        assert!(sample.get("process_cpu_seconds_total") < 3600.0);
        assert!(sample.get("process_open_fds") > 3.0);
    }
}
