//! A reader of the feed sees each event once, in order and without gaps, whatever happens to servers and transactions.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{Connection, PgConnection, raw_sql};
use tokio::{task::JoinHandle, time::sleep};

use crate::support::{
    PAYMENT, TestDatabase,
    binary::Serve,
    cluster::Cluster,
    feed::FeedReader,
    load::{self, Load},
    proxy::{Fault, Proxy, Step},
    retry::Clients,
};

const SECOND: Duration = Duration::from_secs(1);

/// A payment that a foreign transaction makes and announces.
const FOREIGN_PAYMENT: &str = "BEGIN;
     INSERT INTO payments (transaction_id, account_id, user_id, amount)
     VALUES ('00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000000', 'foreign', 1);
     INSERT INTO announcements (account_ids, execution_ids, types)
     VALUES ('{00000000-0000-0000-0000-000000000000}', '{00000000-0000-0000-0000-000000000001}', '{1}')";

const EXECUTED: &str = "SELECT (SELECT count(*) FROM payments) + (SELECT count(*) FROM refunds)";

/// Reads the feed at the clients' servers until it has `expected` events, once that is known.
fn read(clients: &Arc<Clients>, expected: &Arc<AtomicI64>) -> JoinHandle<FeedReader> {
    let (clients, expected) = (Arc::clone(clients), Arc::clone(expected));
    tokio::spawn(async move {
        let mut reader = FeedReader::new("&limit=100");
        let servers = || clients.servers.lock().unwrap().clone();
        let done = |reader: &FeedReader| reader.after == expected.load(Ordering::Relaxed);
        reader.read_until(servers, done).await;
        reader
    })
}

