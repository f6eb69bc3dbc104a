//! Log lines of requests, in both formats.

use std::collections::BTreeMap;

use payonce_testing::{
    PAYMENT, TestDatabase,
    binary::Serve,
    client::Wire,
    wait::{eventually, until},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

#[tokio::test]
async fn a_replay_is_logged_without_key_body_and_path() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(
        &database.options,
        &[("RUST_LOG", "trace,sqlx=warn,mio=warn,actix_http=warn")],
    );
    for status in [201, 200] {
        assert_eq!(serve.begin_payment("se-cret-key").await.status().await, status);
    }
    let mut wire = Wire::connect(serve.address).await;
    wire.send(
        "GET /payment/se-cret-path?se=cret HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my-id\r\n\r\n",
    )
    .await;
    let (_, problem) = wire.response().await.unwrap();
    let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();

    let log = serve.wait_for(instance);
    assert!(log.contains("DEBUG payonce::http::idempotent] Cached response"), "{log}");
    assert!(
        log.contains("method=GET route=/payment/{transaction_id} status=404")
            && log.contains("client_request_id=my-id"),
        "{log}"
    );
    let answered = "answered method=POST route=/payment status=201";
    assert!(log.contains(answered), "a line for each request can be had: {log}");
    for secret in ["se-cret", "user_1", "se=cret"] {
        assert!(!log.contains(secret), "{secret:?} in {log}");
    }
}

#[tokio::test]
async fn a_failure_is_logged_with_its_cause_but_without_row_values() {
    let database = TestDatabase::create().await;
    database
        .execute("ALTER TABLE payments ADD CONSTRAINT no_such_user CHECK (user_id <> 'user_1')")
        .await;
    let mut serve = Serve::start(&database.options, &[]);
    let (_, problem) = serve.begin_payment("k").await.response().await.unwrap();
    let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();
    let log = serve.wait_for(instance);
    let line = log.lines().find(|line| line.contains(instance)).unwrap();
    assert!(
        line.contains("ERROR") && line.contains("no_such_user") && line.contains("SQLSTATE 23514"),
        "{line}"
    );
    assert!(!log.contains("user_1"), "{log}");
}

#[tokio::test]
async fn a_stored_refusal_is_logged_with_its_instance_each_time() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    let refund = "POST /payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0/refund HTTP/1.1\r\nHost: localhost\r\n\
                  Content-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 19\r\n\r\n\
                  {\"remaining\": true}";
    for responses in 1..=2 {
        let mut wire = Wire::connect(serve.address).await;
        wire.send(refund).await;
        let (_, problem) = wire.response().await.unwrap();
        let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();
        let logged = async || serve.log().matches(instance).count() >= responses;
        until("the refusal is logged", logged).await;
        let line = "not-found method=POST route=/payment/{transaction_id}/refund status=404";
        assert!(serve.log().contains(line), "{}", serve.log());
    }
}

const FORMATS: [&str; 2] = ["text", "json"];

/// A server with this log format and all log levels.
pub(crate) fn talkative(database: &TestDatabase, format: &str) -> Serve {
    Serve::start(&database.options, &[("LOG_FORMAT", format), ("RUST_LOG", "info,payonce=trace")])
}

