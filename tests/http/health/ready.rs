//! `GET /health/live` and `GET /health/ready`: a server is ready only while its database accepts writes.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::{join, join_all};
use payonce_testing::{PAYMENT, TestDatabase, TestServer, proxy::Proxy, wait::eventually};
use sqlx::Connection;

use crate::database::privileges::{GRANTS, Role};

#[tokio::test]
async fn a_working_server_is_live_and_ready() {
    let server = TestServer::start().await;
    let version = env!("CARGO_PKG_VERSION");
    let live = server.get("/health/live").await;
    assert_eq!(
        (live.status, live.body),
        (200, format!(r#"{{"status":"live","version":"{version}"}}"#))
    );
    let ready = server.get("/health/ready").await;
    assert_eq!(
        (ready.status, ready.body),
        (200, format!(r#"{{"status":"ready","version":"{version}"}}"#))
    );
}

#[tokio::test]
async fn concurrent_readiness_checks_share_one_query() {
    let server = TestServer::start().await;
    let begun = Instant::now();
    for _ in 0..10 {
        assert_eq!(server.get("/health/ready").await.status, 200);
    }
    // Nine pauses of 50 ms each.
    assert!(begun.elapsed() >= Duration::from_millis(450), "{:?}", begun.elapsed());
    let begun = Instant::now();
    for response in join_all((0..400).map(|_| server.get("/health/ready"))).await {
        assert_eq!(response.status, 200);
    }
    // With one query each, 400 pauses would take 20 s.
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_is_not_ready_while_a_migration_is_missing() {
    let server = TestServer::start().await;
    server.database.execute("UPDATE _sqlx_migrations SET success = false WHERE version = 2").await;
    let response = server.get("/health/ready").await;
    response.assert_problem(503, "database-unavailable");
    assert_eq!(server.get("/health/live").await.status, 200);
    server.database.execute("UPDATE _sqlx_migrations SET success = true").await;
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_server_is_live_but_not_ready_while_the_database_is_unreachable() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let through = proxy.through(&database.options);
    let flags = ["--request-deadline", "2s", "--in-flight-wait", "1s"];
    let server = TestServer::start_through(&database, &through, &flags).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    proxy.redirect(&database.options.clone().port(1)).await;
    proxy.cut_all();
    server.get("/health/ready").await.assert_problem(503, "database-unavailable");
    assert_eq!(server.get("/health/live").await.status, 200);
    proxy.redirect(&database.options).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn a_server_stays_ready_while_all_its_read_connections_are_busy() {
    let server = TestServer::start().await;
    let holder = server.database.lock_payments().await;
    let path = "/payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    let ready = async {
        server.database.until_locks_are_waited_for(4).await;
        let response = server.get("/health/ready").await;
        holder.close().await.unwrap();
        response
    };
    // Twice as many reads as connections.
    let (waited, response) = join(join_all((0..8).map(|_| server.get(path))), ready).await;
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(waited.iter().all(|response| response.status == 404));
}

#[tokio::test]
async fn a_server_is_ready_on_a_newer_schema() {
    let database = Arc::new(TestDatabase::create().await);
    database
        .execute(
            "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
             VALUES (9999, 'from the future', true, '', 0)",
        )
        .await;
    let server = TestServer::start_on(&database, &[]).await;
    assert_eq!(server.get("/health/ready").await.status, 200);
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

/// Waits until the server is ready or, with a reason, until it is not ready for that reason.
async fn becomes(server: &TestServer, reason: Option<&str>) {
    let response = eventually(&format!("ready, or not because of {reason:?}"), async || {
        let response = server.get("/health/ready").await;
        let right = match reason {
            None => response.status == 200,
            Some(reason) => response.status == 503 && response.field("detail").contains(reason),
        };
        right.then_some(response)
    })
    .await;
    if reason.is_some() {
        response.assert_problem(503, "database-unavailable");
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
    for table in
        ["idempotency_responses", "payments", "refunds", "api_key_changes", "announcements"]
    {
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
        ("INSERT", "announcements"),
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
