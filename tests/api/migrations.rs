//! Upgrades: a database of the version before keeps everything that is in it.

use std::sync::Arc;

use reqwest::Method;
use sqlx::Executor;

use crate::support::{PAYMENT, REMAINING, TestDatabase, TestServer};

/// A payment and a refusal as the first version wrote them, with its fingerprints.
const OLD_DATA: &str = r#"
    INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint, created_at) VALUES
        ('00000000-0000-0000-0000-000000000000', 'old', '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', 'pay',
         '\x018cdb4ce465d76012ff40bf75f3433b2af7302e7401f13042', '2026-11-24T03:17:27Z'),
        ('00000000-0000-0000-0000-000000000000', 'expired', '01a20b8e-f5ef-76cd-ab8e-bedcccfd17b1', 'pay',
         '\x018cdb4ce465d76012ff40bf75f3433b2af7302e7401f13042', '2026-11-24T03:17:27Z');
    INSERT INTO idempotency_responses (execution_id, status, headers, body, replayable_until) VALUES
        ('01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', 201,
         E'location: /payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0\n',
         '{"status":"success","transaction_id":"01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0","user_id":"user_1","amount":100}',
         now() + interval '1 day');
    INSERT INTO payments (transaction_id, account_id, user_id, amount) VALUES
        ('01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0', '00000000-0000-0000-0000-000000000000', 'user_1', 100),
        ('01a20b8e-f5ef-76cd-ab8e-bedcccfd17b1', '00000000-0000-0000-0000-000000000000', 'user_1', 100)
"#;

const OLD_ID: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// A database as the first version left it.
async fn of_the_first_version() -> TestDatabase {
    let database = TestDatabase::create_of_version(2).await;
    database.execute(OLD_DATA).await;
    database
}

/// What migrates, too, has its connection from there: an index takes longer to build than a request may.
#[tokio::test]
async fn a_connection_besides_requests_has_no_statement_time_out_whatever_the_database_has() {
    let database = TestDatabase::create().await;
    database.set("statement_timeout = '5s'").await;
    let mut conn = payonce::database::connect(&database.options).await.unwrap();
    let limit: String =
        sqlx::query_scalar("SHOW statement_timeout").fetch_one(&mut conn).await.unwrap();
    assert_eq!(limit, "0");
}

