//! `once`, for callers who own their transaction.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "tests fail loudly, and own their transactions"
)]

use std::time::Duration;

use payonce_idempotency::{
    AccountId, Announced, Engine, Error, EventCode, Execution, Fingerprint, IdempotencyKey,
    Lifetimes, Operation, Outcome, Response, Settings, announce, migrate, once,
};
use payonce_testing::TestDatabase;
use sqlx::{Connection, PgConnection, Postgres, Transaction};

const ADD: Operation = Operation::new("add");

fn fingerprint(number: i64) -> Fingerprint {
    Fingerprint::of(ADD).field("number", &number.to_be_bytes())
}

fn key() -> IdempotencyKey {
    IdempotencyKey::parse(b"k").unwrap()
}

async fn database() -> TestDatabase {
    let database = TestDatabase::create_empty().await;
    migrate(&mut database.connect().await).await.unwrap();
    database.execute("CREATE TABLE numbers (id uuid PRIMARY KEY, number bigint NOT NULL)").await;
    database
}

async fn insert(
    execution: Execution,
    number: i64,
    conn: &mut PgConnection,
) -> Result<Response, Error> {
    let insert = sqlx::query("INSERT INTO numbers VALUES ($1, $2)");
    insert.bind(execution.id).bind(number).execute(conn).await?;
    Ok(Response::new(201, number.to_string()).with_header("x", "y"))
}

async fn add(
    tx: &mut Transaction<'_, Postgres>,
    number: i64,
    kept: Lifetimes,
) -> Result<Outcome, Error> {
    let add = async |execution, conn: &mut PgConnection| insert(execution, number, conn).await;
    once(tx, AccountId::DEFAULT, key(), &fingerprint(number), kept, add).await
}

async fn added(database: &TestDatabase, number: i64) -> Outcome {
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    let outcome = add(&mut tx, number, Lifetimes::default()).await.unwrap();
    tx.commit().await.unwrap();
    outcome
}

const COUNTS: &str = "SELECT (SELECT count(*) FROM idempotency_keys) * 100
    + (SELECT count(*) FROM idempotency_responses) * 10 + (SELECT count(*) FROM numbers)";

#[tokio::test]
async fn a_retry_gets_the_stored_response_and_another_request_is_told_so() {
    let database = database().await;
    let Outcome::New { execution_id, response, replayable_until } = added(&database, 1).await
    else {
        panic!("the key is new");
    };
    assert!(replayable_until.is_some());
    let replay = Outcome::Replay { execution_id, response, replayable_until };
    assert_eq!(added(&database, 1).await, replay);
    assert_eq!(added(&database, 2).await, Outcome::Reused { fields: vec!["number"] });
    assert_eq!(database.number(COUNTS).await, 111);
}

#[tokio::test]
async fn a_transaction_that_is_rolled_back_leaves_nothing() {
    let database = database().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    add(&mut tx, 1, Lifetimes::default()).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(database.number(COUNTS).await, 0);
    assert!(matches!(added(&database, 1).await, Outcome::New { .. }));
}

#[tokio::test]
async fn an_error_frees_the_key_and_leaves_the_transaction_usable() {
    let database = database().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    let fail = async |execution, conn: &mut PgConnection| {
        insert(execution, 1, conn).await?;
        sqlx::query("SELECT 1 / 0").execute(conn).await?;
        Ok(Response::new(201, ""))
    };
    let kept = Lifetimes::default();
    let failed =
        once(&mut tx, AccountId::DEFAULT, key(), &fingerprint(1), kept, fail).await.unwrap_err();
    assert!(matches!(&failed, Error::Database(_)) && failed.to_string().contains("by zero"));
    assert!(std::error::Error::source(&failed).is_some());
    sqlx::query("CREATE TABLE own ()").execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(database.number(COUNTS).await, 0);
    assert!(matches!(added(&database, 1).await, Outcome::New { .. }));
}

#[tokio::test]
async fn a_key_that_another_transaction_is_executing_is_in_flight_and_not_waited_for() {
    let database = database().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    add(&mut tx, 1, Lifetimes::default()).await.unwrap();
    assert_eq!(added(&database, 1).await, Outcome::InFlight);
    tx.commit().await.unwrap();
    assert!(matches!(added(&database, 1).await, Outcome::Replay { .. }));
}

#[tokio::test]
async fn many_transactions_with_one_key_execute_it_once() {
    let database = std::sync::Arc::new(database().await);
    let tasks = (0..8).map(|_| {
        let database = std::sync::Arc::clone(&database);
        tokio::spawn(async move { added(&database, 1).await })
    });
    let mut new = 0;
    for task in tasks.collect::<Vec<_>>() {
        new += u32::from(matches!(task.await.unwrap(), Outcome::New { .. }));
    }
    assert_eq!((new, database.number(COUNTS).await), (1, 111));
}

#[tokio::test]
async fn an_engine_on_the_same_tables_knows_the_key() {
    let database = database().await;
    added(&database, 1).await;
    let engine = Engine::start(&database.options, &Settings::default()).await.unwrap();
    let voided = engine.void(AccountId::DEFAULT, key()).await.unwrap();
    assert_eq!(voided, Outcome::Reused { fields: vec!["operation"] });
    let other = IdempotencyKey::parse(b"other").unwrap();
    engine.void(AccountId::DEFAULT, other.clone()).await.unwrap();
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    let add = async |execution, conn: &mut PgConnection| insert(execution, 1, conn).await;
    let kept = Lifetimes::default();
    let outcome =
        once(&mut tx, AccountId::DEFAULT, other, &fingerprint(1), kept, add).await.unwrap();
    assert_eq!(outcome, Outcome::Voided);
}

#[tokio::test]
async fn its_caller_announces_the_execution_last() {
    let database = database().await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    let outcome = add(&mut tx, 1, Lifetimes::default()).await.unwrap();
    let Outcome::New { execution_id, .. } = outcome else { panic!("the key is new") };
    let (account_id, event) = (AccountId::DEFAULT, EventCode::new(1));
    announce(&mut tx, &[Announced { account_id, execution_id, event }]).await.unwrap();
    tx.commit().await.unwrap();
    let announced =
        "SELECT count(*) FROM announcements JOIN numbers ON execution_ids = ARRAY[numbers.id]";
    assert_eq!(database.number(announced).await, 1);
}

#[tokio::test]
async fn an_expired_key_is_new_again_in_a_transaction_that_is_young_enough() {
    let database = database().await;
    let day = Some(Duration::from_hours(24));
    let kept = Lifetimes { response: day, key: day };
    added(&database, 1).await;
    database
        .execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
        .await;
    let mut conn = database.connect().await;
    let mut tx = conn.begin().await.unwrap();
    assert!(matches!(add(&mut tx, 1, kept).await.unwrap(), Outcome::New { .. }));
    tx.commit().await.unwrap();
    assert_eq!(database.number(COUNTS).await, 112);
}

#[tokio::test]
async fn migrating_again_changes_nothing_and_other_migrations_have_their_own_table() {
    let database = database().await;
    added(&database, 1).await;
    migrate(&mut database.connect().await).await.unwrap();
    assert!(matches!(added(&database, 1).await, Outcome::Replay { .. }));
    let applied = "SELECT count(*) FROM _idempotency_migrations";
    assert_eq!(database.number(applied).await, 2);
    let sqlx = "SELECT count(*) FROM pg_class WHERE relname = '_sqlx_migrations'";
    assert_eq!(database.number(sqlx).await, 0);
}
