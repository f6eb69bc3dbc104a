//! A batch is one transaction, and one command's fault fails that command alone.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::{
    FutureExt,
    future::{join, join_all},
};
use payonce_idempotency::{Failure, Settings};
use tokio::time::Instant;

use crate::{
    commands::{Act, Broken, INSERT_OTHERS, Idle, Other},
    engine::{Layer, PATIENCE, is_new, slow_to_connect},
};

#[tokio::test]
async fn a_guilty_command_fails_alone() {
    for guilty in [
        Act::Run("INSERT INTO effects VALUES (NULL)"),
        Act::Run("SELECT 9223372036854775807 + 1"),
        Act::Run("SELECT * FROM nowhere"),
        Act::Swallow,
        Act::Panic,
        Act::ForgetResponse,
        Act::MalformHeader,
    ] {
        let layer = Layer::start().await;
        let submitted = join_all((0..20).map(async |number| {
            let act = if number == 7 { guilty } else { Act::Succeed };
            layer.submit(&format!("key-{number}"), act).await
        }));
        let outcomes = layer.together(submitted).await;
        for (number, outcome) in outcomes.iter().enumerate() {
            if number == 7 {
                assert!(matches!(outcome, Err(Failure::Internal(_))), "{guilty:?}: {outcome:?}");
            } else {
                assert!(is_new(outcome), "{guilty:?}: {outcome:?}");
            }
        }
        assert_eq!(layer.effects().await, 20, "{guilty:?}");
        // Nothing of it is stored.
        assert_eq!(layer.database.number("SELECT count(*) FROM idempotency_keys").await, 20);
        assert!(is_new(&layer.submit("key-7", Act::Succeed).await));
    }
}

#[tokio::test]
async fn a_defect_that_drops_the_connection_does_not_delay_the_responses_of_the_batch_before() {
    let layer = Layer::start().await;
    let delay = Duration::from_secs(3);
    let options = slow_to_connect(&layer.database.options, delay).await;
    let settings = Settings { request_deadline: Duration::from_mins(1), ..Settings::default() };
    let layer = layer.through(&options, &settings).await;
    let held = layer.hold().await;
    let begun = Instant::now();
    let submitted = join(layer.run("a", Other("")), layer.run("b", Other(INSERT_OTHERS)));
    let before = async {
        held.release().await;
        begun.elapsed()
    };
    let ((defect, other), before) = join(submitted, before).await;
    assert!(matches!(defect, Err(Failure::Internal(_))), "{defect:?}");
    assert!(is_new(&other), "{other:?}");
    assert!(begun.elapsed() > delay, "the defect cost no connection");
    assert!(before < delay, "answered after {before:?}, when there was a connection again");
    assert!(layer.engine.close(PATIENCE).await, "a key is left in the queue");
}

#[tokio::test]
async fn a_command_that_panics_while_it_is_submitted_fails_its_caller_alone() {
    let layer = Layer::start().await;
    let broken = AssertUnwindSafe(layer.run("k", Broken)).catch_unwind();
    let others = join_all(["a", "b"].map(|name| layer.submit(name, Act::Succeed)));
    let (broken, others) = layer.together(join(broken, others)).await;
    assert!(broken.is_err(), "it panicked");
    assert!(others.iter().all(is_new), "{others:?}");
    assert!(is_new(&layer.submit("k", Act::Succeed).await), "its key is free");
}

#[tokio::test]
async fn waiting_commands_of_all_types_share_one_transaction() {
    let layer = Layer::start().await;
    let effects =
        (0..8).map(async |number| layer.submit(&format!("e-{number}"), Act::Succeed).await);
    let others =
        (0..8).map(async |number| layer.run(&format!("o-{number}"), Other(INSERT_OTHERS)).await);
    let (effects, others) = layer.together(join(join_all(effects), join_all(others))).await;
    assert!(effects.iter().chain(&others).all(is_new));
    assert_eq!(layer.database.number("SELECT count(DISTINCT xmin::text) FROM effects").await, 2);
}

#[tokio::test]
async fn many_waiting_commands_are_executed_in_two_halves() {
    let layer = Layer::start().await;
    let submitted =
        (0..40).map(async |number| layer.submit(&format!("e-{number}"), Act::Succeed).await);
    let effects = layer.together(join_all(submitted)).await;
    assert!(effects.iter().all(is_new));
    // Of 41 keys, with that of the batch before.
    let sizes = "SELECT (SELECT max(size) * 1000 + count(*) FROM (SELECT count(*) AS size FROM effects GROUP BY xmin::text) AS batch)";
    assert_eq!(layer.database.number(sizes).await, 21_003);
}

#[tokio::test]
async fn an_error_that_only_the_commit_brings_fails_the_command() {
    let layer = Layer::start().await;
    layer
        .database
        .execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'too late'; END $$;
             CREATE CONSTRAINT TRIGGER late AFTER INSERT ON effects DEFERRABLE INITIALLY DEFERRED
             FOR EACH ROW EXECUTE FUNCTION refuse()",
        )
        .await;
    let inserted = layer.run("o", Other(INSERT_OTHERS)).await;
    let executed = layer.submit("e", Act::Succeed).await;
    for outcome in [inserted, executed] {
        assert!(
            matches!(&outcome, Err(Failure::Internal(why)) if why.to_string().contains("too late")),
            "{outcome:?}"
        );
    }
    assert_eq!(layer.database.number("SELECT count(*) FROM idempotency_keys").await, 0);
}

#[tokio::test]
async fn a_command_that_does_nothing_at_all_fails() {
    let layer = Layer::start().await;
    let outcome = layer.run("k", Idle).await;
    assert!(matches!(outcome, Err(Failure::Internal(_))), "{outcome:?}");
}

#[tokio::test]
async fn an_execution_whose_response_was_not_stored_is_not_committed() {
    let layer = Layer::start().await;
    layer
        .database
        .execute(
            "CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER lose BEFORE INSERT ON idempotency_responses FOR EACH ROW EXECUTE FUNCTION lose()",
        )
        .await;
    // In a transaction, and in the one statement.
    assert!(matches!(layer.submit("k", Act::Succeed).await, Err(Failure::Internal(_))));
    let other = layer.run("k", Other(INSERT_OTHERS)).await;
    let sentence = "an incomplete batch was rolled back: 1 commands, 1 keys claimed, 1 rows inserted, 0 responses stored";
    assert!(
        matches!(&other, Err(Failure::Internal(why)) if why.to_string().contains(sentence)),
        "{other:?}"
    );
    assert_eq!(layer.effects().await, 0);
}

#[tokio::test]
async fn a_stored_response_that_cannot_be_read_fails_its_own_request_alone() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("broken", Act::Succeed).await));
    layer.database.execute("UPDATE idempotency_responses SET headers = 'no header'").await;
    let submitted = join(layer.submit("broken", Act::Succeed), layer.submit("fine", Act::Succeed));
    let (broken, fine) = layer.together(submitted).await;
    assert!(matches!(broken, Err(Failure::Internal(_))) && is_new(&fine));
}
