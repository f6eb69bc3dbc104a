//! A server needs no more privileges than `deploy/server-role.sql` grants.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use payonce_testing::{PAYMENT, TestDatabase, TestServer};
use reqwest::Method;
use sqlx::{Connection, PgConnection, error::DatabaseError, postgres::PgConnectOptions};

pub const GRANTS: &str = include_str!("../../../deploy/server-role.sql");

/// A role with these grants, dropped with its test.
pub struct Role {
    pub name: String,
    database: Arc<TestDatabase>,
}

impl Role {
    pub async fn with(database: &Arc<TestDatabase>, grants: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("payonce_test_role_{}_{number}", std::process::id());
        database.execute(&format!("DROP ROLE IF EXISTS {name}; CREATE ROLE {name}")).await;
        database.execute(&grants.replace("payonce_server", &name)).await;
        Self { name, database: Arc::clone(database) }
    }

    /// Connects to the database as this role.
    pub fn options(&self) -> PgConnectOptions {
        self.database.options.clone().options([("role", &self.name)])
    }

    pub async fn drop(self) {
        let Self { name, database } = self;
        database.execute(&format!("DROP OWNED BY {name}; DROP ROLE {name}")).await;
    }
}

#[tokio::test]
async fn the_documented_role_is_sufficient_for_a_server() {
    let database = Arc::new(TestDatabase::create().await);
    let role = Role::with(&database, GRANTS).await;
    let flags = ["--auto-migrate", "false", "--sweep-interval", "1s"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    let ada = server.account("ada").await;

    let payment = ada.paid("a", 100).await;
    assert_eq!(ada.pay("a", PAYMENT.replace("user_1", "user_2").as_str()).await.status, 422);
    assert_eq!(ada.refund(&payment, "back", r#"{"amount": 40}"#).await.status, 201);
    assert_eq!(ada.refund(&payment, "too-much", r#"{"amount": 61}"#).await.status, 402);
    assert_eq!(ada.get(&format!("/payment/{payment}")).await.field("refunded"), "40");
    let list = ada.get("/payment?user_id=user_1").await;
    assert_eq!(list.json()["payments"].as_array().unwrap().len(), 1, "{}", list.body);
    let key = [("idempotency-key", "never")];
    assert_eq!(ada.request(Method::POST, "/idempotency-key/void", &key, "").await.status, 200);
    assert_eq!(ada.pay("never", PAYMENT).await.status, 410);
    assert_eq!(server.get("/health/ready").await.status, 200);

    drop((ada, server));
    let used = "SELECT count(*) FROM api_keys WHERE last_used_at IS NOT NULL";
    assert_eq!(database.number(used).await, 1, "noted when the server stopped");

    database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    let expired = "SELECT count(*) FROM idempotency_responses WHERE replayable_until <= now()";
    database.until(expired, |count| count == 0).await;
    drop(server);
    role.drop().await;
}

#[tokio::test]
async fn the_documented_role_works_in_any_schema() {
    let database = Arc::new(TestDatabase::create_empty().await);
    database.execute("CREATE SCHEMA \"pay once\"").await;
    let path = [("search_path", "\"pay once\"")];
    payonce::db::migrate(&database.options.clone().options(path)).await.unwrap();
    let role = Role::with(&database, &format!("SET search_path = \"pay once\"; {GRANTS}")).await;
    let elsewhere = {
        let mut conn = PgConnection::connect_with(&role.options()).await.unwrap();
        payonce::db::migrated(&mut conn).await.unwrap().unwrap_err().to_string()
    };
    assert!(elsewhere.contains("SET search_path = \"pay once\")"), "{elsewhere}");
    let options = role.options().options(path);
    let server = TestServer::start_through(&database, &options, &["--auto-migrate", "false"]).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    drop(server);
    role.drop().await;
}

#[tokio::test]
async fn the_documented_role_can_neither_change_payments_nor_create_api_keys() {
    let database = Arc::new(TestDatabase::create().await);
    let role = Role::with(&database, GRANTS).await;
    let mut conn = PgConnection::connect_with(&role.options()).await.unwrap();
    for statement in [
        "UPDATE payments SET amount = 1",
        "DELETE FROM payments",
        "UPDATE refunds SET amount = 1",
        "DELETE FROM refunds",
        "UPDATE idempotency_keys SET key = 'another'",
        "DELETE FROM idempotency_keys",
        "UPDATE idempotency_responses SET body = ''",
        "INSERT INTO accounts (account_id, name) VALUES (gen_random_uuid(), 'mallory')",
        "UPDATE api_keys SET revoked_at = NULL",
        "DELETE FROM api_keys",
        "UPDATE api_key_changes SET changes = 0",
        "TRUNCATE payments",
        "DROP TABLE payments",
    ] {
        let error = sqlx::query(statement).execute(&mut conn).await.unwrap_err();
        let code = error.as_database_error().and_then(DatabaseError::code);
        assert_eq!(code.as_deref(), Some("42501"), "{statement}: {error}");
    }
    conn.close().await.unwrap();
    role.drop().await;
}

#[tokio::test]
async fn the_documented_role_needs_one_more_grant_if_keys_have_a_ttl() {
    let database = Arc::new(TestDatabase::create().await);
    let role = Role::with(&database, &GRANTS.replace("-- GRANT", "GRANT")).await;
    let flags = ["--auto-migrate", "false", "--idempotency-key-ttl", "24h"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    let first = server.paid("a", 100).await;
    database.execute("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'").await;
    assert_ne!(server.paid("a", 100).await, first);
    drop(server);
    role.drop().await;
}
