//! The records of used keys.

use payonce_idempotency::{Failure, Outcome};
use uuid::Uuid;

use crate::{
    commands::{Act, Effect, INSERT_OTHERS, Other},
    engine::{Layer, is_new, key},
};

#[tokio::test]
async fn a_refusal_is_stored_and_replayed() {
    let layer = Layer::start().await;
    let first = layer.submit("k", Act::Refuse).await;
    assert!(matches!(&first, Ok(Outcome::New { response, .. }) if response.status() == 402));
    let second = layer.submit("k", Act::Refuse).await;
    assert!(matches!(&second, Ok(Outcome::Replay { response, .. }) if response.status() == 402));
    let kept = "SELECT count(*) FROM idempotency_responses WHERE replayable_until IS NULL";
    assert_eq!(layer.database.number(kept).await, 1, "a refusal is kept as long as its key");
}

#[tokio::test]
async fn a_key_of_one_operation_is_reused_by_another() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    let reused = layer.run("k", Other(INSERT_OTHERS)).await;
    assert_eq!(reused, Ok(Outcome::Reused { fields: vec!["operation"] }));
}

#[tokio::test]
async fn keys_of_different_accounts_never_meet() {
    let layer = Layer::start().await;
    for account in 0..3 {
        let outcome = layer
            .engine
            .submit(Uuid::from_u128(account).into(), key("k"), Effect(Act::Succeed))
            .await;
        assert!(is_new(&outcome));
    }
    assert_eq!(layer.effects().await, 3);
}

#[tokio::test]
async fn a_fingerprint_that_cannot_be_read_is_a_failure_and_not_another_request() {
    let layer = Layer::start().await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    layer.database.execute("UPDATE idempotency_keys SET fingerprint = '\\x02'").await;
    assert!(matches!(layer.submit("k", Act::Succeed).await, Err(Failure::Internal(_))));
}
