//! Several servers share the endpoints.

use std::sync::Arc;

use payonce_testing::{
    TestDatabase, TestServer,
    metrics::becomes,
    receiver::{Answer, Receiver},
    webhooks::LOCAL_RECEIVERS,
};

const ENDPOINTS: i64 = 6;

#[tokio::test]
async fn two_servers_share_the_endpoints_and_deliver_each_event_once() {
    let database = Arc::new(TestDatabase::create().await);
    let receiver = Receiver::start().await;
    for number in 0..ENDPOINTS {
        database.create_endpoint(&receiver.url(&number.to_string()), 0).await;
    }
    database.create_events(50).await;
    let mut first = TestServer::start_on(&database, &LOCAL_RECEIVERS).await;
    becomes(&first.metrics, "payonce_webhook_endpoints_leased", |leased| leased > 5.5).await;
    let second = TestServer::start_on(&database, &LOCAL_RECEIVERS).await;
    // Only endpoints with something to deliver change hands.
    let leased = async |server: &TestServer| {
        let name = "payonce_webhook_endpoints_leased";
        becomes(&server.metrics, name, |leased| (2.5..3.5).contains(&leased)).await;
    };
    database.create_events(50).await;
    let feeding = async {
        loop {
            database.create_events(1).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        () = feeding => unreachable!(),
        ((), ()) = async { tokio::join!(leased(&first), leased(&second)) } => {}
    }
    first.stop();
    let events = database
        .number("SELECT max(first_position + cardinality(subjects) - 1) FROM event_runs")
        .await;
    database.until_delivered(ENDPOINTS, events).await;
    drop(second);
    assert_eq!(
        database.number("SELECT count(*) FROM webhook_endpoints WHERE lease_until > now()").await,
        0,
        "leases are released when a server stops"
    );
    for number in 0..ENDPOINTS {
        let mut positions = receiver.positions(&number.to_string());
        positions.sort_unstable();
        assert_eq!(positions, (1..=events).collect::<Vec<_>>(), "endpoint {number}");
    }
}

#[tokio::test]
async fn a_server_that_stops_finishes_its_calls_first() {
    let database = Arc::new(TestDatabase::create().await);
    let receiver = Receiver::start().await;
    receiver.answer(Answer::After(std::time::Duration::from_millis(700)));
    database.create_endpoint(&receiver.url("hook"), 0).await;
    database.create_events(100).await;
    let mut server = TestServer::start_on(&database, &LOCAL_RECEIVERS).await;
    receiver.until(8).await;
    server.stop();
    receiver.answer(Answer::Status(200));
    let _next = TestServer::start_on(&database, &LOCAL_RECEIVERS).await;
    database.until_delivered(1, 100).await;
    assert_eq!(receiver.count(), 100);
}