/// Sends a request with these header lines, and returns the body of the response.
pub(crate) async fn send(serve: &Serve, request: &str, headers: &str, body: &str) -> String {
    let mut wire = Wire::connect(serve.address).await;
    let length = body.len();
    wire.send(format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
    .await;
    wire.response().await.map_or_else(String::new, |(_, body)| body)
}

pub(crate) async fn pay(serve: &Serve, key: &str, body: &str) -> String {
    let headers = format!(
        "Content-Type: application/json\r\nIdempotency-Key: {key}\r\nX-Request-Id: my-id\r\n"
    );
    send(serve, "POST /payment", &headers, body).await
}

/// The fields of a line, in either format.
fn fields(line: &str) -> BTreeMap<String, String> {
    if let Ok(Value::Object(object)) = serde_json::from_str(line) {
        let text = |value: Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        return object.into_iter().map(|(name, value)| (name, text(value))).collect();
    }
    let pairs = line.split(' ').filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn instance(problem: &str) -> &str {
    problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap()
}

/// Waits for this many lines that contain the text, and returns them.
async fn lines(serve: &mut Serve, text: &str, count: usize) -> Vec<BTreeMap<String, String>> {
    let log = eventually(&format!("{count} lines with {text:?}"), async || {
        let log = serve.log();
        (log.matches(text).count() >= count).then_some(log)
    })
    .await;
    let found: Vec<_> = log.lines().filter(|line| line.contains(text)).map(fields).collect();
    assert_eq!(found.len(), count, "{log}");
    found
}

#[tokio::test]
async fn the_instance_of_a_problem_finds_all_log_lines_of_its_request() {
    for format in FORMATS {
        let database = TestDatabase::create().await;
        let mut serve = talkative(&database, format);
        pay(&serve, "k", PAYMENT).await;
        let reused = pay(&serve, "k", r#"{"user_id":"user_1","amount":101}"#).await;
        let found = lines(&mut serve, instance(&reused), 2).await;
        for line in found {
            for (name, value) in [
                ("method", "POST"),
                ("route", "/payment"),
                ("status", "422"),
                ("outcome", "reused"),
                ("request_id", instance(&reused)),
                ("client_request_id", "my-id"),
                ("account_id", "00000000-0000-0000-0000-000000000000"),
            ] {
                assert_eq!(line[name], value, "{format} {name}");
            }
            assert!(line["elapsed_ms"].parse::<f64>().unwrap() > 0.0, "{line:?}");
        }
    }
}

#[tokio::test]
async fn the_hash_of_a_key_finds_its_log_lines() {
    let hash = Sha256::new().chain_update([0; 16]).chain_update("k").finalize();
    let hash = format!("{:016x}", u64::from_be_bytes(hash[..8].try_into().unwrap()));
    for format in FORMATS {
        let database = TestDatabase::create().await;
        let mut serve = talkative(&database, format);
        for key in ["k", "\"k\"", "other"] {
            pay(&serve, key, PAYMENT).await;
        }
        send(&serve, "POST /idempotency-key/void", "Idempotency-Key: void\r\n", "").await;
        pay(&serve, "void", PAYMENT).await;
        let found = lines(&mut serve, &hash, 2).await;
        let outcomes: Vec<_> = found.iter().map(|line| line["outcome"].as_str()).collect();
        assert_eq!(outcomes, ["new", "replayed"], "{format}");
        assert_ne!(found[0]["request_id"], found[1]["request_id"], "{format}");
        serve.wait_for("voided");
    }
}

#[tokio::test]
async fn outcomes_have_the_same_names_in_logs_and_metrics() {
    for format in FORMATS {
        let database = TestDatabase::create().await;
        let mut serve = talkative(&database, format);
        let paid: Value = serde_json::from_str(&pay(&serve, "k", PAYMENT).await).unwrap();
        let refund = format!("POST /payment/{}/refund", paid["transaction_id"].as_str().unwrap());
        let headers = "Content-Type: application/json\r\nIdempotency-Key: r\r\n";
        for _ in 0..2 {
            send(&serve, &refund, headers, r#"{"amount":101}"#).await;
        }
        pay(&serve, "k", r#"{"user_id":"user_1","amount":101}"#).await;
        send(&serve, "POST /idempotency-key/void", "Idempotency-Key: v\r\n", "").await;
        pay(&serve, "v", PAYMENT).await;
        let metrics = send(&serve, "GET /metrics", "", "").await;
        database.execute("ALTER TABLE payments RENAME TO elsewhere").await;
        let failed = pay(&serve, "f", PAYMENT).await;
        for line in lines(&mut serve, instance(&failed), 2).await {
            assert_eq!(line["outcome"], "failed", "{format}");
        }
        // Four of these also have a line for their problem.
        let found = lines(&mut serve, "outcome", 6 + 4 + 2).await;
        let counted = |line: &&BTreeMap<String, String>| {
            let operation = match line["route"].as_str() {
                "/payment" => "pay",
                "/idempotency-key/void" => "void",
                _ => "refund",
            };
            let labels = format!("operation=\"{operation}\",outcome=\"{}\"", line["outcome"]);
            metrics.contains(&format!("payonce_keyed_requests_total{{{labels}}} 1\n"))
        };
        assert_eq!(found.iter().filter(counted).count(), 6 + 4, "{format}: {found:?}");
    }
}

#[tokio::test]
async fn a_log_line_contains_no_unknown_field() {
    let database = TestDatabase::create().await;
    let mut serve = talkative(&database, "json");
    let problem = send(&serve, "GET /nowhere/se-cret", "", "").await;
    for line in lines(&mut serve, instance(&problem), 2).await {
        assert_eq!(line["route"], "(no route)");
        for name in ["account_id", "key_hash", "client_request_id", "outcome", "cause"] {
            assert!(!line.contains_key(name), "{name} in {line:?}");
        }
    }
}

#[tokio::test]
async fn only_problems_are_logged_by_default() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("RUST_LOG", "")]);
    pay(&serve, "k", PAYMENT).await;
    let reused = pay(&serve, "k", r#"{"user_id":"user_1","amount":101}"#).await;
    lines(&mut serve, instance(&reused), 1).await;
    lines(&mut serve, "request_id", 1).await;

    let serve = Serve::start(&database.options, &[("RUST_LOG", "info,payonce::problem=off")]);
    pay(&serve, "k", r#"{"user_id":"user_1","amount":101}"#).await;
    pay(&serve, "k", PAYMENT).await;
    assert!(!serve.log().contains("request_id"), "{}", serve.log());
}

#[tokio::test]
async fn each_json_line_is_an_object_with_a_time() {
    let database = TestDatabase::create().await;
    database
        .execute(
            "ALTER TABLE payments ADD CONSTRAINT \"no\nsuch user\" CHECK (user_id <> 'user_1')",
        )
        .await;
    let mut serve = talkative(&database, "json");
    let failed = pay(&serve, "k", PAYMENT).await;
    let found = lines(&mut serve, instance(&failed), 2).await;
    assert!(found[0]["cause"].contains("SQLSTATE 23514"), "{found:?}");
    for line in serve.log().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let timestamp = line["timestamp"].as_str().unwrap();
        assert!(timestamp.len() == "2026-11-24T09:00:00.000Z".len() && timestamp.ends_with('Z'));
        assert!(line["message"].is_string() && line["target"].is_string(), "{line}");
        assert!(line["status"].is_null() || line["status"].is_u64(), "{line}");
        assert!(line["elapsed_ms"].is_null() || line["elapsed_ms"].is_f64(), "{line}");
    }
}
