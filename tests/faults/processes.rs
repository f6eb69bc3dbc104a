//! Servers that are killed, stopped and frozen under load.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::{
    PAYMENT, TestDatabase,
    binary::Serve,
    load::{self, Load, assert_exactly_once},
    proxy::{Fault, Proxy, Step},
    retry::Clients,
    wait::until,
};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_repeatedly_loses_and_duplicates_nothing() {
    let database = TestDatabase::create().await;
    let clients = Arc::new(Clients::new(&[]));
    let start = || {
        let serve = Serve::start(&database.options, &[]);
        *clients.servers.lock().unwrap() = vec![serve.address];
        serve
    };
    let mut serve = start();
    let load = Load::start(&clients, 32);
    let (begun, mut kills) = (Instant::now(), 0);
    // On a slow machine, until there are enough kills and payments.
    while begun.elapsed() < load::duration() * 2 || load.done() < 1000 || kills < 10 {
        let (done, took) = (load.done(), begun.elapsed());
        assert!(took < load::duration() * 2 + 60 * SECOND, "{done} payments, {kills} kills");
        sleep(Duration::from_millis(fastrand::u64(20..400))).await;
        serve.signal("KILL");
        serve.wait();
        serve = start();
        kills += 1;
    }
    load.finish().await;
    let payments = assert_exactly_once(&clients, &database.options).await;
    eprintln!(
        "{payments} payments, {kills} kills, failed attempts by status: {:?}",
        clients.failures()
    );
    assert!(clients.failures().contains_key(&0), "some request was cut off");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_stops_under_load_answers_everything_that_it_executed() {
    for _ in 0..3 {
        let database = TestDatabase::create().await;
        let mut serve = Serve::start(&database.options, &[]);
        let clients = Arc::new(Clients::new(&[serve.address]));
        let sending = join_all((0..32).map(|client| {
            let (clients, address) = (Arc::clone(&clients), serve.address);
            tokio::spawn(async move {
                for number in 0.. {
                    if clients
                        .send(address, &format!("key-{client}-{number}"), PAYMENT)
                        .await
                        .is_none()
                    {
                        break;
                    }
                }
            })
        }));
        let answered =
            async || clients.heard().values().filter(|heard| heard.created == 1).count() > 50;
        until("fifty payments are answered", answered).await;
        serve.signal("TERM");
        let (status, log) = serve.wait();
        sending.await;
        assert!(status.success() && log.contains("stopped"), "{status}: {log}");
        // Requests that the server did not accept must not be executed.
        let heard = clients.heard();
        let answered = heard.values().filter(|heard| heard.created == 1).count();
        assert_eq!(database.payments().await, i64::try_from(answered).unwrap());
        assert!(
            clients.failures().keys().all(|status| matches!(status, 0 | 503)),
            "{:?}",
            clients.failures()
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_servers_that_both_get_each_request_create_one_payment() {
    let database = TestDatabase::create().await;
    let patient = [("IN_FLIGHT_WAIT", "1m"), ("REQUEST_DEADLINE", "2m")];
    let servers = [(); 2].map(|()| Serve::start(&database.options, &patient));
    let addresses = [servers[0].address, servers[1].address];
    let clients = Arc::new(Clients::patient(&addresses));
    let begun = Instant::now();
    join_all((0..16).map(|client| {
        let clients = Arc::clone(&clients);
        tokio::spawn(async move {
            for number in 0.. {
                if begun.elapsed() > load::duration() {
                    break;
                }
                let key = format!("key-{client}-{number}");
                let (one, two) = tokio::join!(
                    clients.send(addresses[0], &key, PAYMENT),
                    clients.send(addresses[1], &key, PAYMENT),
                );
                let statuses = [one.unwrap().status, two.unwrap().status];
                assert!(statuses == [200, 201] || statuses == [201, 200], "{key}: {statuses:?}");
            }
        })
    }))
    .await
    .into_iter()
    .for_each(|client| client.unwrap());
    assert_exactly_once(&clients, &database.options).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_delays_nobody_and_executes_nothing_twice_when_it_wakes() {
    let transaction: &[_] = &[("IDEMPOTENCY_KEY_TTL", "365d")];
    for (settings, step, commits) in [
        (&[][..], Step::StatementSent, true),
        (&[][..], Step::StatementCommitted, true),
        (transaction, Step::Claimed, false),
        (transaction, Step::Executed, false),
        (transaction, Step::Stored, false),
        (transaction, Step::CommitSent, true),
    ] {
        let database = TestDatabase::create().await;
        let proxy = Proxy::start(&database.options).await;
        let mut frozen = Serve::start(&proxy.through(&database.options), settings);
        let healthy = Serve::start(&database.options, &[]);
        let clients = Arc::new(Clients::patient(&[healthy.address]));

        proxy.arm(step, Fault::Hold);
        let to_frozen = tokio::spawn({
            let (clients, address) = (Arc::clone(&clients), frozen.address);
            async move { clients.send(address, "held", PAYMENT).await }
        });
        proxy.reached().await;
        frozen.signal("STOP");
        proxy.let_go();

        // Other keys are executed at the first attempt.
        for number in 0..50 {
            let key = format!("other-{number}");
            let response = clients.send(healthy.address, &key, PAYMENT).await;
            assert_eq!(response.unwrap().status, 201, "{step:?}");
        }
        // Its own key is unused again when PostgreSQL ends the transaction, unless a statement sent before the
        // freeze commits it.
        let taken_over = clients.pay("held", PAYMENT).await;
        let status = if commits { 200 } else { 201 };
        assert_eq!(taken_over.status, status, "{step:?}");

        frozen.signal("CONT");
        let woken = to_frozen.await.unwrap().expect("a response");
        assert!(matches!(woken.status, 200 | 201 | 503), "{step:?}: {woken:?}");
        *clients.servers.lock().unwrap() = vec![frozen.address];
        assert_eq!(clients.pay("held", PAYMENT).await.body, taken_over.body);
        assert_eq!(assert_exactly_once(&clients, &database.options).await, 51);
    }
}
