//! The sequencer gives each announced event one position, in the order of the announcements, without gaps.

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use payonce::{
    events::sequencer::{self, Pass, Seen, Sequenced, sequence_once},
    ids::AccountId,
};
use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    metrics::{Sample, becomes, reaches},
    wait::eventually,
};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, raw_sql};
use tokio::task::JoinSet;
use uuid::Uuid;

/// A database, and a connection to sequence on.
struct Feed {
    database: TestDatabase,
    conn: PgConnection,
    seen: Seen,
}

impl Feed {
    async fn new() -> Self {
        let database = TestDatabase::create().await;
        let conn = sequencer::connect(&database.options).await.unwrap();
        Self { database, conn, seen: Seen::default() }
    }

    /// Announces events with these numbers in one transaction, as [`announce`] does.
    async fn announce(&self, account: u128, events: &[u128]) {
        let mut conn = self.database.connect().await;
        announce(&mut conn, account, events).await;
        conn.close().await.unwrap();
    }

    /// Runs one pass that nothing hinders.
    async fn pass(&mut self) -> Pass {
        match sequence_once(&mut self.conn, &mut self.seen).await.unwrap() {
            Sequenced::Here(pass) => pass,
            Sequenced::Elsewhere => panic!("another session is sequencing"),
        }
    }

    /// The numbers of an account's events, in the order of their positions, which have no gap.
    async fn events(&self, account: u128) -> Vec<u128> {
        let mut conn = self.database.connect().await;
        events(&mut conn, account).await
    }
}

/// Announces events with these numbers, of one type.
async fn announce(conn: &mut PgConnection, account: u128, events: &[u128]) {
    let events: Vec<Uuid> = events.iter().copied().map(Uuid::from_u128).collect();
    let announce = "INSERT INTO announcements (account_ids, execution_ids, types) VALUES (ARRAY[$1::uuid], $2, '{1}')";
    sqlx::query(announce).bind(Uuid::from_u128(account)).bind(events).execute(conn).await.unwrap();
}

async fn events(conn: &mut PgConnection, account: u128) -> Vec<u128> {
    let found: Vec<(i64, Uuid)> = sqlx::query_as(
        "SELECT first_position + place - 1, subject
         FROM event_runs, unnest(subjects) WITH ORDINALITY AS event(subject, place)
         WHERE account_id = $1 ORDER BY 1",
    )
    .bind(Uuid::from_u128(account))
    .fetch_all(conn)
    .await
    .unwrap();
    let positions: Vec<i64> = found.iter().map(|(position, _)| *position).collect();
    assert!(
        (1..).zip(&positions).all(|(expected, position)| expected == *position),
        "{positions:?}"
    );
    found.into_iter().map(|(_, subject)| subject.as_u128()).collect()
}

#[tokio::test]
async fn positions_of_each_account_begin_at_one_and_continue_without_gaps() {
    let mut feed = Feed::new().await;
    feed.announce(1, &[10, 11]).await;
    feed.announce(2, &[20]).await;
    feed.announce(1, &[12]).await;
    let pass = feed.pass().await;
    assert_eq!(pass.accounts, [1, 2].map(|number| AccountId::from(Uuid::from_u128(number))));
    assert_eq!((pass.events, pass.ages.len(), pass.more), (4, 3, false));
    feed.announce(1, &[13]).await;
    feed.pass().await;
    assert_eq!(feed.events(1).await, [10, 11, 12, 13]);
    assert_eq!(feed.events(2).await, [20]);
    assert_eq!(feed.pass().await, Pass::default());
    assert_eq!(feed.database.number("SELECT count(*) FROM announcements").await, 0);
}

/// A transaction gets its xid when it first writes, which may be before it waits for a row's lock.
#[tokio::test]
async fn events_stand_in_the_order_of_their_announcements_and_not_of_their_transactions() {
    let mut feed = Feed::new().await;
    let mut earlier = feed.database.connect().await;
    raw_sql("BEGIN; SELECT pg_current_xact_id()").execute(&mut earlier).await.unwrap();
    feed.announce(1, &[10]).await;
    announce(&mut earlier, 1, &[11]).await;
    raw_sql("COMMIT").execute(&mut earlier).await.unwrap();
    feed.pass().await;
    assert_eq!(feed.events(1).await, [10, 11]);
}

