//! The server's connections as PostgreSQL shows them.

use std::sync::Arc;

use payonce_testing::{TestDatabase, TestServer, wait::until};

#[tokio::test]
async fn postgresql_shows_connections_under_their_application_name() {
    let database = Arc::new(TestDatabase::create().await);
    let names = "SELECT string_agg(DISTINCT application_name, ' ' ORDER BY application_name) FROM pg_stat_activity
                 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'";
    for (options, shown) in [
        (database.options.clone(), "payonce payonce reads payonce sequencer payonce webhooks"),
        (database.options.clone().application_name("payments-3"), "payments-3"),
    ] {
        let server = TestServer::start_through(&database, &options, &[]).await;
        assert_eq!(server.get("/payment").await.status, 200);
        let are_shown = async || database.value::<String>(names).await == shown;
        until("each connection is shown under its name", are_shown).await;
        drop(server);
        database.until_other_clients_are(0).await;
    }
}
