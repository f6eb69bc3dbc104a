//! The cost of a request does not grow with the tables.

use std::time::Duration;

use payonce_testing::{PAYMENT, TestServer};
use tokio::time::sleep;

use crate::payments::list::ids;

/// Creates thirty thousand payments, of which the older half belongs to this account. One user has the oldest
/// fifth and none since.
async fn fill(server: &TestServer) {
    server
        .database
        .execute(
            "INSERT INTO payments (transaction_id, account_id, user_id, amount)
             SELECT lpad(to_hex(i), 32, '0')::uuid,
                    CASE WHEN i <= 15000 THEN '00000000-0000-0000-0000-000000000000'::uuid
                         ELSE lpad(to_hex(i % 50 + 1), 32, '0')::uuid END,
                    CASE WHEN i % 1000 = 7 THEN 'rare' WHEN i <= 6000 THEN 'early'
                         ELSE 'user-' || i % 30 END, 1
             FROM generate_series(1, 30000) AS i;
             ANALYZE payments",
        )
        .await;
}

/// A value of PostgreSQL's statistics, which a session updates once a second at most.
async fn counted(server: &TestServer, statistic: &str) -> i64 {
    sleep(Duration::from_millis(1200)).await;
    server.get("/health/ready").await;
    sleep(Duration::from_millis(100)).await;
    server.database.number(statistic).await
}

#[tokio::test]
async fn a_page_reads_only_its_own_rows_however_large_the_table_is() {
    let server = TestServer::start_with(&["--read-connections", "1"]).await;
    fill(&server).await;
    let read = async || {
        let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                      + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes) FROM pg_stat_user_tables";
        counted(&server, read).await
    };
    let mut before = read().await;
    for (query, expected) in [
        ("limit=200", 200),
        ("limit=200&user_id=user-7", 200),
        // This user has many payments, but old ones: a scan of all payments would find them late.
        ("limit=200&user_id=early", 200),
        ("limit=200&user_id=early&cursor=100000000000000000000000000001000", 200),
        ("limit=200&user_id=rare", 15),
        ("limit=200&cursor=100000000000000000000000000002000", 200),
    ] {
        let page = server.get(&format!("/payment?{query}")).await;
        assert_eq!(ids(&page).len(), expected, "{query}");
        let after = read().await;
        // Each payment in index and table, plus the readiness check.
        assert!(after - before < 450, "{query}: {} rows read", after - before);
        before = after;
    }
    // A user without payments, in an account that is small enough to be read and sorted.
    server
        .database
        .execute(
            "UPDATE payments SET account_id = gen_random_uuid()
             WHERE transaction_id > lpad(to_hex(3000), 32, '0')::uuid; ANALYZE payments",
        )
        .await;
    let before = read().await;
    assert!(ids(&server.get("/payment?user_id=nobody").await).is_empty());
    let read = read().await - before;
    assert!(read < 450, "{read} rows read");
}

/// A server that planned all its statements for nearly empty tables, which then grew to fifty thousand rows.
async fn grown() -> TestServer {
    let server = TestServer::start().await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("before-{number}"), PAYMENT).await.status, 201);
        assert_eq!(server.pay(&format!("before-{number}"), PAYMENT).await.status, 200);
        assert_eq!(server.pay(&format!("unasked-{number}"), PAYMENT).await.status, 201);
    }
    server
        .database
        .execute(
            "INSERT INTO idempotency_keys SELECT gen_random_uuid(), 'k' || i, gen_random_uuid(), 'pay', '', now()
             FROM generate_series(1, 50000) AS i;
             INSERT INTO idempotency_responses SELECT account_id, execution_id, 201, '', '', now() + interval '1 day'
             FROM idempotency_keys WHERE operation = 'pay' AND fingerprint = ''",
        )
        .await;
    server
}

/// Creates a payment with this key, and returns how many rows and index entries have been read so far.
async fn read(server: &TestServer, key: &str) -> i64 {
    // A session updates its statistics with its next statement after a second.
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    sleep(Duration::from_millis(100)).await;
    let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                  + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes) FROM pg_stat_user_tables";
    server.database.number(read).await
}

#[tokio::test]
async fn a_replay_reads_only_its_own_rows_however_large_the_tables_are() {
    let server = grown().await;
    let before = read(&server, "a").await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("unasked-{number}"), PAYMENT).await.status, 200);
    }
    let after = read(&server, "b").await;
    // A key, its response, and an index entry of each.
    let read = after - before;
    assert!((80..1000).contains(&read), "{read} rows read for 20 replays and a payment");
}

#[tokio::test]
async fn creating_a_payment_reads_only_its_own_rows_however_large_the_tables_are() {
    let server = grown().await;
    let before = read(&server, "a").await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("after-{number}"), PAYMENT).await.status, 201);
    }
    let after = read(&server, "b").await;
    assert!(after - before < 1000, "{} rows read for 21 payments", after - before);
}
