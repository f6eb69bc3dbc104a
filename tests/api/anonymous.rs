//! Calls without an API key: on a new installation, and never by accident.

use std::time::{Duration, Instant};

use reqwest::Method;
use sqlx::raw_sql;

use crate::support::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    binary::{Serve, payonce, run, url},
    client::{Answer, Wire},
    wait::until,
};

/// What README promises of the first key.
const WITHIN: Duration = Duration::from_secs(5);

async fn get(server: &TestServer, headers: &[(&str, &str)]) -> Answer {
    server.request(Method::GET, "/payment/x", headers, "").await
}

/// Waits until calls are refused, and returns when the last call began that was accepted. How long a call
/// takes on a busy machine makes no difference.
pub(crate) async fn last_accepted(
    begun: Instant,
    mut accepted: impl AsyncFnMut() -> bool,
) -> Duration {
    let mut last = Duration::ZERO;
    until("calls are refused", async || {
        let sent = begun.elapsed();
        let accepted = accepted().await;
        if accepted {
            last = sent;
        }
        !accepted
    })
    .await;
    last
}

/// Asserts that the call was refused because it was anonymous, and that the answer says why.
#[track_caller]
fn assert_refused(answer: &Answer, why: &str) {
    answer.assert_problem(401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), "Bearer");
    let detail = answer.member("detail");
    assert!(detail.contains(why) && detail.contains("payonce api-key create"), "{detail}");
}

#[tokio::test]
async fn anonymous_calls_act_for_the_default_account() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    assert_eq!(taken.status, 201);
    let key = server.database.create_api_key("default");
    let client = server.showing(&format!("Bearer {}", key["api_key"].as_str().unwrap()));
    assert_eq!(client.pay("k", PAYMENT).await.body, taken.body);
    assert_eq!(client.get(taken.header("location")).await.status, 200);
}

#[tokio::test]
async fn anonymous_calls_end_with_the_first_api_key_at_every_server_and_for_good() {
    for flags in [&[][..], &["--anonymous-access", "true"]] {
        let server = TestServer::start_with(flags).await;
        let other = TestServer::start_on(&server.database, flags).await;
        assert_eq!((get(&server, &[]).await.status, get(&other, &[]).await.status), (404, 404));
        let ada = server.account("ada").await;
        let begun = Instant::now();
        for server in [&server, &other] {
            let last = last_accepted(begun, async || get(server, &[]).await.status == 404).await;
            assert!(last < WITHIN, "{last:?}");
            assert_refused(&get(server, &[]).await, "ended permanently");
        }
        // Revoking the last key doesn't open the door again; nor does deleting it, or a new server.
        server.database.revoke(&ada.api_key_id);
        let begun = Instant::now();
        let accepted = async || ada.get("/payment/x").await.status == 404;
        assert!(last_accepted(begun, accepted).await < WITHIN);
        server.database.execute("DELETE FROM api_keys").await;
        let third = TestServer::start_on(&server.database, flags).await;
        server.database.until_api_keys_are_read(3).await;
        for server in [&server, &other, &third] {
            assert_refused(&server.pay("k", PAYMENT).await, "ended permanently");
            assert_refused(&get(server, &[]).await, "ended permanently");
        }
    }
}

#[tokio::test]
async fn what_changes_no_api_key_where_there_has_never_been_one_ends_nothing() {
    let server = TestServer::start().await;
    let database = &server.database;
    let on_it =
        |arguments: &[&str]| run(payonce(arguments).env("DATABASE_URL", url(&database.options)));
    let nobody = "00000000-0000-0000-0000-000000000000";
    let (code, _, stderr) = on_it(&["api-key", "revoke", nobody]);
    assert!(code == 1 && stderr.contains("no API key with the id"), "{stderr}");
    for by_hand in [
        "INSERT INTO api_keys SELECT * FROM api_keys",
        "UPDATE api_keys SET revoked_at = now()",
        "DELETE FROM api_keys",
        "TRUNCATE api_keys",
    ] {
        database.execute(by_hand).await;
    }
    assert_eq!(database.number("SELECT changes FROM api_key_changes").await, 0);
    database.until_api_keys_are_read(1).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    let (code, _, stderr) = on_it(&["api-key", "create", "--name", "first"]);
    assert!(code == 0 && stderr.contains("This is the first API key"), "{stderr}");
}

