//! API keys: who is let in, who isn't, and how soon.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce::accounts::ApiKey;
use reqwest::Method;
use sqlx::Connection;

use super::anonymous::last_accepted;
use crate::support::{
    PAYMENT, TestDatabase, TestServer,
    binary::{Serve, payonce, run, url},
    client::{Answer, Client, Wire},
    proxy::Proxy,
    wait::{pending_until_released, until},
};

const SECOND: Duration = Duration::from_secs(1);

/// What README promises of revoked keys.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// A problem without what is new in each one.
fn apart_from_instance(answer: &Answer) -> (u16, BTreeMap<String, String>, String) {
    let headers = answer.headers.iter().filter(|(name, _)| *name != "date");
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (answer.status, headers.collect(), answer.body.replace(&answer.member("instance"), ""))
}

fn bearer(key: &ApiKey) -> String {
    format!("Bearer {}", key.reveal())
}

fn assert_unauthorized(answer: &Answer, challenge: &str) {
    answer.assert_problem(401, "unauthorized");
    assert_eq!(answer.header("www-authenticate"), challenge);
}

const INVALID: &str = "Bearer error=\"invalid_token\"";

#[tokio::test]
async fn a_payment_is_taken_for_the_account_of_the_api_key() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let taken = ada.pay("k", PAYMENT).await;
    assert_eq!(taken.status, 201);
    assert_eq!(ada.get(taken.header("location")).await.status, 200);
    let of_ada = format!("SELECT count(*) FROM payments WHERE account_id = '{}'", ada.id);
    assert_eq!(server.database.number(&of_ada).await, 1);
}

#[tokio::test]
async fn an_api_key_is_accepted_from_the_moment_it_was_shown() {
    let server = TestServer::start().await;
    let other = server.another().await;
    for name in ["one", "two", "three"] {
        server.database.operate(&["account", "create", name, "--json"]);
        let key = server.database.create_api_key(name);
        let key = format!("Bearer {}", key["api_key"].as_str().unwrap());
        for server in [&server, &other] {
            assert_eq!(server.showing(&key).get("/payment/x").await.status, 404);
        }
    }
}

#[tokio::test]
async fn the_scheme_is_written_in_any_case() {
    let server = TestServer::start().await;
    let key = server.account("ada").await.api_key.clone();
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        let answer = server.showing(&format!("{scheme} {key}")).get("/payment/x").await;
        assert_eq!(answer.status, 404, "{scheme}");
    }
}

#[tokio::test]
async fn unknown_malformed_and_revoked_keys_are_answered_alike() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let revoked = ada.api_key.clone();
    server.database.revoke(&ada.api_key_id);
    wait_until_refused(&ada).await;
    let unknown = ApiKey::generate().unwrap();
    let unknown = unknown.reveal();
    let mut answers = Vec::new();
    for key in [
        unknown,
        &revoked,
        &revoked[..79],
        &format!("{revoked}0"),
        "payonce_",
        "secret",
        "a b",
        "caf\u{e9}",
    ] {
        let client = server.showing(&format!("Bearer {key}"));
        for answer in [client.pay("k", PAYMENT).await, client.get("/payment/x").await] {
            assert_unauthorized(&answer, INVALID);
            assert!(!answer.body.contains(key), "{}", answer.body);
        }
        answers.push(client.get("/payment/x").await);
    }
    for answer in &answers {
        assert_eq!(apart_from_instance(answer), apart_from_instance(&answers[0]));
    }
    let mut wire = server.wire().await;
    wire.send(format!(
        "GET /payment/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {unknown}\r\n\
         Authorization: Bearer {unknown}\r\n\r\n"
    ))
    .await;
    let (head, _) = wire.answer().await.unwrap();
    assert!(head.starts_with("http/1.1 401") && head.contains("invalid_token"), "{head}");
}

#[tokio::test]
async fn where_no_key_was_shown_the_answer_says_how_to_show_one() {
    let server = TestServer::start().await;
    server.account("ada").await;
    let basic = server.showing("Basic YTpi");
    let nothing = server.showing("Bearer");
    let answers = [
        server.get("/payment/x").await,
        basic.get("/payment/x").await,
        nothing.get("/payment/x").await,
    ];
    for answer in answers {
        // RFC 6750 §3.1: no error code where no token was sent.
        assert_unauthorized(&answer, "Bearer");
        assert!(answer.member("detail").contains("Authorization: Bearer"), "{}", answer.body);
    }
}