#[tokio::test]
async fn a_database_of_the_first_version_keeps_payments_keys_and_replays() {
    let database = Arc::new(of_the_first_version().await);
    let server = TestServer::start_on(&database, &[]).await;
    let replay = server.pay("old", PAYMENT).await;
    assert_eq!((replay.status, replay.header("idempotent-replayed")), (200, "true"));
    assert_eq!(
        replay.body,
        format!(
            r#"{{"status":"success","transaction_id":"{OLD_ID}","user_id":"user_1","amount":100}}"#
        )
    );
    let named =
        server.pay("old", r#"{"user_id": "user_1", "amount": 100, "currency": "USD"}"#).await;
    named.assert_problem(422, "idempotency-key-reused");
    assert_eq!(named.member("members"), r#"["currency"]"#);
    server.pay("expired", PAYMENT).await.assert_problem(410, "idempotency-key-expired");

    let shown = server.get(&format!("/payment/{OLD_ID}")).await;
    assert_eq!(
        (shown.member("currency").as_str(), shown.member("refunded").as_str()),
        ("USD", "0")
    );
    assert_eq!(server.refund(OLD_ID, "refund", r#"{"amount": 99}"#).await.status, 201);
    assert_eq!(server.refund(OLD_ID, "too-much", r#"{"amount": 2}"#).await.status, 402);
    let listed = server.get("/payment?user_id=user_1").await.json();
    assert_eq!(listed["payments"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_server_of_the_version_before_can_go_on_taking_payments() {
    let server = TestServer::start().await;
    // Its statements, the second one without a currency. What it says of conflicts is in the order of its own index.
    let claim =
        "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
                 SELECT '00000000-0000-0000-0000-000000000000', 'k', gen_random_uuid(), 'pay', ''
                 ON CONFLICT (account_id, key) DO NOTHING";
    server.database.execute(claim).await;
    server.database.execute(claim).await;
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 1);
    server
        .database
        .execute(
            "INSERT INTO payments (transaction_id, account_id, user_id, amount)
             SELECT * FROM unnest(ARRAY['01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0']::uuid[],
                 ARRAY['00000000-0000-0000-0000-000000000000']::uuid[], ARRAY['user_1'], ARRAY[100]::bigint[])",
        )
        .await;
    assert_eq!(server.refund(OLD_ID, "refund", REMAINING).await.status, 201);
    let shown = server.get(&format!("/payment/{OLD_ID}")).await;
    assert_eq!(
        (shown.member("currency").as_str(), shown.member("refunded").as_str()),
        ("USD", "100")
    );
}

#[tokio::test]
async fn what_is_no_currency_by_its_looks_does_not_get_into_the_table() {
    let database = of_the_first_version().await;
    payonce::database::migrate(&database.options).await.unwrap();
    let mut conn = database.connect().await;
    for (currency, taken) in [
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
        assert_eq!(set.execute(&mut conn).await.is_ok(), taken, "{currency:?}");
    }
}

#[tokio::test]
async fn indexes_can_be_built_before_without_holding_up_anybody() {
    let database = of_the_first_version().await;
    let mut conn = database.connect().await;
    // The statements that the migrations tell of, as they stand there.
    let migrations = [
        include_str!("../../migrations/0005_lists.sql"),
        include_str!("../../migrations/0006_payments_by_id.sql"),
        include_str!("../../migrations/0013_keys_by_key.sql"),
    ];
    let commented: String = migrations
        .iter()
        .flat_map(|migration| migration.lines())
        .filter_map(|line| line.strip_prefix("--     "))
        .collect::<Vec<_>>()
        .join("\n");
    let statements: Vec<&str> = commented.split_inclusive(';').collect();
    assert_eq!(statements.len(), 4, "{commented}");
    for statement in statements {
        conn.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
    }
    let built = async |index: &str| {
        database.number(&format!("SELECT '{index}'::regclass::oid::bigint")).await
    };
    let built = async |indexes: [&str; 3]| {
        [built(indexes[0]).await, built(indexes[1]).await, built(indexes[2]).await]
    };
    let before = built(["payments_by_user", "payments_by_id", "idempotency_keys_by_key"]).await;
    payonce::database::migrate(&database.options).await.unwrap();
    assert_eq!(built(["payments_by_user", "payments_pkey", "idempotency_keys_pkey"]).await, before);
    // And they are what the migration itself would have built.
    let other = TestDatabase::create_plain().await;
    let definitions = "SELECT string_agg(indexdef, ' ' ORDER BY indexname) FROM pg_indexes
                       WHERE tablename IN ('payments', 'idempotency_keys')";
    let mut there = other.connect().await;
    let (here, there): (String, String) = (
        sqlx::query_scalar(definitions).fetch_one(&mut conn).await.unwrap(),
        sqlx::query_scalar(definitions).fetch_one(&mut there).await.unwrap(),
    );
    assert_eq!(here, there);
}

#[tokio::test]
async fn an_index_that_was_not_built_to_its_end_is_not_taken_for_one() {
    let database = of_the_first_version().await;
    database
        .execute(
            "CREATE INDEX payments_by_user ON payments (transaction_id);
             CREATE UNIQUE INDEX idempotency_keys_by_key ON idempotency_keys (key, account_id);
             UPDATE pg_index SET indisvalid = false
             WHERE indexrelid IN ('payments_by_user'::regclass, 'idempotency_keys_by_key'::regclass)",
        )
        .await;
    for (index, said) in [
        ("payments_by_user", "an index of payments is invalid"),
        ("idempotency_keys_by_key", "idempotency_keys_by_key is invalid"),
    ] {
        let refused = payonce::database::migrate(&database.options).await.unwrap_err().to_string();
        assert!(refused.contains(said), "{refused}");
        database.execute(&format!("DROP INDEX {index}")).await;
    }
    payonce::database::migrate(&database.options).await.unwrap();
}

#[tokio::test]
async fn a_migration_that_changes_the_type_of_a_column_goes_unnoticed() {
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
        // What was prepared above has other types from now on.
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
async fn a_migration_and_a_refund_never_wait_for_each_other() {
    let database = TestDatabase::create_of_version(6).await;
    database.execute(OLD_DATA).await;
    let mut refund = database.connect().await;
    let lock =
        format!("BEGIN; SELECT FROM payments WHERE transaction_id = '{OLD_ID}' FOR NO KEY UPDATE");
    refund.execute(sqlx::AssertSqlSafe(lock)).await.unwrap();
    let (migrated, ()) = tokio::join!(payonce::database::migrate(&database.options), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let give = format!(
            "INSERT INTO refunds (refund_id, transaction_id, account_id, amount)
             SELECT gen_random_uuid(), transaction_id, account_id, 1 FROM payments WHERE transaction_id = '{OLD_ID}';
             UPDATE payments SET refunded = 1, refund_count = 1 WHERE transaction_id = '{OLD_ID}'; COMMIT"
        );
        refund.execute(sqlx::AssertSqlSafe(give)).await.unwrap();
    });
    migrated.unwrap();
    assert_eq!(database.number("SELECT count(*) FROM refunds").await, 1);
    let deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()";
    assert_eq!(database.number(deadlocks).await, 0);
}

#[tokio::test]
async fn keys_in_order_of_time_go_to_one_end_of_the_index_however_many_accounts_send_them() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_keys (account_id, key, execution_id, operation, fingerprint)
             SELECT md5((n % 1000)::text)::uuid, 'a-key-in-order-of-time-' || lpad(n::text, 13, '0'), gen_random_uuid(), 'pay', ''
             FROM generate_series(1, 50000) AS n",
        )
        .await;
    // A key takes 68 bytes there. Pages that fill one after the other are left nine tenths full, others two thirds.
    let bytes = database.number("SELECT pg_relation_size('idempotency_keys_pkey')").await;
    assert!((68 * 50_000..80 * 50_000).contains(&bytes), "{bytes}");
}
