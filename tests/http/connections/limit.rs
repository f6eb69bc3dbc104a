//! The limit of connections and of open files.

use std::time::Duration;

use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::{Serve, payonce, url},
    client::Wire,
    wait::pending_until_released,
};
use tokio::time::sleep;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn connections_beyond_the_limit_wait_until_others_end() {
    let server =
        TestServer::start_with(&["--connection-limit", "64", "--header-timeout", "5m"]).await;
    // The limit is divided among threads and rounded up: twice as many connections always exceed it.
    let mut silent = Vec::new();
    for _ in 0..128 {
        silent.push(server.wire().await);
    }
    let (response, ()) =
        pending_until_released(server.pay("k", PAYMENT), sleep(SECOND / 2), async { drop(silent) })
            .await;
    assert_eq!(response.status, 201);
    assert_eq!(server.pay("other", PAYMENT).await.status, 201);
}

/// A server that a shell starts with these limits of open files.
fn serve_with(database: &TestDatabase, limits: &str) -> Serve {
    let program = payonce(&[]).get_program().to_string_lossy().into_owned();
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", &format!("{limits}; exec {program} serve --port 0")])
        .env_clear()
        .current_dir(std::env::temp_dir())
        .env("DATABASE_URL", url(&database.options));
    Serve::spawn(&mut command)
}

#[tokio::test]
async fn the_server_raises_its_limit_of_open_files() {
    let database = TestDatabase::create().await;
    let serve = serve_with(&database, "ulimit -Sn 50 && ulimit -Hn 700");
    let mut wires = Vec::new();
    for _ in 0..200 {
        wires.push(Wire::connect(serve.address).await);
    }
    for wire in &mut wires {
        wire.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(wire.status().await, 200);
    }
    let log = serve.log();
    assert!(log.contains("may open 700 files, and CONNECTION_LIMIT (10000) needs 10100"), "{log}");
}
