//! Closing an engine: what was taken in is answered, within a limit.

use std::{sync::Arc, time::Duration};

use futures_util::future::{join, join_all, join3};
use payonce_idempotency::{AccountId, Event, Failure, Observer, Settings, Step};
use payonce_testing::database::take_lock;
use sqlx::{AssertSqlSafe, Executor};
use tokio::{sync::Notify, time::Instant};

use crate::{
    commands::{Act, Effect, Gate},
    engine::{Layer, PATIENCE, is_new, key},
};

#[tokio::test]
async fn closing_answers_what_was_taken_in_and_takes_nothing_more() {
    let layer = Layer::start().await;
    let held = layer.hold().await;
    let submitted = join_all(
        (0..20).map(async |number| layer.submit(&format!("key-{number}"), Act::Succeed).await),
    );
    let (outcomes, all, ()) = join3(submitted, layer.engine.close(PATIENCE), held.release()).await;
    assert!(all && outcomes.iter().all(is_new), "{outcomes:?}");
    assert_eq!(layer.submit("late", Act::Succeed).await, Err(Failure::Overloaded));
}

/// Hears when a key has been looked up, because it could not be claimed.
#[derive(Default)]
struct LookedUp(Notify);

impl Observer for LookedUp {
    fn observe(&self, event: Event<'_>) {
        if matches!(event, Event::Ran(Step::LookUp, _)) {
            self.0.notify_one();
        }
    }
}

#[tokio::test]
async fn closing_waits_for_a_key_that_is_in_flight_elsewhere() {
    let layer = Layer::start().await;
    let (options, looked_up) = (layer.database.options.clone(), Arc::new(LookedUp::default()));
    let layer = layer.observed(&options, Arc::<LookedUp>::clone(&looked_up)).await;
    let mut holder = layer.database.connect().await;
    let claim = format!("BEGIN; {}", take_lock("k"));
    holder.execute(AssertSqlSafe(claim)).await.unwrap();
    let closing = async {
        looked_up.0.notified().await;
        let close = layer.engine.close(PATIENCE);
        join(close, async { holder.execute("ROLLBACK").await.unwrap() }).await.0
    };
    let (outcome, all) = join(layer.submit("k", Act::Succeed), closing).await;
    assert!(all && is_new(&outcome), "{outcome:?}");
}

#[tokio::test]
async fn closing_takes_no_longer_than_it_may() {
    let settings = Settings { request_deadline: Duration::from_mins(2), ..Settings::default() };
    let layer = Layer::start_with(settings).await;
    let gate: &'static Gate = Box::leak(Box::default());
    let engine = layer.engine.clone();
    let stuck = tokio::spawn(async move {
        engine.submit(AccountId::DEFAULT, key("stuck"), Effect(Act::Hold(gate))).await
    });
    gate.entered().await;
    let begun = Instant::now();
    assert!(!layer.engine.close(Duration::from_millis(200)).await);
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!(stuck.await.unwrap(), Err(Failure::OutcomeUnknown));
}

#[tokio::test]
async fn every_caller_of_close_hears_whether_all_was_answered() {
    let layer = Layer::start().await;
    let held = layer.hold().await;
    let second = async {
        let second = layer.engine.close(Duration::from_millis(50)).await;
        held.release().await;
        second
    };
    assert_eq!(join(layer.engine.close(PATIENCE), second).await, (true, false));
    assert!(layer.engine.close(Duration::ZERO).await);
}
