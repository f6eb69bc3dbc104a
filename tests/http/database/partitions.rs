//! Large tables can be partitioned by hash (docs/operations/scaling.md).
//! `PAYONCE_TEST_PARTITIONS=8` runs all of these tests on partitioned tables.

use std::sync::Arc;

use payonce_testing::{PAYMENT, TestDatabase, TestServer};

#[tokio::test]
async fn a_database_with_payments_can_be_partitioned() {
    let database = Arc::new(TestDatabase::create_plain().await);
    let server = TestServer::start_on(&database, &[]).await;
    let first = server.pay("before", PAYMENT).await;
    drop(server);
    database.partition(8).await;

    let server = TestServer::start_on(&database, &[]).await;
    let replay = server.pay("before", PAYMENT).await;
    assert_eq!((replay.status, replay.body), (200, first.body));
    let (new, again) = (server.pay("after", PAYMENT).await, server.pay("after", PAYMENT).await);
    assert_eq!((new.status, again.status), (201, 200));
    assert_eq!(again.body, new.body);
    server
        .pay("after", r#"{"user_id": "user_1", "amount": 200}"#)
        .await
        .assert_problem(422, "idempotency-key-reused");
    assert_eq!(database.payments().await, 2);
}

#[tokio::test]
async fn partitioning_splits_keys_responses_and_payments() {
    let database = TestDatabase::create_plain().await;
    database.partition(8).await;
    for table in ["idempotency_keys", "idempotency_responses", "payments"] {
        let partitions =
            format!("SELECT count(*) FROM pg_inherits WHERE inhparent = '{table}'::regclass");
        assert_eq!(database.number(&partitions).await, 8, "{table}");
    }
}

/// Names and definitions of the indexes and constraints of the large tables, with their fill factors.
async fn shape(database: &TestDatabase) -> (Vec<String>, Vec<String>) {
    let mut conn = database.connect().await;
    let built = "SELECT replace(indexdef, ' ON ONLY ', ' ON ') FROM pg_indexes
                 WHERE tablename IN ('idempotency_keys', 'idempotency_responses', 'payments', 'refunds')
                 UNION ALL
                 SELECT conrelid::regclass::text || ' ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
                 WHERE conparentid = 0 AND conrelid::regclass::text
                     IN ('idempotency_keys', 'idempotency_responses', 'payments', 'refunds')
                 ORDER BY 1";
    // A partitioned table has no pages and no fill factor.
    let storage = "SELECT DISTINCT relname || ' ' || coalesce(reloptions::text, 'as usual')
                   FROM (SELECT regexp_replace(relname, '_[0-9]+$', '') AS relname, reloptions FROM pg_class
                         WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace) AS tables
                   ORDER BY 1";
    (
        sqlx::query_scalar(built).fetch_all(&mut conn).await.unwrap(),
        sqlx::query_scalar(storage).fetch_all(&mut conn).await.unwrap(),
    )
}

#[tokio::test]
async fn partitioned_tables_have_the_indexes_and_constraints_of_plain_ones() {
    let plain = shape(&TestDatabase::create_plain().await).await;
    assert!(plain.1.contains(&"payments {fillfactor=95}".to_owned()), "{plain:?}");
    let database = TestDatabase::create_plain().await;
    database.partition(3).await;
    assert_eq!(shape(&database).await, plain);
}
