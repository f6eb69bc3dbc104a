//! No crash of PostgreSQL loses an acknowledged payment, whatever an operator changes while a server runs.

use std::collections::HashMap;

use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::support::{
    PAYMENT,
    binary::{self, Serve},
    client::{Client, Response},
    cluster::Cluster,
    retry::Clients,
    wait::eventually,
};

/// The background writer of the WAL would flush asynchronous commits before a test can lose them.
const LAZY_WAL_WRITER: &str = "wal_writer_delay = 10000\nwal_writer_flush_after = '1GB'";

async fn execute(cluster: &Cluster, sql: &str) {
    let mut conn = PgConnection::connect_with(&cluster.options()).await.unwrap();
    for statement in sql.split(';') {
        conn.execute(AssertSqlSafe(statement.to_owned())).await.unwrap();
    }
    conn.close().await.unwrap();
}

fn client(serve: &Serve) -> Client {
    Client { address: serve.address, http: reqwest::Client::builder().no_proxy().build().unwrap() }
}

async fn ready(serve: &Serve) -> Response {
    client(serve).request(Method::GET, "/health/ready", &[], "").await
}

/// Waits until the server is ready, or not ready.
async fn becomes_ready(serve: &Serve, wanted: bool) -> Response {
    eventually(&format!("ready: {wanted}"), async || {
        let response = ready(serve).await;
        ((response.status == 200) == wanted).then_some(response)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_that_turns_synchronous_commit_off_loses_no_acknowledged_payment() {
    let cluster = Cluster::start(LAZY_WAL_WRITER);
    let serve = Serve::start(&cluster.options(), &[]);
    let clients = Clients::new(&[serve.address]);
    clients.pay("before", PAYMENT).await;
    execute(&cluster, "ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf()").await;
    let response = becomes_ready(&serve, false).await;
    assert!(response.field("detail").contains("synchronous_commit = off"), "{}", response.body);

    let mut paid = HashMap::new();
    for key in (0..20).map(|key| key.to_string()) {
        paid.insert(key.clone(), clients.pay(&key, PAYMENT).await.body);
    }
    cluster.stop_immediately();
    cluster.start_again();
    execute(&cluster, "ALTER SYSTEM RESET synchronous_commit; SELECT pg_reload_conf()").await;
    becomes_ready(&serve, true).await;
    for (key, body) in paid {
        assert_eq!(clients.pay(&key, PAYMENT).await.body, body, "key {key} paid again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_connection_on_which_commits_are_asynchronous_takes_no_payment() {
    let cluster = Cluster::start("");
    let serve =
        Serve::start(&cluster.options(), &[("REQUEST_DEADLINE", "4s"), ("IN_FLIGHT_WAIT", "1s")]);
    let clients = Clients::new(&[serve.address]);
    clients.pay("before", PAYMENT).await;
    for (number, whose) in ["ROLE payonce", "DATABASE postgres"].into_iter().enumerate() {
        let key = number.to_string();
        execute(&cluster, &format!("ALTER {whose} SET synchronous_commit = off")).await;
        becomes_ready(&serve, false).await;
        let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payonce'";
        execute(&cluster, cut).await;
        let response = clients.send(serve.address, &key, PAYMENT).await.unwrap();
        assert_eq!(response.status, 503, "{}", response.body);
        let payments = cluster.number("SELECT count(*) FROM payments").await;
        assert_eq!(usize::try_from(payments), Ok(number + 1));

        execute(&cluster, &format!("ALTER {whose} RESET synchronous_commit")).await;
        becomes_ready(&serve, true).await;
        assert_eq!(clients.pay(&key, PAYMENT).await.status, 201);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_postgresql_that_does_not_survive_a_crash_is_refused_and_not_ready_after_a_reload() {
    let cluster = Cluster::start("");
    let serve = Serve::start(&cluster.options(), &[]);
    let allow = [("ALLOW_ASYNCHRONOUS_COMMIT", "true")];
    let allowed = Serve::start(&cluster.options(), &allow);
    for setting in ["fsync", "full_page_writes"] {
        execute(&cluster, &format!("ALTER SYSTEM SET {setting} = off; SELECT pg_reload_conf()"))
            .await;
        becomes_ready(&serve, false).await.assert_problem(503, "database-unavailable");
        assert_eq!(ready(&allowed).await.status, 200);
        let mut command = binary::payonce(&["serve"]);
        let url = binary::url(&cluster.options());
        let (code, _, stderr) = binary::run(command.env("DATABASE_URL", url).env("PORT", "0"));
        assert!(
            code == 1
                && stderr.contains(&format!("{setting} = off"))
                && stderr.contains("ALLOW_ASYNCHRONOUS_COMMIT=true"),
            "{code}: {stderr}"
        );
        execute(&cluster, &format!("ALTER SYSTEM RESET {setting}; SELECT pg_reload_conf()")).await;
        becomes_ready(&serve, true).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operator_commands_and_the_key_directory_always_commit_synchronously() {
    let cluster = Cluster::start("");
    execute(&cluster, "ALTER ROLE payonce SET synchronous_commit = off").await;
    let mut conn = payonce::db::connect(&cluster.options()).await.unwrap();
    let shown: String =
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut conn).await.unwrap();
    assert_eq!(shown, "on");
    execute(&cluster, "ALTER ROLE payonce SET synchronous_commit = local").await;
    let mut conn = payonce::db::connect(&cluster.options()).await.unwrap();
    execute(&cluster, "ALTER SYSTEM SET synchronous_commit = off; SELECT pg_reload_conf()").await;
    let shown: String =
        sqlx::query_scalar("SHOW synchronous_commit").fetch_one(&mut conn).await.unwrap();
    assert_eq!(shown, "local");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_whose_database_became_a_standby_is_not_ready_until_it_is_promoted() {
    let primary = Cluster::start("max_wal_senders = 4");
    let proxy = crate::support::proxy::Proxy::start(&primary.options()).await;
    let serve = Serve::start(&proxy.through(&primary.options()), &[]);
    becomes_ready(&serve, true).await;
    let standby = primary.standby();
    proxy.redirect(&standby.options()).await;
    proxy.cut_all();
    let response = becomes_ready(&serve, false).await;
    response.assert_problem(503, "database-unavailable");
    assert!(response.field("detail").contains("standby"), "{}", response.body);
    standby.promote();
    becomes_ready(&serve, true).await;
}