#[tokio::test]
async fn a_transaction_that_commits_late_holds_up_nobody_and_gets_later_positions() {
    let mut feed = Feed::new().await;
    let mut late = feed.database.connect().await;
    raw_sql("BEGIN").execute(&mut late).await.unwrap();
    announce(&mut late, 1, &[10]).await;
    for event in [11, 12] {
        feed.announce(1, &[event]).await;
        assert_eq!(feed.pass().await.events, 1);
    }
    raw_sql("COMMIT").execute(&mut late).await.unwrap();
    assert_eq!(feed.pass().await.events, 1);
    assert_eq!(feed.events(1).await, [11, 12, 10]);
}

#[tokio::test]
async fn one_session_sequences_at_a_time() {
    let mut feed = Feed::new().await;
    feed.announce(1, &[10]).await;
    let mut other = feed.database.connect().await;
    let lock = "BEGIN; SELECT pg_advisory_xact_lock(1885436271, 1)";
    raw_sql(lock).execute(&mut other).await.unwrap();
    let elsewhere = sequence_once(&mut feed.conn, &mut feed.seen).await.unwrap();
    assert_eq!(elsewhere, Sequenced::Elsewhere);
    raw_sql("COMMIT").execute(&mut other).await.unwrap();
    assert_eq!(feed.pass().await.events, 1);
}

/// With the lock and the look in one statement, its snapshot is older than the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_take_turns_give_each_event_one_position() {
    let feed = Feed::new().await;
    let mut tasks = JoinSet::new();
    for writer in 0..4 {
        let mut conn = feed.database.connect().await;
        tasks.spawn(async move {
            for number in 0..100 {
                announce(&mut conn, 1, &[writer * 1000 + number]).await;
            }
        });
    }
    for _ in 0..4 {
        let mut conn = sequencer::connect(&feed.database.options).await.unwrap();
        tasks.spawn(async move {
            let mut seen = Seen::default();
            while events(&mut conn, 1).await.len() < 400 {
                sequence_once(&mut conn, &mut seen).await.unwrap();
            }
        });
    }
    while let Some(task) = tasks.join_next().await {
        task.unwrap();
    }
    let events = feed.events(1).await;
    assert_eq!(events.iter().collect::<BTreeSet<_>>().len(), events.len());
    // Each writer's events are in its order.
    for writer in 0..4 {
        let own: Vec<_> = events.iter().filter(|event| **event / 1000 == writer).collect();
        assert!(own.is_sorted(), "{own:?}");
    }
}

#[tokio::test]
async fn a_pass_takes_a_thousand_announcements_and_about_twenty_thousand_events() {
    let mut feed = Feed::new().await;
    let many = "INSERT INTO announcements (account_ids, execution_ids, types)
                SELECT ARRAY[gen_random_uuid()], ARRAY(SELECT gen_random_uuid() FROM generate_series(1, $1)), '{1}'
                FROM generate_series(1, $2)";
    for (events, announcements, taken) in [(1, 1200, [1000, 200]), (512, 50, [40, 10])] {
        let query = sqlx::query(many).bind(events).bind(announcements);
        query.execute(&mut feed.database.connect().await).await.unwrap();
        for (expected, more) in taken.into_iter().zip([true, false]) {
            let pass = feed.pass().await;
            assert_eq!((pass.ages.len(), pass.more), (expected, more));
        }
    }
    let over_limit = "SELECT count(*) FROM event_runs WHERE cardinality(subjects) > 100";
    assert_eq!(feed.database.number(over_limit).await, 0);
    let events = "SELECT sum(cardinality(subjects))::bigint FROM event_runs";
    assert_eq!(feed.database.number(events).await, 1200 + 512 * 50);
}

#[tokio::test]
async fn a_pass_whose_deletions_or_runs_are_dropped_changes_nothing() {
    for (table, event) in [("announcements", "DELETE"), ("event_runs", "INSERT")] {
        let mut feed = Feed::new().await;
        feed.announce(1, &[10]).await;
        let drop = format!(
            "CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
             CREATE TRIGGER nothing BEFORE {event} ON {table} FOR EACH ROW EXECUTE FUNCTION nothing()"
        );
        feed.database.execute(&drop).await;
        let refused = sequence_once(&mut feed.conn, &mut feed.seen).await.unwrap_err().to_string();
        assert!(refused.contains("0 ") && refused.contains("instead of 1"), "{refused}");
        feed.database.execute(&format!("DROP TRIGGER nothing ON {table}")).await;
        feed.conn = sequencer::connect(&feed.database.options).await.unwrap();
        assert_eq!(feed.pass().await.events, 1);
        assert_eq!(feed.events(1).await, [10]);
    }
}