/// Refunds one payment from several clients at once, and returns their tasks.
async fn race_refunds(clients: &Arc<Clients>) -> Vec<JoinHandle<()>> {
    let payment = clients.pay("target", r#"{"user_id":"u","amount":10000}"#).await;
    let id = payment.field("transaction_id");
    let refund = |client: usize| {
        let (clients, id) = (Arc::clone(clients), id.clone());
        tokio::spawn(async move {
            for number in 0..20 {
                let key = format!("refund-{client}-{number}");
                let response = clients.refund(&id, &key, r#"{"amount":1}"#).await;
                assert!(matches!(response.status, 200 | 201), "{response:?}");
            }
        })
    };
    (0..4).map(refund).collect()
}

/// Asserts that the refunds of each payment stand in the order in which they were decided, and after their payment.
fn assert_in_order(reader: &FeedReader) {
    let mut refunded: BTreeMap<String, i64> = BTreeMap::new();
    for event in &reader.events {
        let payment = event.data["transaction_id"].as_str().unwrap().to_owned();
        let refunded = refunded.entry(payment);
        match event.data["refunded_after"].as_i64() {
            None => assert_eq!(*refunded.or_insert(0), 0, "{event:?}"),
            Some(after) => {
                let before = refunded.or_insert(-1);
                assert_eq!(after, *before + event.data["amount"].as_i64().unwrap(), "{event:?}");
                *before = after;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_feed_has_each_event_once_while_servers_are_killed_and_transactions_stay_open() {
    let database = TestDatabase::create().await;
    let mut snapshot = database.connect().await;
    let hold = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM payments";
    raw_sql(hold).execute(&mut snapshot).await.unwrap();
    let mut foreign = database.connect().await;
    raw_sql(FOREIGN_PAYMENT).execute(&mut foreign).await.unwrap();

    let start = || Serve::start(&database.options, &[]);
    let mut servers = [start(), start()];
    let addresses: Vec<SocketAddr> = servers.iter().map(|server| server.address).collect();
    let clients = Arc::new(Clients::new(&addresses));
    let expected = Arc::new(AtomicI64::new(-1));
    let reader = read(&clients, &expected);
    let load = Load::start(&clients, 8);
    let refunds = race_refunds(&clients).await;
    for round in 0..load::duration().as_secs() * 2 {
        let place = usize::try_from(round % 2).unwrap();
        sleep(SECOND).await;
        servers[place].signal("KILL");
        servers[place].wait();
        servers[place] = start();
        clients.servers.lock().unwrap()[place] = servers[place].address;
    }
    for refunds in refunds {
        refunds.await.unwrap();
    }
    load.finish().await;
    let last = "SELECT max(first_position + cardinality(subjects) - 1) FROM event_runs";
    let before = database.number(last).await;
    raw_sql("COMMIT").execute(&mut foreign).await.unwrap();
    expected.store(database.number(EXECUTED).await, Ordering::Relaxed);
    let reader = reader.await.unwrap();
    assert_in_order(&reader);
    let lags = reader.lags();
    let p99 = lags[lags.len() * 99 / 100];
    eprintln!("{} events, lag p99 {p99:?}, failed reads {:?}", lags.len(), reader.failed);
    let late = reader.events.iter().find(|event| event.event_id.ends_with("0000000001_1")).unwrap();
    assert!(late.position > before, "{late:?} is among the first {before}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_server_goes_on_when_the_sequencing_one_is_frozen() {
    let database = TestDatabase::create().await;
    let mut frozen = Serve::start(&database.options, &[]);
    let clients = Clients::new(&[frozen.address]);
    let mut locker = database.connect().await;
    raw_sql("BEGIN; LOCK TABLE event_runs IN SHARE MODE").execute(&mut locker).await.unwrap();
    assert_eq!(clients.pay("before", PAYMENT).await.status, 201);
    // Its sequencer has the advisory lock, and cannot insert.
    database.until_locks_are_waited_for(1).await;
    frozen.signal("STOP");
    raw_sql("COMMIT").execute(&mut locker).await.unwrap();

    let healthy = Serve::start(&database.options, &[]);
    let mut reader = FeedReader::new("");
    reader.read_until(|| vec![healthy.address], |reader| reader.after == 1).await;
    frozen.signal("CONT");
    assert_eq!(clients.pay("after", PAYMENT).await.status, 201);
    reader.read_until(|| vec![frozen.address], |reader| reader.after == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_frozen_in_its_transaction_holds_up_no_other_event() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(&database.options).await;
    let transaction = [("IDEMPOTENCY_KEY_TTL", "365d")];
    let mut frozen = Serve::start(&proxy.through(&database.options), &transaction);
    let healthy = Serve::start(&database.options, &[]);
    let clients = Arc::new(Clients::new(&[healthy.address]));
    proxy.arm(Step::Announced, Fault::Hold);
    let held = tokio::spawn({
        let (clients, address) = (Arc::clone(&clients), frozen.address);
        async move { clients.send(address, "held", PAYMENT).await }
    });
    proxy.reached().await;
    frozen.signal("STOP");
    proxy.let_go();
    let mut reader = FeedReader::new("");
    for number in 1..=20 {
        assert_eq!(clients.pay(&format!("other-{number}"), PAYMENT).await.status, 201);
        reader.read_until(|| vec![healthy.address], |reader| reader.after == number).await;
    }
    // PostgreSQL has ended the transaction; the payment is made again, and has one event.
    assert_eq!(clients.pay("held", PAYMENT).await.status, 201);
    reader.read_until(|| vec![healthy.address], |reader| reader.after == 21).await;
    frozen.signal("CONT");
    held.await.unwrap();
    assert_eq!(database.number(EXECUTED).await, 21);
    assert_eq!(database.number("SELECT count(*) FROM announcements").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_that_restarts_loses_and_repeats_no_event() {
    let cluster = Cluster::start("");
    let serve = Serve::start(&cluster.options(), &[("REQUEST_DEADLINE", "1m")]);
    let clients = Arc::new(Clients::new(&[serve.address]));
    let expected = Arc::new(AtomicI64::new(-1));
    let reader = read(&clients, &expected);
    let load = Load::start(&clients, 8);
    for _ in 0..2 {
        load.until_answered(100).await;
        cluster.stop_immediately();
        cluster.start_again();
    }
    load.until_answered(100).await;
    load.finish().await;
    expected.store(cluster.number(EXECUTED).await, Ordering::Relaxed);
    assert_in_order(&reader.await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_transaction_on_a_cluster_gets_its_events_positions_when_it_commits() {
    let cluster = Cluster::start("max_prepared_transactions = 2");
    let serve = Serve::start(&cluster.options(), &[]);
    let clients = Clients::new(&[serve.address]);
    let mut conn = PgConnection::connect_with(&cluster.options()).await.unwrap();
    raw_sql(FOREIGN_PAYMENT).execute(&mut conn).await.unwrap();
    raw_sql("PREPARE TRANSACTION 'foreign'").execute(&mut conn).await.unwrap();
    let mut reader = FeedReader::new("");
    for number in 1..=3 {
        assert_eq!(clients.pay(&format!("{number}"), PAYMENT).await.status, 201);
        reader.read_until(|| vec![serve.address], |reader| reader.after == number).await;
    }
    raw_sql("COMMIT PREPARED 'foreign'").execute(&mut conn).await.unwrap();
    reader.read_until(|| vec![serve.address], |reader| reader.after == 4).await;
}
