//! Migrations, and the tables that they create.

use std::sync::Arc;

use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::{payonce, run, url},
};
use reqwest::Method;

/// Rows as they are stored: the fingerprint, header and body formats must stay readable.
const STORED: &str = r#"
    INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint, created_at) VALUES
        ('00000000-0000-0000-0000-000000000000', 'stored', '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', 'pay',
         '\x018cdb4ce465d76012ff40bf75f3433b2af7302e7401f13042', '2026-11-24T03:17:27Z'),
        ('00000000-0000-0000-0000-000000000000', 'expired', '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b1', 'pay',
         '\x018cdb4ce465d76012ff40bf75f3433b2af7302e7401f13042', '2026-11-24T03:17:27Z');
    INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until) VALUES
        ('00000000-0000-0000-0000-000000000000', '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', 201,
         E'location: /payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0\n',
         '{"status":"success","transaction_id":"01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0","user_id":"user_1","amount":100}',
         now() + interval '1 day');
    INSERT INTO payments (transaction_id, account_id, user_id, amount) VALUES
        ('01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', '00000000-0000-0000-0000-000000000000', 'user_1', 100),
        ('01a20b8e-f5ef-76cd-ab8e-bedcccfd17b1', '00000000-0000-0000-0000-000000000000', 'user_1', 100)
"#;

const STORED_ID: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// Migrations use such a connection: building an index takes longer than a request may.
#[tokio::test]
async fn a_maintenance_connection_has_no_statement_timeout() {
    let database = TestDatabase::create().await;
    database.set("statement_timeout = '5s'").await;
    let mut conn = payonce::db::connect(&database.options).await.unwrap();
    let limit: String =
        sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut conn).await.unwrap();
    assert_eq!(limit, "0");
}

#[tokio::test]
async fn a_database_with_migrations_of_another_program_is_refused() {
    let database = Arc::new(TestDatabase::create().await);
    let server = TestServer::start_on(&database, &[]).await;
    database.execute("UPDATE _sqlx_migrations SET checksum = 'another' WHERE version = 2").await;
    server.get("/health/ready").await.assert_problem(503, "database-unavailable");
    let database_url = url(&database.options);
    for (command, auto_migrate) in [
        (&["serve"][..], "true"),
        (&["serve"], "false"),
        (&["migrate"], "true"),
        (&["migrate", "--check"], "true"),
        (&["sweep"], "true"),
    ] {
        let mut command = payonce(command);
        command.env("DATABASE_URL", &database_url).env("AUTO_MIGRATE", auto_migrate);
        let (code, _, stderr) = run(&mut command);
        let refusal = "migration 2 of this database is not payonce's";
        assert!(code == 1 && stderr.contains(refusal), "{command:?}: {stderr}");
        assert!(!stderr.contains("AUTO_MIGRATE"), "{command:?}: {stderr}");
    }
}

#[test]
fn the_layers_migrations_are_the_same_files_in_crate_and_server() {
    assert_eq!(
        include_str!("../../../crates/idempotency/migrations/0001_idempotency.sql"),
        include_str!("../../../migrations/0001_idempotency.sql")
    );
    assert_eq!(
        include_str!("../../../crates/idempotency/migrations/0002_announcements.sql"),
        include_str!("../../../migrations/0005_announcements.sql")
    );
}

#[tokio::test]
async fn the_primary_key_of_every_table_that_grows_with_payments_contains_the_account() {
    let database = TestDatabase::create_plain().await;
    let keys = "SELECT string_agg(format('%s %s', conrelid::regclass, pg_get_constraintdef(oid)), E'\n'
                                  ORDER BY conrelid::regclass::text)
                FROM pg_constraint
                WHERE contype = 'p' AND connamespace = 'public'::regnamespace
                  AND conrelid::regclass::text NOT IN ('_sqlx_migrations', 'accounts', 'api_keys', 'api_key_changes', 'event_feed')";
    assert_eq!(
        database.value::<String>(keys).await,
        "event_runs PRIMARY KEY (account_id, first_position)\n\
         idempotency_keys PRIMARY KEY (key, account_id)\n\
         idempotency_responses PRIMARY KEY (execution_id, account_id)\n\
         payments PRIMARY KEY (account_id, transaction_id)\n\
         refunds PRIMARY KEY (account_id, refund_id)\n\
         webhook_endpoints PRIMARY KEY (account_id, endpoint_id)\n\
         webhook_failures PRIMARY KEY (account_id, endpoint_id, \"position\")\n\
         webhook_progress PRIMARY KEY (account_id, endpoint_id, replay, number)"
    );
}

