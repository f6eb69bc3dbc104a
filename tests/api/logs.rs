//! What is logged: what a request can be found by, in both formats alike, and nothing secret.

use std::collections::BTreeMap;

use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{
    PAYMENT, TestDatabase, binary::Serve, client::Wire, proxy::Proxy, wait::eventually,
};

const FORMATS: [&str; 2] = ["text", "json"];

/// A server that logs in a format all that it can.
fn talkative(database: &TestDatabase, format: &str) -> Serve {
    Serve::start(&database.options, &[("LOG_FORMAT", format), ("RUST_LOG", "info,payonce=trace")])
}

/// Sends a request with these header lines, and returns its answer's body.
async fn send(serve: &Serve, request: &str, headers: &str, body: &str) -> String {
    let mut wire = Wire::connect(serve.address).await;
    let length = body.len();
    wire.send(format!(
        "{request} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}"
    ))
    .await;
    wire.answer().await.map_or_else(String::new, |(_, body)| body)
}

async fn pay(serve: &Serve, key: &str, body: &str) -> String {
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

/// The lines with this in it, once there are as many.
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
async fn all_lines_of_a_request_are_found_by_the_instance_of_its_problem() {
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
async fn what_became_of_a_key_is_found_by_its_hash() {
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
async fn what_a_request_came_to_is_called_as_in_the_metrics() {
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
        // Four of these have a line for their problem, too.
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
async fn nothing_is_said_of_what_is_not_known() {
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
async fn only_problems_are_logged_where_nothing_more_is_asked_for() {
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
async fn each_json_line_is_an_object_and_says_when() {
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

/// Whatever comes, well-formed or not, all of it with something in it that is nobody's business.
async fn exchange_secrets(serve: &Serve, database: &TestDatabase, proxy: &Proxy) {
    let json = "Content-Type: application/json\r\nIdempotency-Key: se-cret-key\r\n";
    let secret = r#"{"user_id":"se-cret-user","amount":48151623,"currency":"EUR"}"#;
    let paid: Value = serde_json::from_str(&pay(serve, "se-cret-key", secret).await).unwrap();
    let payment = format!("/payment/{}", paid["transaction_id"].as_str().unwrap());
    let refund = format!("POST {payment}/refund");
    for (key, body) in
        [("se-cret-refund", r#"{"amount":1}"#), ("se-cret-no", r#"{"amount":48151623}"#)]
    {
        let headers = format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n");
        for _ in 0..2 {
            send(serve, &refund, &headers, body).await;
        }
    }
    for body in [
        r#"{"se-cret-member":1}"#,
        r#"{"user_id":"se-cret","amount":"48151623"}"#,
        r#"{"user_id":"se-cret"#,
        r#"{"user_id":"se-cret-other","amount":48151623}"#,
        "se-cret",
    ] {
        pay(serve, "se-cret-key", body).await;
    }
    let long = format!(
        "Content-Type: application/json\r\nIdempotency-Key: se-cret{}\r\n",
        "x".repeat(300)
    );
    for (request, headers) in [
        ("GET /payment?user_id=se-cret-user&limit=1", ""),
        ("GET /payment?cursor=se-cret&se-cret=1", ""),
        ("GET /payment/se-cret?se-cret=1", ""),
        ("GET /se-cret/path", "X-Request-Id: se-cret with spaces\r\n"),
        ("DELETE /payment?se-cret", "Cookie: se-cret\r\n"),
        ("GET /idempotency-key", "Idempotency-Key: se-cret-key\r\n"),
        ("POST /idempotency-key/void", "Idempotency-Key: se-cret-void\r\n"),
        ("POST /payment", &long),
        ("POST /payment", "Content-Type: text/se-cret\r\nIdempotency-Key: \"se-cret\r\n"),
        ("GET /payment", "Authorization: Basic se-cret\r\n"),
        ("GET /payment", "Authorization: Bearer payonce_se-cret\r\n"),
        ("GET /payment", "Authorization: Bearer se-cret\r\nAuthorization: Bearer se-cret\r\n"),
        ("GET /payment?se-cret", json),
    ] {
        send(serve, request, headers, "").await;
    }
    let headers = "Content-Type: application/json\r\nIdempotency-Key: se-cret-void\r\n";
    send(serve, "POST /payment", headers, secret).await;
    // What PostgreSQL itself says of rows, of connections, and while it is away.
    database
        .execute("ALTER TABLE payments ADD CONSTRAINT few CHECK (amount < 1000) NOT VALID")
        .await;
    pay(serve, "se-cret-refused", secret).await;
    database
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()")
        .await;
    pay(serve, "se-cret-after", r#"{"user_id":"se-cret-user","amount":815}"#).await;
    proxy.freeze_all();
    pay(serve, "se-cret-frozen", r#"{"user_id":"se-cret-user","amount":815}"#).await;
    // Nobody listens there.
    proxy.redirect(&database.options.clone().host("127.0.0.1").port(1)).await;
    proxy.cut_all();
    tokio::join!(
        pay(serve, "se-cret-away", r#"{"user_id":"se-cret-user","amount":815}"#),
        send(serve, "GET /payment?user_id=se-cret-user", "", ""),
        send(serve, "GET /idempotency-key", "Idempotency-Key: se-cret-key\r\n", ""),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_secret_is_logged_whatever_happens() {
    for format in FORMATS {
        let database = TestDatabase::create().await;
        let proxy = Proxy::start(&database.options).await;
        let variables = [
            ("LOG_FORMAT", format),
            ("RUST_LOG", "info,payonce=trace"),
            ("REQUEST_DEADLINE", "2s"),
            ("IN_FLIGHT_WAIT", "500ms"),
        ];
        let mut serve = Serve::start(&proxy.through(&database.options), &variables);
        exchange_secrets(&serve, &database, &proxy).await;

        let mut serve_with_key = talkative(&database, format);
        let key = database.create_api_key("default");
        let key = key["api_key"].as_str().unwrap();
        for shown in [key, &key[..70], &key.replace('a', "b")] {
            send(
                &serve_with_key,
                "GET /payment",
                &format!("Authorization: Bearer {shown}\r\n"),
                "",
            )
            .await;
        }
        // A run goes on to its end: what is said at the end counts, too.
        for server in [&mut serve, &mut serve_with_key] {
            server.signal("TERM");
            let (_, log) = server.wait();
            assert!(log.contains("answered") && log.contains("stopped"), "{log}");
            for secret in ["se-cret", "48151623", "cursor", &key[8..40]] {
                assert!(!log.contains(secret), "{format}: {secret:?} in {log}");
            }
        }
        let log = serve.log();
        for happened in [
            "reused",
            "voided",
            "refund-refused",
            "malformed-json",
            "unauthorized",
            "lost the connection",
            "database-unavailable",
        ] {
            assert!(log.contains(happened), "{happened:?} is not in {log}");
        }
    }
}
