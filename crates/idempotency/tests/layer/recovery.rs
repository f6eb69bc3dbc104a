//! Batches that fail are run again, in parts where one command is to blame.

use std::time::Duration;

use futures_util::future::join_all;
use payonce_idempotency::{Failure, Settings};

use crate::{
    commands::{Act, INSERT_OTHERS, Other, failing},
    engine::{Layer, is_new},
};

#[tokio::test]
async fn a_transaction_that_conflicts_with_another_is_run_again() {
    for state in ["40001", "40P01"] {
        let layer = Layer::start().await;
        let act = failing(6, &format!("RAISE SQLSTATE '{state}'"));
        assert!(is_new(&layer.submit("k", act).await), "{state}");
        assert_eq!(
            (layer.effects().await, layer.database.number("SELECT nextval('attempts')").await),
            (1, 8)
        );
    }
}

#[tokio::test]
async fn a_batch_whose_connection_is_lost_is_run_again() {
    let layer = Layer::start().await;
    let act = failing(1, "PERFORM pg_terminate_backend(pg_backend_pid())");
    let submitted = join_all((0..20).map(async |number| {
        let act = if number == 7 { act } else { Act::Succeed };
        layer.submit(&format!("key-{number}"), act).await
    }));
    let outcomes = layer.together(submitted).await;
    assert!(outcomes.iter().all(is_new), "{outcomes:?}");
    assert_eq!(layer.effects().await, 21);
}

#[tokio::test]
async fn transactions_are_read_committed_whatever_the_database_defaults_to() {
    let layer = Layer::start().await;
    layer
        .database
        .execute(
            "CREATE FUNCTION check_level() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                 ASSERT current_setting('transaction_isolation') = 'read committed'; RETURN NULL;
             END $$;
             CREATE TRIGGER level AFTER INSERT ON effects EXECUTE FUNCTION check_level()",
        )
        .await;
    layer.database.set("default_transaction_isolation = 'serializable'").await;
    let options = layer.database.options.clone();
    let layer = layer.through(&options, &Settings::default()).await;
    assert!(is_new(&layer.submit("executed", Act::Succeed).await));
    let inserted = layer.run("inserted", Other(INSERT_OTHERS)).await;
    assert!(is_new(&inserted), "{inserted:?}");
}

#[tokio::test]
async fn a_server_that_takes_no_writes_is_waited_for() {
    let layer = Layer::start().await;
    let act = failing(4, "RAISE SQLSTATE '25006'");
    assert!(is_new(&layer.submit("k", act).await));
}

#[tokio::test]
async fn a_command_that_kills_its_connection_ends_up_alone() {
    let settings = Settings {
        request_deadline: Duration::from_secs(8),
        in_flight_wait: Duration::from_secs(1),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    let kill =
        Act::Run("SELECT nextval('attempts'); SELECT pg_terminate_backend(pg_backend_pid())");
    let submitted = join_all((0..50).map(async |number| {
        layer.submit(&format!("key-{number}"), if number == 7 { kill } else { Act::Succeed }).await
    }));
    let outcomes = layer.together(submitted).await;
    for (number, outcome) in outcomes.iter().enumerate() {
        if number == 7 {
            let unserved = [Err(Failure::OutcomeUnknown), Err(Failure::ConnectionLost)];
            assert!(unserved.contains(outcome), "{outcome:?}");
        } else {
            assert!(is_new(outcome), "{number}: {outcome:?}");
        }
    }
    assert_eq!(layer.effects().await, 50);
    // Nobody waits for it any more: it is not tried again.
    layer.until_queued(0).await;
    let attempts = layer.database.number("SELECT last_value FROM attempts").await;
    assert!(is_new(&layer.submit("next", Act::Succeed).await));
    assert_eq!(layer.database.number("SELECT last_value FROM attempts").await, attempts);
}

#[tokio::test]
async fn a_command_fails_when_postgresql_has_run_out_of_a_resource_or_time() {
    for (state, failure) in [
        ("53100", Failure::OutOfResources),
        ("53200", Failure::OutOfResources),
        ("57014", Failure::TimedOut),
    ] {
        let layer = Layer::start().await;
        // Once in a batch, and once in quarantine.
        let act = failing(2, &format!("RAISE SQLSTATE '{state}'"));
        assert_eq!(layer.submit("k", act).await, Err(failure), "{state}");
        assert!(is_new(&layer.submit("k", act).await), "{state}");
    }
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_given_up() {
    let settings = Settings {
        request_deadline: Duration::from_secs(2),
        in_flight_wait: Duration::from_secs(1),
        ..Settings::default()
    };
    let layer = Layer::start_with(settings).await;
    assert_eq!(layer.submit("slow", Act::Run("SELECT pg_sleep(60)")).await, Err(Failure::TimedOut));
    assert!(is_new(&layer.submit("next", Act::Succeed).await));
    assert_eq!(layer.effects().await, 1);
}
