//! The server is checked before an engine starts.

use std::time::Duration;

use payonce_idempotency::{Engine, Settings};
use payonce_testing::{TestDatabase, database::maintenance};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{net::TcpListener, time::Instant};

#[tokio::test]
async fn a_server_that_says_nothing_is_waited_for_a_limited_time() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = PgConnectOptions::new().host("127.0.0.1");
    let options = options.port(silent.local_addr().unwrap().port());
    let settings = Settings { request_deadline: Duration::from_secs(5), ..Settings::default() };
    let begun = Instant::now();
    let error = Engine::start(&options, &settings).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("didn't answer within 1s"), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_that_could_not_keep_the_promises_is_refused() {
    let database = TestDatabase::create_empty().await;
    let start = async |settings: Settings| {
        Engine::start(&database.options, &settings)
            .await
            .map(drop)
            .map_err(|error| error.to_string())
    };
    let error = start(Settings { max_batch: 1_000_000, ..Settings::default() }).await.unwrap_err();
    let locks = "current_setting('max_locks_per_transaction')::bigint
                 * (current_setting('max_connections')::bigint
                  + current_setting('max_prepared_transactions')::bigint)";
    let locks = database.value::<i64>(&format!("SELECT {locks}")).await;
    assert!(
        error.contains(&format!("has room for {locks}, half of which is for others"))
            && error.contains("max_locks_per_transaction"),
        "{error}"
    );

    database.set("synchronous_commit = off").await;
    let error = start(Settings::default()).await.unwrap_err();
    assert!(error.contains("synchronous_commit = off"), "{error}");
    assert_eq!(
        start(Settings { allow_asynchronous_commit: true, ..Settings::default() }).await,
        Ok(())
    );

    let mut conn = PgConnection::connect_with(&maintenance()).await.unwrap();
    let name = format!("{}_ascii", database.options.get_database().unwrap());
    let create =
        format!("CREATE DATABASE {name} TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
    conn.execute(AssertSqlSafe(create)).await.unwrap();
    let options = database.options.clone().database(&name);
    let error =
        Engine::start(&options, &Settings::default()).await.map(drop).unwrap_err().to_string();
    conn.execute(AssertSqlSafe(format!("DROP DATABASE {name} WITH (FORCE)"))).await.unwrap();
    assert!(error.contains("encoding is SQL_ASCII"), "{error}");
}
