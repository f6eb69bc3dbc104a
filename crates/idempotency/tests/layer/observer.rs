//! An observer hears of events, and cannot change them.

use std::sync::Arc;

use payonce_idempotency::{Event, Failure, Observer};

use crate::{
    commands::Act,
    engine::{Layer, PATIENCE, is_new, is_replay},
};

/// Panics at each event.
struct Clumsy;

impl Observer for Clumsy {
    fn observe(&self, _: Event<'_>) {
        panic!("an observer is clumsy")
    }
}

#[tokio::test]
async fn an_observer_that_panics_changes_nothing() {
    let layer = Layer::start().await;
    let options = layer.database.options.clone();
    let layer = layer.observed(&options, Arc::new(Clumsy)).await;
    assert!(is_new(&layer.submit("k", Act::Succeed).await));
    assert!(is_replay(&layer.submit("k", Act::Succeed).await));
    assert!(matches!(layer.submit("l", Act::Run("SELECT 1 / 0")).await, Err(Failure::Internal(_))));
    assert!(layer.engine.close(PATIENCE).await);
    assert_eq!(layer.effects().await, 1);
}
