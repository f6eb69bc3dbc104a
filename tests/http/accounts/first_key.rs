//! The first API key ends anonymous access permanently.

use std::time::{Duration, Instant};

use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::{payonce, run, url},
    client::Response,
    wait::{last_accepted, until},
};
use reqwest::Method;
use sqlx::raw_sql;

use crate::accounts::anonymous::assert_refused;

/// Every server knows the first key within this time.
const WITHIN: Duration = Duration::from_secs(5);

/// The command waits until all requests have met their deadline.
const SHORT_DEADLINE: [(&str, &str); 2] = [("REQUEST_DEADLINE", "1s"), ("IN_FLIGHT_WAIT", "500ms")];

async fn get(server: &TestServer, headers: &[(&str, &str)]) -> Response {
    server.request(Method::GET, "/payment/x", headers, "").await
}

#[tokio::test]
async fn the_first_api_key_ends_anonymous_access_permanently_at_every_server() {
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
        // Neither revoking nor deleting the last key opens access again, also at a new server.
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
async fn statements_that_create_no_api_key_leave_anonymous_access_open() {
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
async fn the_first_api_key_must_belong_to_the_default_account_while_anonymous_requests_can_be_repeated()
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
    assert!(refused.field("detail").contains("key of that account"), "{}", refused.body);
    assert!(!refused.body.contains("not used"), "{}", refused.body);
    let api_key = stdout.lines().find(|line| line.starts_with("payonce_")).unwrap();
    let replayed = server.showing(&format!("Bearer {api_key}")).pay("k", PAYMENT).await;
    assert_eq!((replayed.status, replayed.field("transaction_id")), (200, payment));
    // The second key is not the first.
    assert_eq!(create(&["--account", "ada"]).0, 0);
}

#[tokio::test]
async fn the_first_api_key_may_belong_to_any_account_if_nothing_can_be_repeated() {
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
        create.envs(SHORT_DEADLINE);
        let (code, _, stderr) = run(&mut create);
        assert_eq!(code, expected, "{age} {ttl} {flag}: {stderr}");
    }
}

#[tokio::test]
async fn creating_the_first_api_key_waits_for_requests_in_progress() {
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
async fn an_anonymous_payment_while_anonymous_calls_end_is_not_left_for_a_key_of_another_account() {
    let server = TestServer::start().await;
    let database = &server.database;
    database.operate(&["account", "create", "ada", "--json"]);
    let create = |account: &str| {
        let mut command = payonce(&["api-key", "create", "--name", "first", "--account", account]);
        command.env("DATABASE_URL", url(&database.options)).envs(SHORT_DEADLINE);
        command
    };
    let mut first = create("ada");
    let first = tokio::task::spawn_blocking(move || run(&mut first));
    let ended = async || database.number("SELECT changes FROM api_key_changes").await == 1;
    until("anonymous calls end", ended).await;
    assert_eq!(database.number("SELECT count(*) FROM api_keys").await, 0);
    // A server that has not heard of it yet.
    let late =
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
        VALUES ('00000000-0000-0000-0000-000000000000', 'k', gen_random_uuid(), 'pay', '')";
    database.execute(late).await;
    let (code, stdout, stderr) = first.await.unwrap();
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("executes it again"), "{stderr}");
    assert_eq!(database.number("SELECT count(*) FROM api_keys").await, 0);
    until("anonymous calls end", async || server.pay("n", PAYMENT).await.status == 401).await;

    let (code, _, stderr) = run(&mut create("ada"));
    assert!(code == 1 && stderr.contains("executes it again"), "it was not interrupted: {stderr}");
    assert_eq!(run(&mut create("default")).0, 0);
    assert_eq!(run(&mut create("ada")).0, 0);
}

#[tokio::test]
async fn every_manual_change_of_api_keys_is_noticed() {
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
async fn an_account_without_an_api_key_leaves_anonymous_access_open() {
    let server = TestServer::start().await;
    server.database.operate(&["account", "create", "ada", "--json"]);
    server.database.until_api_keys_are_read(1).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}
