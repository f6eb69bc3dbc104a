//! No secret is logged.

use payonce_testing::{TestDatabase, binary::Serve, proxy::Proxy};
use serde_json::Value;

use crate::logs::requests::{pay, send, talkative};

const FORMATS: [&str; 2] = ["text", "json"];

/// All kinds of requests, valid and invalid, each with a secret.
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
    // Messages of PostgreSQL about rows and connections, and of its absence.
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
async fn no_secret_is_logged() {
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
        // The shutdown logs lines, too.
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