/// Runs twenty passes over fifty announcements each while another transaction is open, and returns the index
/// entries of announcements that they read.
async fn entries_read_beside(transaction: &str) -> i64 {
    let mut feed = Feed::new().await;
    let mut other = feed.database.connect().await;
    other.execute(AssertSqlSafe(transaction)).await.unwrap();
    let mut writer = feed.database.connect().await;
    for round in 0..20 {
        for number in 0..50 {
            announce(&mut writer, 1, &[round * 100 + number]).await;
        }
        assert_eq!(feed.pass().await.events, 50);
    }
    // PostgreSQL counts what a session did when the session ends.
    feed.conn.close().await.unwrap();
    feed.database.until_other_clients_are(2).await;
    let read =
        "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname = 'announcements_by_xid'";
    feed.database.number(read).await
}

#[tokio::test]
async fn a_pass_reads_only_new_announcements_while_another_transaction_is_open() {
    for transaction in [
        "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM payments",
        "BEGIN; SELECT pg_current_xact_id(); SELECT count(*) FROM payments",
        "BEGIN; INSERT INTO announcements (account_ids, execution_ids, types) VALUES ('{}', '{}', '{}')",
    ] {
        // Each is read once to be taken and once to be deleted.
        let read = entries_read_beside(transaction).await;
        assert!((2000..2200).contains(&read), "{transaction}: {read}");
    }
}

#[tokio::test]
async fn the_transaction_of_a_session_that_hangs_is_ended_after_a_moment() {
    let mut feed = Feed::new().await;
    let begun = Instant::now();
    raw_sql("BEGIN; SELECT pg_advisory_xact_lock(1885436271, 1)")
        .execute(&mut feed.conn)
        .await
        .unwrap();
    let mut other = sequencer::connect(&feed.database.options).await.unwrap();
    eventually("another session sequences", async || {
        let sequenced = sequence_once(&mut other, &mut Seen::default()).await.unwrap();
        (sequenced != Sequenced::Elsewhere).then_some(())
    })
    .await;
    assert!(begun.elapsed() >= Duration::from_millis(200), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_server_sequences_what_it_commits_and_what_others_announce() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    let runs = "SELECT count(*) FROM event_runs";
    server.database.until(runs, |count| count == 1).await;
    let mut conn = server.database.connect().await;
    announce(&mut conn, 1, &[10]).await;
    server.database.until(runs, |count| count == 2).await;
    Sample::of(&server).await.assert("payonce_events_total", 2);
    becomes(&server, "payonce_sequencer_lag_seconds", |lag| lag > 0.0).await;
}

/// The lag and the failures are what an operator sees while events wait.
#[tokio::test]
async fn a_sequencer_that_fails_says_so_and_goes_on_afterwards() {
    let server = TestServer::start().await;
    server.database.execute("ALTER TABLE event_runs RENAME TO elsewhere").await;
    server.pay("k", PAYMENT).await;
    reaches(&server, "payonce_sequencer_failures_total", 2).await;
    reaches(&server, "payonce_sequencer_lag_seconds", 2).await;
    server.database.execute("ALTER TABLE elsewhere RENAME TO event_runs").await;
    server.database.until("SELECT count(*) FROM event_runs", |count| count == 1).await;
    becomes(&server, "payonce_sequencer_lag_seconds", |lag| lag < 2.0).await;
}

#[tokio::test]
async fn after_a_time_without_events_the_feed_is_complete_since_the_next_start_with_events() {
    let database = Arc::new(TestDatabase::create().await);
    let complete = "SELECT count(*) FROM event_feed WHERE announcing AND complete_since IS NULL";
    drop(TestServer::start_on(&database, &[]).await);
    assert_eq!(database.number(complete).await, 1);
    let off = TestServer::start_on(&database, &["--events", "off"]).await;
    off.pay("k", PAYMENT).await;
    assert_eq!(database.number("SELECT count(*) FROM event_feed WHERE announcing").await, 0);
    assert_eq!(database.number("SELECT count(*) FROM announcements").await, 0);
    let sequencers = "SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND application_name = 'payonce sequencer'";
    assert_eq!(database.number(sequencers).await, 0);
    drop(off);
    let _on = TestServer::start_on(&database, &[]).await;
    let since = "SELECT count(*) FROM event_feed, payments
         WHERE announcing AND complete_since > created_at";
    database.until(since, |count| count == 1).await;
}