#[tokio::test]
async fn who_is_calling_is_asked_after_the_route_and_before_everything_else() {
    let server = TestServer::start().await;
    server.account("ada").await;
    let wrong = server.showing("Bearer wrong");
    for client in [&wrong, &server.showing("Basic YTpi")] {
        client.get("/nowhere").await.assert_problem(404, "not-found");
        let answer = client.request(Method::DELETE, "/payment", &[], "").await;
        answer.assert_problem(405, "method-not-allowed");
        for (headers, body) in [
            (&[("content-type", "text/plain")][..], PAYMENT),
            (&[("content-type", "application/json")], PAYMENT),
            (&[("content-type", "application/json"), ("idempotency-key", "a b")], PAYMENT),
            (&[("content-type", "application/json"), ("idempotency-key", "k")], "{"),
            (
                &[("content-type", "application/json"), ("idempotency-key", "k")],
                &" ".repeat(20_000),
            ),
        ] {
            let answer = client.request(Method::POST, "/payment", headers, body).await;
            answer.assert_problem(401, "unauthorized");
        }
    }
    assert_eq!(wrong.pay("\"order-7\"", PAYMENT).await.header("idempotency-key"), "\"order-7\"");
}

#[tokio::test]
async fn what_is_nobodys_needs_no_api_key() {
    let server = TestServer::start().await;
    server.account("ada").await;
    for client in [server.showing("Bearer wrong"), server.showing("Basic YTpi")] {
        for path in ["/health/live", "/health/ready", "/problems/unauthorized"] {
            assert_eq!((client.get(path).await.status, server.get(path).await.status), (200, 200));
        }
    }
}

#[tokio::test]
async fn a_request_that_is_refused_for_its_key_leaves_its_connection_usable() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let mut wire = server.wire().await;
    let json = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    for wrong in ["wrong", ApiKey::generate().unwrap().reveal()] {
        let head = format!("Authorization: Bearer {wrong}\r\n{json}");
        wire.send_payment(&head, &" ".repeat(16_000)).await;
        assert_eq!(wire.status().await, 401);
    }
    wire.send_payment(&format!("Authorization: Bearer {}\r\n{json}", ada.api_key), PAYMENT).await;
    assert_eq!(wire.status().await, 201);
}

/// Calls until the key is refused, and returns how late it was accepted the last time.
async fn wait_until_refused(client: &Client) -> Duration {
    last_accepted(Instant::now(), async || {
        let answer = client.get("/payment/x").await;
        if answer.status != 404 {
            assert_unauthorized(&answer, INVALID);
        }
        answer.status == 404
    })
    .await
}

#[tokio::test]
async fn a_revoked_key_is_refused_by_every_server_within_the_promised_time() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    assert_eq!(ada.at(&other).get("/payment/x").await.status, 404);
    server.database.revoke(&ada.api_key_id);
    let there = ada.at(&other);
    let (here, there) = tokio::join!(wait_until_refused(&ada), wait_until_refused(&there));
    assert!(here < REVOKED_WITHIN && there < REVOKED_WITHIN, "{here:?} {there:?}");
    // As is one that was revoked by hand.
    assert_eq!(bob.get("/payment/x").await.status, 404);
    server.database.execute("UPDATE api_keys SET revoked_at = now()").await;
    assert!(wait_until_refused(&bob).await < REVOKED_WITHIN);
}

#[tokio::test]
async fn a_key_that_is_revoked_while_triggers_are_off_is_refused() {
    let server = TestServer::start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    // As dumps are restored, and as replication applies changes.
    let replica = "SET session_replication_role = replica; UPDATE api_keys SET revoked_at = now()";
    server.database.execute(&format!("{replica} WHERE api_key_id = '{}'", ada.api_key_id)).await;
    assert!(wait_until_refused(&ada).await < REVOKED_WITHIN);
    // Logical replication fires no statement trigger at all.
    let silent = "ALTER TABLE api_keys DISABLE TRIGGER ALL; UPDATE api_keys SET revoked_at = now()";
    server.database.execute(silent).await;
    wait_until_refused(&bob).await;
}

#[tokio::test]
async fn anonymous_calls_end_with_a_key_that_is_inserted_while_triggers_are_off() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/payment/x").await.status, 404);
    let restore = "SET session_replication_role = replica; ALTER TABLE api_keys DISABLE TRIGGER ALL;
        INSERT INTO api_keys (api_key_id, account_id, name, hash, ending, revoked_at)
        VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'restored', sha256('x'), 'abcd', now())";
    server.database.execute(restore).await;
    until("anonymous calls end", async || server.get("/payment/x").await.status == 401).await;
}

