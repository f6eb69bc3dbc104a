//! The API keys that a server has in memory, also while the database is unreachable.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use payonce::accounts::ApiKey;
use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::{payonce, run, url},
    proxy::Proxy,
    wait::{last_accepted, pending_until_released, until},
};
use reqwest::Method;
use sqlx::Connection;

use crate::accounts::{api_keys::assert_unauthorized, revocation::wait_until_refused};

const SECOND: Duration = Duration::from_secs(1);

/// Every server refuses a revoked key within this time.
const REVOKED_WITHIN: Duration = Duration::from_secs(5);

fn bearer(key: &ApiKey) -> String {
    format!("Bearer {}", key.reveal())
}

const INVALID: &str = "Bearer error=\"invalid_token\"";

#[tokio::test]
async fn a_known_key_stays_valid_for_a_limited_time_while_the_database_is_unreachable() {
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

    // An id that is no UUID needs no database: 404 means that the API key was accepted.
    assert_eq!(ada.get("/payment/x").await.status, 404);
    let unknown = ApiKey::generate().unwrap();
    let (response, took) = {
        let begun = Instant::now();
        (server.showing(&bearer(&unknown)).get("/payment/x").await, begun.elapsed())
    };
    response.assert_problem(503, "database-unavailable");
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
async fn a_frozen_connection_makes_no_known_key_invalid() {
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
async fn keys_are_read_again_after_a_failover() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let server = TestServer::start_through(&database, &proxy.through(&database.options), &[]).await;
    let ada = server.account("ada").await;
    // A standby with the same number of changes, but other valid keys.
    let standby =
        "UPDATE api_keys SET hash = sha256('old'); UPDATE api_key_changes SET changes = 1";
    database.execute(standby).await;
    proxy.cut_all();
    assert!(wait_until_refused(&ada).await < REVOKED_WITHIN);
}

#[tokio::test]
async fn a_flood_of_unknown_keys_costs_few_queries() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    // Each query scans this table of one row. Statistics are updated with a delay.
    let looks = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'api_key_changes'";
    tokio::time::sleep(2 * SECOND).await;
    let connections_before = server.database.other_clients().await;
    let looks_before = server.database.number(looks).await;
    let begun = Instant::now();
    let flood = async {
        for _ in 0..10 {
            let responses = join_all((0..200).map(|_| async {
                let header = bearer(&ApiKey::generate().unwrap());
                server.request(Method::GET, "/payment/x", &[("authorization", &header)], "").await
            }));
            for response in responses.await {
                assert_unauthorized(&response, INVALID);
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
    // Twenty a second, plus those before and after.
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
    let (response, ()) = pending_until_released(
        unknown.get("/payment/x"),
        async {
            server.database.until_locks_are_waited_for(1).await;
            assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
        },
        async { holder.close().await.unwrap() },
    )
    .await;
    assert_unauthorized(&response, INVALID);
}

#[tokio::test]
async fn the_last_use_of_a_key_is_stored_but_not_with_each_request() {
    let mut server = TestServer::start().await;
    let ada = server.account("ada").await;
    for number in 0..20 {
        assert_eq!(ada.pay(&format!("k-{number}"), PAYMENT).await.status, 201);
    }
    // Another key makes the server read all keys again, which must not lose the recorded use.
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
async fn storing_the_last_use_waits_for_no_lock() {
    let mut server = TestServer::start().await;
    let (ada, bob) = (server.account("ada").await, server.account("bob").await);
    // As another server does when it stores the same.
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
async fn a_server_handles_the_maximum_number_of_keys_and_no_more_can_be_created() {
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
    // Reading all keys may exceed its time limit on a busy machine.
    until("the last key is accepted", async || last.get("/payment/x").await.status == 404).await;
    let mut create = payonce(&["api-key", "create", "--name", "one more"]);
    let (code, stdout, stderr) = run(create.env("DATABASE_URL", url(&database.options)));
    assert!(code == 1 && stdout.is_empty() && stderr.contains("revoke some"), "{stderr}");
}
