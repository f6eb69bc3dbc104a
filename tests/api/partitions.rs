//! The large tables may be split by hash (docs/scaling.md). `PAYONCE_TEST_PARTITIONS=8` runs all of these tests so.

use std::sync::Arc;

use crate::support::{PAYMENT, TestDatabase, TestServer};

#[tokio::test]
async fn a_database_may_be_partitioned_when_there_are_payments_in_it() {
    let server = TestServer::start().await;
    let first = server.pay("before", PAYMENT).await;
    let database = Arc::clone(&server.database);
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
async fn partitioning_splits_keys_answers_and_payments() {
    let database = TestDatabase::create().await;
    database.partition(8).await;
    for table in ["idempotency_keys", "idempotency_responses", "payments"] {
        let partitions =
            format!("SELECT count(*) FROM pg_inherits WHERE inhparent = '{table}'::regclass");
        assert_eq!(database.number(&partitions).await, 8, "{table}");
    }
}