#[tokio::test]
async fn another_key_of_the_account_outlives_a_revoked_one() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let second = server.database.create_api_key("ada");
    let second = server.showing(&format!("Bearer {}", second["api_key"].as_str().unwrap()));
    let taken = ada.pay("k", PAYMENT).await;
    server.database.revoke(&ada.api_key_id);
    wait_until_refused(&ada).await;
    assert_eq!(second.pay("k", PAYMENT).await.body, taken.body);
}

#[tokio::test]
async fn while_the_database_is_away_a_known_key_is_accepted_so_long_and_no_key_is_called_wrong() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let through = proxy.through(&database.options);
    let server =
        TestServer::start_through(&database, &through, &["--request-deadline", "2m"]).await;
    let ada = server.account("ada").await;
    let nowhere = database.options.clone().port(1);
    proxy.redirect(&nowhere).await;
    proxy.cut_all();
    let away = Instant::now();

    // An id that is no UUID needs no database: whether it is found tells whether the key was accepted.
    assert_eq!(ada.get("/payment/x").await.status, 404);
    let unknown = ApiKey::generate().unwrap();
    let (answer, took) = {
        let begun = Instant::now();
        (server.showing(&bearer(&unknown)).get("/payment/x").await, begun.elapsed())
    };
    answer.assert_problem(503, "database-unavailable");
    assert!(took < 30 * SECOND, "it waited for the deadline: {took:?}");
    assert_unauthorized(&server.showing("Bearer malformed").get("/payment/x").await, INVALID);

    let last = last_accepted(away, async || ada.get("/payment/x").await.status == 404).await;
    assert!(last < REVOKED_WITHIN, "accepted after {last:?}");
    ada.get("/payment/x").await.assert_problem(503, "database-unavailable");

    proxy.redirect(&database.options).await;
    until("the key is accepted", async || ada.get("/payment/x").await.status == 404).await;
    assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
    assert_unauthorized(&server.showing(&bearer(&unknown)).get("/payment/x").await, INVALID);
}

#[tokio::test]
async fn a_connection_that_falls_silent_costs_no_known_key_its_access() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(&database, &proxy.through(&database.options), &[]).await;
    let ada = server.account("ada").await;
    proxy.freeze_all();
    let begun = Instant::now();
    while begun.elapsed() < REVOKED_WITHIN + SECOND {
        assert_eq!(ada.get("/payment/x").await.status, 404, "after {:?}", begun.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn after_a_failover_the_keys_are_read_again() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(&database, &proxy.through(&database.options), &[]).await;
    let ada = server.account("ada").await;
    // As many changes there, and another key is valid.
    let standby =
        "UPDATE api_keys SET hash = sha256('old'); UPDATE api_key_changes SET changes = 1";
    database.execute(standby).await;
    proxy.cut_all();
    assert!(wait_until_refused(&ada).await < REVOKED_WITHIN);
}

#[tokio::test]
async fn a_flood_of_made_up_keys_costs_few_looks_at_the_database() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    // A sequential scan of this table of one row is a look at it. What statistics say, they say late.
    let looks = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'api_key_changes'";
    tokio::time::sleep(2 * SECOND).await;
    let connections_before = server.database.other_clients().await;
    let looks_before = server.database.number(looks).await;
    let begun = Instant::now();
    let flood = async {
        for _ in 0..10 {
            let answers = join_all((0..200).map(|_| async {
                let header = bearer(&ApiKey::generate().unwrap());
                server.request(Method::GET, "/payment/x", &[("authorization", &header)], "").await
            }));
            for answer in answers.await {
                assert_unauthorized(&answer, INVALID);
            }
        }
    };
    let known = async {
        for number in 0..20 {
            assert_eq!(ada.pay(&format!("k-{number}"), PAYMENT).await.status, 201);
        }
    };
    tokio::join!(flood, known);
    let took = begun.elapsed();
    tokio::time::sleep(2 * SECOND).await;
    let looked = server.database.number(looks).await - looks_before;
    // Twenty a second, and those before and after.
    let bound = 20 * i64::try_from(took.as_secs() + 1).unwrap() + 10;
    assert!((1..=bound).contains(&looked), "{looked} looks in {took:?} for 2000 keys");
    server.database.until_other_clients_are(connections_before).await;
}

