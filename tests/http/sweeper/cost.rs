//! The cost of a sweep grows with what it deletes only.

use std::time::Duration;

use payonce::{
    db::sweep::{self, Pace},
    idempotency::Sweeper,
};
use payonce_testing::TestDatabase;

/// Planning reads the index past all entries that this sweep has deleted.
#[tokio::test]
async fn a_sweep_is_planned_once_for_all_pages() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body, replayable_until)
             SELECT '00000000-0000-0000-0000-000000000000', lpad(to_hex(i), 32, '0')::uuid, 201, '', '', now() - interval '1 day'
             FROM generate_series(1, 40000) AS i;
             ANALYZE idempotency_responses",
        )
        .await;
    let mut sweeper = Sweeper::new(Some(Duration::from_hours(24)), None);
    let swept = sweep::pass(&mut sweeper, &database.options, Pace::Full, |_, _| {}).await.unwrap();
    assert_eq!(swept, (40_000, 0));
    // PostgreSQL counts what a session did when the session ends.
    database.until_other_clients_are(0).await;
    let scans = "SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'idempotency_responses_pkey'";
    let scans = database.number(scans).await;
    // Three scans for each of 41 pages: the page, its rows, and the next expiry.
    assert!((100..=140).contains(&scans), "{scans}");
}

#[tokio::test]
async fn a_sweep_reads_each_key_a_few_times_however_many_there_are() {
    let database = TestDatabase::create_plain().await;
    database
        .execute(
            "INSERT INTO idempotency_keys
             SELECT '00000000-0000-0000-0000-000000000000', 'k' || i, gen_random_uuid(), 'pay', '', now() - interval '2 days'
             FROM generate_series(1, 20000) AS i;
             ANALYZE idempotency_keys",
        )
        .await;
    let day = Some(Duration::from_hours(24));
    let mut sweeper = Sweeper::new(day, day);
    let swept = sweep::pass(&mut sweeper, &database.options, Pace::Full, |_, _| {}).await.unwrap();
    assert_eq!(swept, (0, 20_000));
    // PostgreSQL counts what a session did when the session ends.
    database.until_other_clients_are(0).await;
    let read = "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'idempotency_keys_pkey'";
    let read = database.number(read).await;
    assert!((20_000..=80_000).contains(&read), "{read}");
}
