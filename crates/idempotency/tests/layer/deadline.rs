//! Every call ends by its deadline, and says what the caller may rely on.

use std::time::Duration;

use futures_util::{FutureExt, future::join_all};
use payonce_idempotency::{Failure, Settings};
use tokio::time::Instant;

use crate::{
    commands::{Act, failing},
    engine::{Layer, PATIENCE, is_new, is_replay, slow_to_connect},
};

#[tokio::test]
async fn a_command_whose_caller_left_before_it_began_is_not_executed() {
    let layer = Layer::start().await;
    let held = layer.hold().await;
    assert!(layer.submit("left", Act::Succeed).now_or_never().is_none(), "it waits");
    held.release().await;
    assert!(is_new(&layer.submit("next", Act::Succeed).await));
    assert_eq!(layer.effects().await, 2);
}

#[tokio::test]
async fn at_its_deadline_a_caller_hears_whether_its_execution_had_begun() {
    let settings = Settings {
        max_batch: 1,
        request_deadline: Duration::from_secs(3),
        in_flight_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    // They are executed one by one, each until a moment of its own, so that the delays of a slow machine do not
    // add up. The fifth is being executed at its deadline.
    let now: String = layer.database.value("SELECT clock_timestamp()::text").await;
    let submit = async |name: &str, until: u32| {
        let wait = format!(
            "SET LOCAL statement_timeout = 0;
             SELECT pg_sleep_until('{now}'::timestamptz + interval '{until} milliseconds')"
        );
        layer.submit(name, Act::Run(wait.leak())).await
    };
    let outcomes = join_all([
        submit("1", 600),
        submit("2", 1200),
        submit("3", 1800),
        submit("4", 2400),
        submit("begun", 3250),
        submit("waiting", 3300),
    ])
    .await;
    assert!(outcomes[..4].iter().all(is_new), "{outcomes:?}");
    assert_eq!(outcomes[4..], [Err(Failure::OutcomeUnknown), Err(Failure::DatabaseUnavailable)]);
    // What had begun is committed, and the retry is told; what had not is not.
    assert!(is_replay(&submit("begun", 3250).await));
    assert_eq!(layer.effects().await, 5);
}

#[tokio::test]
async fn a_request_reported_as_not_executed_is_not_executed_when_the_connection_is_back() {
    let settings = Settings {
        request_deadline: Duration::from_millis(500),
        in_flight_wait: Duration::from_millis(100),
        ..Settings::default()
    };
    let layer = Layer::start().await;
    // Longer than the deadline, and shorter than what is waited for a connection.
    let options = slow_to_connect(&layer.database.options, Duration::from_millis(800)).await;
    let layer = layer.through(&options, &settings).await;
    let lost = failing(1, "PERFORM pg_terminate_backend(pg_backend_pid())");
    assert_eq!(layer.submit("k", lost).await, Err(Failure::DatabaseUnavailable));
    // The key leaves the queue when the connection is back.
    layer.until_queued(0).await;
    assert_eq!(layer.effects().await, 0);
    let (begun, mut again) = (Instant::now(), layer.submit("k", lost).await);
    while again == Err(Failure::DatabaseUnavailable) {
        assert!(begun.elapsed() < PATIENCE, "there is never a connection");
        again = layer.submit("k", lost).await;
    }
    assert!(is_new(&again), "{again:?}");
    assert_eq!(layer.effects().await, 1);
}

#[tokio::test]
async fn the_longest_times_that_are_accepted_work() {
    let layer = Layer::start_with(Settings {
        request_deadline: Duration::from_hours(1),
        in_flight_wait: Duration::from_mins(59),
        response_ttl: Some(Duration::from_hours(1000 * 365 * 24)),
        ..Settings::default()
    })
    .await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
}
