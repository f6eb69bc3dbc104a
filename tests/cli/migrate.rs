//! `payonce migrate`, and migrations when a server starts.

use std::fs;

use payonce_testing::{
    TestDatabase,
    binary::{Process, Serve, payonce, run, url},
};
use serde_json::{Value, json};
use sqlx::raw_sql;

#[tokio::test]
async fn two_servers_that_start_at_once_can_both_migrate() {
    let database = TestDatabase::create_empty().await;
    let (one, two) = std::thread::scope(|scope| {
        let start = || Serve::start(&database.options, &[]);
        let (one, two) = (scope.spawn(start), scope.spawn(start));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(one.begin_payment("k").await.status().await, 201);
    assert_eq!(two.begin_payment("k").await.status().await, 200);
}

#[tokio::test]
async fn automatic_migration_can_be_switched_off() {
    let database = TestDatabase::create_empty().await;
    let database_url = url(&database.options);
    let serve =
        || run(payonce(&["serve"]).env("DATABASE_URL", &database_url).env("AUTO_MIGRATE", "false"));
    let (code, _, stderr) = serve();
    let migrations = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let lacks = format!("lacks {} migrations", migrations.count());
    assert!(code == 1 && stderr.contains(&lacks) && stderr.contains("payonce migrate"), "{stderr}");
    for _ in 0..2 {
        assert_eq!(run(payonce(&["migrate"]).env("DATABASE_URL", &database_url)).0, 0);
    }
    let serve = Serve::start(&database.options, &[("AUTO_MIGRATE", "false")]);
    assert_eq!(serve.begin_payment("k").await.status().await, 201);
}

#[tokio::test]
async fn a_migration_repeats_its_attempt_to_lock_a_table_in_use() {
    let database = TestDatabase::create_empty().await;
    let mut holder = database.connect().await;
    // The lock that every migration takes first.
    raw_sql("CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
             installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
             execution_time bigint NOT NULL); BEGIN; LOCK TABLE _sqlx_migrations IN SHARE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    let mut migrate =
        Process::spawn(payonce(&["migrate"]).env("DATABASE_URL", url(&database.options)));
    migrate.wait_for("a migration waits for a lock");
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let (status, log) = migrate.wait();
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn pending_migrations_can_be_listed_before_they_are_applied() {
    let database = TestDatabase::create_empty().await;
    let migrations =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    for _ in 0..2 {
        let (code, stdout, stderr) = database.run(&["migrate", "--check"]);
        assert_eq!((code, stdout.lines().count()), (1, migrations + 1), "{stdout}");
        assert!(stdout.contains("0001") && stdout.contains("idempotency"), "{stdout}");
        assert!(stderr.contains(&format!("lacks {migrations} migrations")), "{stderr}");
    }
    let (code, stdout, _) = database.run(&["migrate", "--check", "--json"]);
    let list: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, list.as_array().unwrap().len()), (1, migrations));
    assert_eq!(list[0], json!({ "version": 1, "description": "idempotency" }));

    assert_eq!(database.run(&["migrate"]).0, 0);
    let (code, stdout, stderr) = database.run(&["migrate", "--check"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(database.operate(&["migrate", "--check", "--json"]), json!([]));
}