#[tokio::test]
async fn the_first_api_key_is_refused_to_another_account_while_anonymous_requests_may_be_repeated()
{
    let server = TestServer::start().await;
    let database = &server.database;
    database.operate(&["account", "create", "ada", "--json"]);
    let create = |arguments: &[&str]| {
        let mut command = payonce(&["api-key", "create", "--name", "first"]);
        run(command.args(arguments).env("DATABASE_URL", url(&database.options)))
    };
    // A voided key executed nothing.
    let key = [("idempotency-key", "voided")];
    assert_eq!(server.request(Method::POST, "/idempotency-key/void", &key, "").await.status, 200);
    let payment = server.paid("k", 100).await;
    let (code, stdout, stderr) = create(&["--account", "ada"]);
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    for part in ["executes it again", "--account default", "--abandon-anonymous-retries"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    assert_eq!(database.number("SELECT count(*) FROM api_keys").await, 0);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200, "anonymous calls go on");

    let (code, stdout, stderr) = create(&["--account", "default"]);
    assert_eq!(code, 0, "{stderr}");
    until("anonymous calls end", async || server.pay("k", PAYMENT).await.status == 401).await;
    let refused = server.pay("k", PAYMENT).await;
    assert!(refused.member("detail").contains("key of that account"), "{}", refused.body);
    assert!(!refused.body.contains("not used"), "{}", refused.body);
    let api_key = stdout.lines().find(|line| line.starts_with("payonce_")).unwrap();
    let replayed = server.showing(&format!("Bearer {api_key}")).pay("k", PAYMENT).await;
    assert_eq!((replayed.status, replayed.member("transaction_id")), (200, payment));
    // The second key is not the first.
    assert_eq!(create(&["--account", "ada"]).0, 0);
}

#[tokio::test]
async fn the_first_api_key_may_be_any_accounts_where_nothing_can_be_repeated() {
    for (age, ttl, flag, expected) in [
        ("1 hour", "2h", "", 1),
        ("3 hours", "2h", "", 0),
        ("3 hours", "never", "", 1),
        ("1 hour", "never", "--abandon-anonymous-retries", 0),
    ] {
        let server = TestServer::start().await;
        let database = &server.database;
        database.operate(&["account", "create", "ada", "--json"]);
        server.paid("k", 100).await;
        let past = format!("UPDATE idempotency_keys SET created_at = now() - interval '{age}'");
        database.execute(&past).await;
        let mut create = payonce(&["api-key", "create", "--name", "first", "--account", "ada"]);
        create.args(Some(flag).filter(|flag| !flag.is_empty()));
        create.env("DATABASE_URL", url(&database.options));
        create.env("IDEMPOTENCY_KEY_TTL", ttl).env("IDEMPOTENCY_RESPONSE_TTL", "1h");
        let (code, _, stderr) = run(&mut create);
        assert_eq!(code, expected, "{age} {ttl} {flag}: {stderr}");
    }
}

#[tokio::test]
async fn the_first_api_key_waits_for_requests_that_are_being_executed() {
    let database = TestDatabase::create().await;
    database.set("default_transaction_isolation = 'repeatable read'").await;
    database.operate(&["account", "create", "ada", "--json"]);
    let mut executing = database.connect().await;
    let claim = "BEGIN; INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
        VALUES ('00000000-0000-0000-0000-000000000000', 'k', gen_random_uuid(), 'pay', '')";
    raw_sql(claim).execute(&mut executing).await.unwrap();
    let options = url(&database.options);
    let create = tokio::task::spawn_blocking(move || {
        let create = ["api-key", "create", "--name", "first", "--account", "ada"];
        run(payonce(&create).env("DATABASE_URL", options))
    });
    database.until_locks_are_waited_for(1).await;
    raw_sql("COMMIT").execute(&mut executing).await.unwrap();
    let (code, _, stderr) = create.await.unwrap();
    assert!(code == 1 && stderr.contains("executes it again"), "{stderr}");
}

