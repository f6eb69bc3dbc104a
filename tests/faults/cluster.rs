//! A PostgreSQL that is stopped, killed and promoted under load.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep};

use crate::support::{
    binary::Serve,
    cluster::Cluster,
    load::{self, Load, assert_exactly_once},
    proxy::Proxy,
    retry::Clients,
};

const SECOND: Duration = Duration::from_secs(1);

/// No request meets its deadline, however long PostgreSQL takes to start on a busy machine.
const PATIENT: [(&str, &str); 1] = [("REQUEST_DEADLINE", "1m")];

/// Stops PostgreSQL under load repeatedly, each time for more than a second, and asserts that requests
/// are only delayed.
async fn assert_outages_are_waited_out(bring_down: fn(&Cluster)) {
    let cluster = Cluster::start("");
    let serve = Serve::start(&cluster.options(), &PATIENT);
    let clients = Arc::new(Clients::patient(&[serve.address]));
    let load = Load::start(&clients, 16);
    let outages = load::duration().as_secs().div_ceil(2);
    for _ in 0..outages {
        load.until_answered(200).await;
        bring_down(&cluster);
        sleep(3 * SECOND / 2).await;
        cluster.start_again();
    }
    load.until_answered(200).await;
    let longest = load.finish().await;
    let payments = assert_exactly_once(&clients, &cluster.options()).await;
    eprintln!(
        "{payments} payments, {outages} outages, the longest took {longest:?}: {:?}",
        clients.failures()
    );
    assert!(clients.failures().is_empty(), "late, and not refused: {:?}", clients.failures());
    assert!(longest > SECOND, "some waited for an outage to end: {longest:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_while_postgresql_restarts_after_an_immediate_shutdown() {
    assert_outages_are_waited_out(Cluster::stop_immediately).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_wait_while_a_killed_postgresql_restarts() {
    assert_outages_are_waited_out(Cluster::kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_payments_survive_the_promotion_of_a_synchronous_standby() {
    let primary = Cluster::start("synchronous_standby_names = 'standby'\nmax_wal_senders = 4");
    // Nothing commits without a standby.
    let standby = primary.standby();
    let proxy = Proxy::start(&primary.options()).await;
    let serve = Serve::start(&proxy.through(&primary.options()), &[]);
    let clients = Arc::new(Clients::new(&[serve.address]));
    let load = Load::start(&clients, 16);
    load.until_answered(200).await;
    let before = load.done();

    primary.kill();
    proxy.cut_all();
    standby.promote();
    proxy.redirect(&standby.options()).await;
    // Each client may have had two requests in progress before.
    load.until_answered(2 * 16 + 1).await;
    load.finish().await;
    let payments = assert_exactly_once(&clients, &standby.options()).await;
    eprintln!(
        "{payments} payments, {before} of them before the promotion: {:?}",
        clients.failures()
    );
    // They include the first payment of each client, created before the promotion.
    for key in clients.heard().keys().step_by(50) {
        assert_eq!(clients.pay(key, crate::support::PAYMENT).await.status, 200, "{key}: a replay");
    }
    clients.assert_consistent();
}

/// A server that has created payments with these keys.
async fn used_before(primary: &Cluster, keys: &[&str]) -> Serve {
    let serve = Serve::start(&primary.options(), &[]);
    let clients = Clients::new(&[serve.address]);
    for key in keys {
        assert_eq!(clients.pay(key, crate::support::PAYMENT).await.status, 201);
    }
    serve
}

/// Where most keys are used, a server looks them up before it claims any; a standby could answer that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_replays_nothing_until_it_is_promoted() {
    let primary = Cluster::start("synchronous_standby_names = 'standby'\nmax_wal_senders = 4");
    let standby = primary.standby();
    let keys = ["a", "b", "c", "d", "before"];
    drop(used_before(&primary, &keys).await);
    let proxy = Proxy::start(&primary.options()).await;
    let serve = Serve::start(&proxy.through(&primary.options()), &PATIENT);
    let clients = Arc::new(Clients::patient(&[serve.address]));
    for key in &keys[..4] {
        assert_eq!(clients.pay(key, crate::support::PAYMENT).await.status, 200);
    }
    primary.kill();
    proxy.redirect(&standby.options()).await;
    proxy.cut_all();
    let replay = tokio::spawn({
        let clients = Arc::clone(&clients);
        async move { clients.pay("before", crate::support::PAYMENT).await.status }
    });
    // Time enough for a server that would replay from a standby.
    sleep(SECOND).await;
    assert!(!replay.is_finished(), "{:?}", replay.await);
    standby.promote();
    assert_eq!(replay.await.unwrap(), 200);
    assert!(clients.failures().is_empty(), "late, and not refused: {:?}", clients.failures());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_no_standby_has_is_not_replayed() {
    let primary = Cluster::start("synchronous_standby_names = 'standby'\nmax_wal_senders = 4");
    let standby = primary.standby();
    let settings = [("REQUEST_DEADLINE", "2s"), ("IN_FLIGHT_WAIT", "1s")];
    let mut serve = Serve::start(&primary.options(), &settings);
    let clients = Clients::new(&[serve.address]);
    standby.stop_immediately();
    let response = clients.send(serve.address, "held", crate::support::PAYMENT).await.unwrap();
    response.assert_problem(503, "outcome-unknown");

    // Server and primary restart: now the payment is visible, but still on no standby.
    serve.signal("KILL");
    serve.wait();
    primary.stop_immediately();
    primary.start_again();
    assert_eq!(primary.number("SELECT count(*) FROM payments").await, 1);
    let serve =
        Serve::start(&primary.options(), &[("AUTO_MIGRATE", "false"), settings[0], settings[1]]);
    let response = clients.send(serve.address, "held", crate::support::PAYMENT).await.unwrap();
    // No COMMIT was sent this time.
    response.assert_problem(503, "database-unavailable");

    standby.start_again();
    *clients.servers.lock().unwrap() = vec![serve.address];
    assert_eq!(clients.pay("held", crate::support::PAYMENT).await.status, 200);
    assert_eq!(assert_exactly_once(&clients, &standby.options()).await, 1);
}

/// After a batch with few replays keys are claimed first, after more of them they are looked up first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_no_standby_has_is_not_replayed_in_a_batch_with_replays() {
    tokio::join!(no_replay_without_standby(1), no_replay_without_standby(4));
}

async fn no_replay_without_standby(replays_before: usize) {
    let primary = Cluster::start("synchronous_standby_names = 'standby'\nmax_wal_senders = 4");
    let standby = primary.standby();
    let keys = &["a", "b", "c", "d"][..replays_before];
    drop(used_before(&primary, keys).await);
    let serve =
        Serve::start(&primary.options(), &[("REQUEST_DEADLINE", "2s"), ("IN_FLIGHT_WAIT", "1s")]);
    let clients = Clients::new(&[serve.address]);
    assert_eq!(clients.pay("new", crate::support::PAYMENT).await.status, 201);
    for key in keys {
        assert_eq!(clients.pay(key, crate::support::PAYMENT).await.status, 200);
    }
    standby.stop_immediately();
    let response = clients.send(serve.address, "held", crate::support::PAYMENT).await.unwrap();
    response.assert_problem(503, "outcome-unknown");

    primary.stop_immediately();
    primary.start_again();
    let begun = Instant::now();
    while begun.elapsed() < 4 * SECOND {
        let response = clients.send(serve.address, "held", crate::support::PAYMENT).await.unwrap();
        assert!(matches!(response.status, 409 | 503), "{response:?}");
    }
    standby.start_again();
    assert_eq!(clients.pay("held", crate::support::PAYMENT).await.status, 200);
    let payments = assert_exactly_once(&clients, &standby.options()).await;
    assert_eq!(payments, replays_before + 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_waits_for_its_standby_gets_no_response_before_it() {
    let primary = Cluster::start("synchronous_standby_names = 'standby'\nmax_wal_senders = 4");
    let standby = primary.standby();
    let serve =
        Serve::start(&primary.options(), &[("REQUEST_DEADLINE", "2s"), ("IN_FLIGHT_WAIT", "1s")]);
    let clients = Clients::new(&[serve.address]);
    assert_eq!(clients.pay("before", crate::support::PAYMENT).await.status, 201);

    // The COMMIT waits for a standby that is gone: neither the request nor a retry may get a success.
    standby.stop_immediately();
    for _ in 0..2 {
        let response = clients.send(serve.address, "held", crate::support::PAYMENT).await.unwrap();
        assert!(matches!(response.status, 409 | 503), "{response:?}");
    }
    // At most one connection per committer is left waiting.
    for number in 0..4 {
        let response = clients
            .send(serve.address, &format!("waiting-{number}"), crate::support::PAYMENT)
            .await
            .unwrap();
        assert!(matches!(response.status, 409 | 503), "{response:?}");
    }
    let waiting =
        primary.number("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'").await;
    assert!((1..=2).contains(&waiting), "{waiting} backends wait for the standby");
    standby.start_again();
    for number in 0..4 {
        clients.pay(&format!("waiting-{number}"), crate::support::PAYMENT).await;
    }
    assert!(matches!(clients.pay("held", crate::support::PAYMENT).await.status, 200 | 201));
    assert_eq!(assert_exactly_once(&clients, &standby.options()).await, 6);
}