#[tokio::test]
async fn a_known_key_is_accepted_while_an_unknown_one_is_looked_up() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let mut holder = server.database.connect().await;
    sqlx::raw_sql("BEGIN; LOCK TABLE api_key_changes").execute(&mut holder).await.unwrap();
    let unknown = server.showing(&bearer(&ApiKey::generate().unwrap()));
    let (answer, ()) = pending_until_released(
        unknown.get("/payment/x"),
        async {
            server.database.until_locks_are_waited_for(1).await;
            assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
        },
        async { holder.close().await.unwrap() },
    )
    .await;
    assert_unauthorized(&answer, INVALID);
}

#[tokio::test]
async fn when_a_key_was_used_last_is_noted_and_not_at_each_request() {
    let mut server = TestServer::start().await;
    let ada = server.account("ada").await;
    for number in 0..20 {
        assert_eq!(ada.pay(&format!("k-{number}"), PAYMENT).await.status, 201);
    }
    // Another key that nobody uses; the server reads all keys again meanwhile, which forgets no use.
    server.database.create_api_key("default");
    let unknown = server.showing(&bearer(&ApiKey::generate().unwrap()));
    assert_unauthorized(&unknown.get("/payment/x").await, INVALID);
    let noted = "SELECT count(*) FROM api_keys WHERE last_used_at IS NOT NULL";
    assert_eq!(server.database.number(noted).await, 0);
    let id = ada.api_key_id.clone();
    drop((ada, unknown));
    server.stop();
    let recently =
        format!("{noted} AND api_key_id = '{id}' AND last_used_at > now() - interval '1 minute'");
    assert_eq!(server.database.number(&recently).await, 1);
    assert_eq!(server.database.number(noted).await, 1);
    let changes = "SELECT changes FROM api_key_changes";
    assert_eq!(server.database.number(changes).await, 2, "a use is no change");
}

#[tokio::test]
async fn noting_the_use_of_keys_waits_for_nobody() {
    let mut server = TestServer::start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    // As another server does that notes the same.
    let mut holder = server.database.connect().await;
    let hold =
        format!("BEGIN; SELECT FROM api_keys WHERE api_key_id = '{}' FOR UPDATE", ada.api_key_id);
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
    let of_bob = bob.api_key_id.clone();
    drop((ada, bob));
    server.stop();
    let noted = "SELECT array_agg(api_key_id::text) FROM api_keys WHERE last_used_at IS NOT NULL";
    assert_eq!(server.database.value::<Vec<String>>(noted).await, [of_bob]);
}

#[tokio::test]
async fn a_server_knows_as_many_keys_as_there_may_be_and_no_more_can_be_made() {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "INSERT INTO api_keys (api_key_id, account_id, name, hash, ending)
             SELECT gen_random_uuid(), '00000000-0000-0000-0000-000000000000', 'key ' || i,
                    sha256(i::text::bytea), 'xxxx'
             FROM generate_series(1, 99999) AS i",
        )
        .await;
    let server = TestServer::start_on(&database, &[]).await;
    let last = database.create_api_key("default");
    let last = server.showing(&format!("Bearer {}", last["api_key"].as_str().unwrap()));
    assert_eq!(last.get("/payment/x").await.status, 404);
    let mut create = payonce(&["api-key", "create", "--name", "one more"]);
    let (code, stdout, stderr) = run(create.env("DATABASE_URL", url(&database.options)));
    assert!(code == 1 && stdout.is_empty() && stderr.contains("revoke some"), "{stderr}");
}

#[tokio::test]
async fn an_api_key_stands_in_no_log() {
    let database = TestDatabase::create().await;
    let variables = [("RUST_LOG", "trace,sqlx=warn,mio=warn,actix_http=warn")];
    let mut serve = Serve::start(&database.options, &variables);
    let key = database.create_api_key("default");
    let key = key["api_key"].as_str().unwrap();
    let unknown = ApiKey::generate().unwrap();
    let mut wire = Wire::connect(serve.address).await;
    for (key, status) in [(key, 201), (unknown.reveal(), 401), ("payonce_malformed", 401)] {
        let head = format!(
            "Authorization: Bearer {key}\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        );
        wire.send_payment(&head, PAYMENT).await;
        assert_eq!(wire.status().await, status);
    }
    let log = serve.wait_for("unauthorized method=POST route=/payment");
    for secret in [&key[8..30], &unknown.reveal()[8..30], "malformed"] {
        assert!(!log.contains(secret), "{log}");
    }
}