#[tokio::test]
async fn stored_keys_payments_and_responses_stay_readable() {
    let database = Arc::new(TestDatabase::create().await);
    database.execute(STORED).await;
    let server = TestServer::start_on(&database, &[]).await;
    let replay = server.pay("stored", PAYMENT).await;
    assert_eq!((replay.status, replay.header("idempotent-replayed")), (200, "true"));
    assert_eq!(
        replay.body,
        format!(
            r#"{{"status":"success","transaction_id":"{STORED_ID}","user_id":"user_1","amount":100}}"#
        )
    );
    let named =
        server.pay("stored", r#"{"user_id": "user_1", "amount": 100, "currency": "USD"}"#).await;
    named.assert_problem(422, "idempotency-key-reused");
    assert_eq!(named.field("members"), r#"["currency"]"#);
    server.pay("expired", PAYMENT).await.assert_problem(410, "idempotency-key-expired");

    let shown = server.get(&format!("/payment/{STORED_ID}")).await;
    assert_eq!((shown.field("currency").as_str(), shown.field("refunded").as_str()), ("USD", "0"));
    assert_eq!(server.refund(STORED_ID, "refund", r#"{"amount": 99}"#).await.status, 201);
    assert_eq!(server.refund(STORED_ID, "too-much", r#"{"amount": 2}"#).await.status, 402);
    let listed = server.get("/payment?user_id=user_1").await.json();
    assert_eq!(listed["payments"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_currency_in_the_table_has_three_capital_letters() {
    let database = TestDatabase::create().await;
    database.execute(STORED).await;
    let mut conn = database.connect().await;
    for (currency, accepted) in [
        ("EUR", true),
        ("AAA", true),
        ("ZZZ", true),
        ("eur", false),
        ("EU", false),
        ("EURO", false),
        ("978", false),
        ("", false),
    ] {
        let set = sqlx::query("UPDATE payments SET currency = $1").bind(currency);
        assert_eq!(set.execute(&mut conn).await.is_ok(), accepted, "{currency:?}");
    }
}

#[tokio::test]
async fn a_running_server_survives_a_migration_that_changes_column_types() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    for precision in 3..6 {
        let new = format!("pay-{precision}");
        assert_eq!(server.pay(&new, PAYMENT).await.status, 201);
        assert_eq!(server.pay(&new, PAYMENT).await.status, 200);
        let refund = format!("refund-{precision}");
        assert_eq!(server.refund(&payment, &refund, r#"{"amount": 1}"#).await.status, 201);
        for path in [&format!("/payment/{payment}"), "/payment", "/payment?user_id=user_1"] {
            let shown = server.get(path).await;
            assert_eq!(shown.status, 200, "{path}: {}", shown.body);
        }
        let asked = [("idempotency-key", new.as_str())];
        let asked = server.request(Method::GET, "/idempotency-key", &asked, "").await;
        assert_eq!(asked.status, 200, "{}", asked.body);
        // Statements that were prepared above return other types from now on.
        for column in [
            "idempotency_keys ALTER created_at",
            "idempotency_responses ALTER replayable_until",
            "payments ALTER created_at",
            "refunds ALTER created_at",
        ] {
            let alter = format!("ALTER TABLE {column} TYPE timestamptz({precision})");
            server.database.execute(&alter).await;
        }
    }
}

#[tokio::test]
async fn time_ordered_keys_go_to_one_end_of_the_index() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
             SELECT md5((n % 1000)::text)::uuid, 'a-key-in-order-of-time-' || lpad(n::text, 13, '0'), gen_random_uuid(), 'pay', ''
             FROM generate_series(1, 50000) AS n",
        )
        .await;
    // An entry takes 44 bytes. Pages that fill in order are left 90 % full, others two thirds.
    let bytes = database.number("SELECT pg_relation_size('idempotency_keys_pkey')").await;
    assert!((68 * 50_000..80 * 50_000).contains(&bytes), "{bytes}");
}

#[tokio::test]
async fn time_ordered_responses_go_to_one_end_of_the_index() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body)
             SELECT md5((n % 1000)::text)::uuid, lpad(to_hex(n), 32, '0')::uuid, 201, '', ''
             FROM generate_series(1, 50000) AS n",
        )
        .await;
    // An entry takes 44 bytes. Pages that fill in order are left 90 % full, others two thirds.
    let bytes = database.number("SELECT pg_relation_size('idempotency_responses_pkey')").await;
    assert!((44 * 50_000..52 * 50_000).contains(&bytes), "{bytes}");
}
