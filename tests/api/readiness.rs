//! A server is ready only while its database takes what it writes, and again without a restart.

use std::sync::Arc;

use crate::{
    privileges::{GRANTS, Role},
    support::{TestDatabase, TestServer, wait::eventually},
};

/// Waits until the server is ready, and says so; or until it is not, and says why.
async fn becomes(server: &TestServer, reason: Option<&str>) {
    let answer = eventually(&format!("ready, or not because of {reason:?}"), async || {
        let answer = server.get("/health/ready").await;
        let right = match reason {
            None => answer.status == 200,
            Some(reason) => answer.status == 503 && answer.member("detail").contains(reason),
        };
        right.then_some(answer)
    })
    .await;
    if reason.is_some() {
        answer.assert_problem(503, "database-unavailable");
    }
}

#[tokio::test]
async fn a_server_is_not_ready_while_its_database_is_read_only() {
    let server = TestServer::start().await;
    becomes(&server, None).await;
    server.database.set("default_transaction_read_only = on").await;
    becomes(&server, Some("default_transaction_read_only is on")).await;
    let name = server.database.options.get_database().unwrap();
    let reset = format!("ALTER DATABASE {name} RESET default_transaction_read_only");
    server.database.execute(&format!("BEGIN READ WRITE; {reset}; COMMIT")).await;
    becomes(&server, None).await;
}

#[tokio::test]
async fn a_server_is_not_ready_while_a_table_is_missing() {
    let server = TestServer::start().await;
    for table in ["idempotency_responses", "payments", "refunds", "api_key_changes"] {
        server.database.execute(&format!("ALTER TABLE {table} RENAME TO elsewhere")).await;
        becomes(&server, Some(&format!("table {table} does not exist"))).await;
        server.database.execute(&format!("ALTER TABLE elsewhere RENAME TO {table}")).await;
        becomes(&server, None).await;
    }
}

#[tokio::test]
async fn a_server_is_not_ready_while_its_role_lacks_a_privilege_it_needs() {
    let database = Arc::new(TestDatabase::create().await);
    let role = Role::with(&database, &GRANTS.replace("-- GRANT", "GRANT")).await;
    let flags = ["--auto-migrate", "false", "--idempotency-key-ttl", "24h"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    becomes(&server, None).await;
    for (privilege, table) in [
        ("DELETE", "idempotency_keys"),
        ("DELETE", "idempotency_responses"),
        ("INSERT", "idempotency_keys"),
        ("INSERT", "payments"),
        ("UPDATE (refunded)", "payments"),
        ("INSERT", "refunds"),
        ("SELECT", "api_keys"),
    ] {
        let name = &role.name;
        database.execute(&format!("REVOKE {privilege} ON {table} FROM {name}")).await;
        becomes(&server, Some(&format!("lacks {privilege} on {table}"))).await;
        database.execute(&format!("GRANT {privilege} ON {table} TO {name}")).await;
        becomes(&server, None).await;
    }
    drop(server);
    role.drop().await;
}

#[tokio::test]
async fn a_server_is_not_ready_after_another_role_partitioned_its_tables() {
    let database = Arc::new(TestDatabase::create_plain().await);
    let role = Role::with(&database, GRANTS).await;
    let flags = ["--auto-migrate", "false"];
    let server = TestServer::start_through(&database, &role.options(), &flags).await;
    becomes(&server, None).await;
    database.partition(2).await;
    becomes(&server, Some("lacks SELECT on idempotency_keys")).await;
    database.execute(&GRANTS.replace("payonce_server", &role.name)).await;
    becomes(&server, None).await;
    drop(server);
    role.drop().await;
}