#[tokio::test]
async fn whatever_changes_api_keys_by_hand_is_noticed() {
    let database = TestDatabase::create().await;
    database.create_api_key("default");
    let mut before = 1;
    for by_hand in [
        "UPDATE api_keys SET revoked_at = now()",
        "UPDATE api_keys SET hash = sha256('other')",
        "UPDATE api_keys SET account_id = account_id",
        "INSERT INTO api_keys SELECT gen_random_uuid(), account_id, name, sha256('new'), ending FROM api_keys",
        "DELETE FROM api_keys",
        "INSERT INTO api_keys SELECT gen_random_uuid(), account_id, 'again', sha256('again'), 'gain' FROM accounts",
        "TRUNCATE api_keys",
    ] {
        database.execute(by_hand).await;
        let changes = database.number("SELECT changes FROM api_key_changes").await;
        assert!(changes > before, "{by_hand}");
        before = changes;
    }
}

#[tokio::test]
async fn an_account_without_an_api_key_ends_nothing() {
    let server = TestServer::start().await;
    server.database.operate(&["account", "create", "ada", "--json"]);
    server.database.until_api_keys_are_read(1).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn an_anonymous_call_names_this_machine() {
    let server = TestServer::start().await;
    for host in
        ["localhost", "localhost:5000", "LOCALHOST", "127.0.0.1", "127.9.9.9:1", "[::1]:5000"]
    {
        assert_eq!(get(&server, &[("host", host)]).await.status, 404, "{host}");
    }
    for host in ["example.org", "localhost.example.org:5000", "10.0.0.1", "0.0.0.0", "[::2]", ""] {
        let answer = get(&server, &[("host", host)]).await;
        assert_refused(&answer, "the Host header names something else");
    }
    for head in [
        "GET /payment/x HTTP/1.0\r\n",
        "GET http://example.org/payment/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET /payment/x HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n",
    ] {
        let mut wire = server.wire().await;
        wire.send(format!("{head}\r\n")).await;
        let status = wire.status().await;
        assert!([400, 401].contains(&status), "{head}: {status}");
    }
    assert_refused(
        &server
            .request(
                Method::POST,
                "/payment",
                &[
                    ("host", "example.org"),
                    ("content-type", "application/json"),
                    ("idempotency-key", "k"),
                ],
                PAYMENT,
            )
            .await,
        "the Host header",
    );
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn an_anonymous_call_comes_without_a_proxy_between() {
    let server = TestServer::start().await;
    for header in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "X-Forwarded-Anything",
        "via",
        "x-real-ip",
        "cf-connecting-ip",
        "True-Client-IP",
        "x-envoy-external-address",
    ] {
        assert_refused(&get(&server, &[(header, "127.0.0.1")]).await, "without a proxy between");
    }
}

#[tokio::test]
async fn nginx_as_it_comes_makes_no_anonymous_call() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(format!(
        "POST /payment HTTP/1.0\r\nHost: 127.0.0.1:5000\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: k\r\n\r\n{PAYMENT}",
        PAYMENT.len()
    ))
    .await;
    let (head, body) = wire.answer().await.unwrap();
    assert!(head.contains(" 401 ") && head.contains("www-authenticate: bearer"), "{head}");
    assert!(body.contains("came by HTTP/1.0") && body.contains("payonce api-key create"), "{body}");
    assert_eq!(server.database.payments().await, 0);
    // With a key it may be in between.
    let key = server.database.create_api_key("default");
    let mut wire = server.wire().await;
    let key = key["api_key"].as_str().unwrap();
    wire.send(format!(
        "GET /payment/x HTTP/1.0\r\nHost: 127.0.0.1:5000\r\nAuthorization: Bearer {key}\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.status().await, 404);
}

#[tokio::test]
async fn an_anonymous_call_comes_to_a_loopback_address() {
    for host in ["0.0.0.0", "::"] {
        let server = TestServer::start_with(&["--host", host]).await;
        let address = format!("127.0.0.1:{}", server.address.port());
        let mut wire = Wire::connect(address.parse().unwrap()).await;
        wire.send("GET /payment/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (head, body) = wire.answer().await.unwrap();
        assert!(head.starts_with("http/1.1 401"), "{host}: {head}");
        assert!(
            body.contains("HOST=127.0.0.1") && body.contains("ANONYMOUS_ACCESS=true"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn anonymous_calls_can_be_answered_wherever_they_come_from() {
    let server = TestServer::start_with(&["--host", "0.0.0.0", "--anonymous-access", "true"]).await;
    let mut wire =
        Wire::connect(format!("127.0.0.1:{}", server.address.port()).parse().unwrap()).await;
    wire.send_payment(
        "X-Forwarded-For: 192.0.2.1\r\nVia: 1.1 proxy\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n",
        PAYMENT,
    )
    .await;
    assert_eq!(wire.status().await, 201);
    wire.send("GET /payment/x HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    assert_eq!(wire.status().await, 404);
}

#[tokio::test]
async fn a_page_of_another_server_makes_no_anonymous_call() {
    for access in ["loopback", "true"] {
        let server = TestServer::start_with(&["--anonymous-access", access]).await;
        let port = server.address.port();
        let own = format!("127.0.0.1:{port}");
        let pay = async |host: &str, origins: &[&str]| {
            let headers =
                [("host", host), ("content-type", "application/json"), ("idempotency-key", "k")];
            let origins = origins.iter().map(|origin| ("origin", *origin));
            let headers: Vec<_> = headers.into_iter().chain(origins).collect();
            server.request(Method::POST, "/payment", &headers, PAYMENT).await
        };
        let of_own = format!("http://{own}");
        for origins in [
            &["http://example.org"][..],
            &["null"],
            &[""],
            &["http://127.0.0.1"],
            &["http://localhost:3000"],
            &[&own],
            &[&of_own, "http://example.org"],
        ] {
            assert_refused(&pay(&own, origins).await, "Origin header");
        }
        if access == "true" {
            // A name that its owner resolves to this server.
            let rebound = format!("example.org:{port}");
            let refused = pay(&rebound, &[&format!("http://{rebound}")]).await;
            assert_refused(&refused, "Origin header");
        }
        assert_eq!(server.database.payments().await, 0);
        // As /docs sends it.
        for host in [own, format!("localhost:{port}"), format!("[::1]:{port}")] {
            let answer = pay(&host, &[&format!("http://{host}")]).await;
            assert!(answer.status < 300, "{host}: {}", answer.body);
        }
        assert_eq!(server.database.payments().await, 1);
    }
}

#[tokio::test]
async fn a_page_of_another_server_may_call_with_an_api_key() {
    let server = TestServer::start().await;
    let key = server.database.create_api_key("default");
    let authorization = format!("Bearer {}", key["api_key"].as_str().unwrap());
    let headers = [("authorization", authorization.as_str()), ("origin", "http://example.org")];
    assert_eq!(get(&server, &headers).await.status, 404);
}

#[tokio::test]
async fn a_server_that_answers_everybody_warns_of_it_at_start() {
    let database = TestDatabase::create().await;
    let warning = "ANONYMOUS_ACCESS is true";
    Serve::start(&database.options, &[("ANONYMOUS_ACCESS", "true")]).wait_for(warning);
    let mut default = Serve::start(&database.options, &[]);
    default.wait_for("/docs");
    assert!(!default.log().contains(warning), "{}", default.log());
}

#[tokio::test]
async fn anonymous_calls_can_be_switched_off() {
    let server = TestServer::start_with(&["--anonymous-access", "false"]).await;
    assert_refused(&get(&server, &[]).await, "ANONYMOUS_ACCESS=false");
    assert_refused(&server.pay("k", PAYMENT).await, "ANONYMOUS_ACCESS=false");
    assert_refused(&server.refund("x", "k", REMAINING).await, "ANONYMOUS_ACCESS=false");
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_wrong_authorization_is_refused_where_none_would_be_accepted() {
    for access in ["loopback", "true"] {
        let server = TestServer::start_with(&["--anonymous-access", access]).await;
        for authorization in [
            "Bearer payonce_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f6c86c6aa",
            "Bearer wrong",
            "Bearer",
            "Basic YTpi",
            "",
        ] {
            let answer = get(&server, &[("authorization", authorization)]).await;
            answer.assert_problem(401, "unauthorized");
        }
        assert_eq!(get(&server, &[]).await.status, 404);
    }
}
