//! The places of the queue: all of them, and those of one account.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use futures_util::{
    FutureExt,
    future::{join_all, join3},
};
use payonce_idempotency::{DUPLICATES_PER_KEY, Event, Failure, Observer, Settings, Step};
use payonce_testing::database::take_lock;
use sqlx::{AssertSqlSafe, Executor};
use tokio::task::yield_now;

use crate::{
    commands::Act,
    engine::{Layer, is_new},
};

/// Counts the times that keys were looked up.
#[derive(Default)]
struct LookUps(AtomicUsize);

impl LookUps {
    fn look_ups(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Observer for LookUps {
    fn observe(&self, event: Event<'_>) {
        if matches!(event, Event::Ran(Step::LookUp, _)) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A queue of four, all of which one account may have.
fn four() -> Settings {
    Settings { queue_limit: 4, account_queue_limit: Some(4), ..Settings::default() }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once() {
    let layer = Layer::start_with(four()).await;
    let held = layer.hold().await;
    let mut waiting: Vec<_> =
        ["1", "2", "3"].map(|name| Box::pin(layer.submit(name, Act::Succeed))).into();
    for waits in &mut waiting {
        assert!(waits.now_or_never().is_none());
    }
    for name in ["4", "5"] {
        let refused = layer.submit(name, Act::Succeed).now_or_never();
        assert_eq!(refused, Some(Err(Failure::Overloaded)), "without waiting");
    }
    held.release().await;
    assert!(join_all(waiting).await.iter().all(is_new));
    assert!(is_new(&layer.submit("later", Act::Succeed).await));
}

#[tokio::test]
async fn places_of_callers_who_left_are_free() {
    let layer = Layer::start_with(four()).await;
    let held = layer.hold().await;
    for round in 0..5 {
        let names = (0..3).map(|number| format!("{round}-{number}")).collect::<Vec<_>>();
        let mut callers: Vec<_> =
            names.iter().map(|name| Box::pin(layer.submit(name, Act::Succeed))).collect();
        assert!(callers.iter_mut().all(|caller| caller.now_or_never().is_none()), "they wait");
    }
    held.release().await;
    assert!(is_new(&layer.submit("later", Act::Succeed).await));
    assert_eq!(layer.effects().await, 2);
}

/// Asserts that an account with a limit of 2 can have exactly its share: no place was lost, and none won.
async fn assert_whole_share(layer: &Layer, name: &str) {
    let held = layer.hold().await;
    let mut duplicates: Vec<_> =
        (0..10).map(|_| Box::pin(layer.submit(name, Act::Succeed))).collect();
    let refused: Vec<_> = duplicates.iter_mut().filter_map(FutureExt::now_or_never).collect();
    assert_eq!(refused, [Err(Failure::ShareExceeded)], "{name}: all but one wait");
    assert_eq!(duplicates.len() - refused.len(), 1 + 2 * DUPLICATES_PER_KEY);
    let third_key = layer.submit(&format!("{name}-2"), Act::Succeed).now_or_never();
    assert_eq!(third_key, Some(Err(Failure::ShareExceeded)), "{name}");
    // The last one is the one that was refused.
    drop(duplicates.pop());
    held.release().await;
    assert!(join_all(duplicates).await.iter().all(Result::is_ok), "{name}");
}

#[tokio::test]
async fn an_account_always_has_its_whole_share() {
    let settings = Settings { account_queue_limit: Some(2), committers: 1, ..Settings::default() };
    let observer = Arc::new(LookUps::default());
    let layer = Layer::start().await;
    let layer = layer.with(&settings, Arc::<LookUps>::clone(&observer)).await;
    assert_whole_share(&layer, "new").await;

    // Callers who leave: first ones with duplicates behind them, and duplicates.
    let held = layer.hold().await;
    for round in 0..5 {
        let name = format!("left-{round}");
        let mut callers: Vec<_> =
            (0..5).map(|_| Some(Box::pin(layer.submit(&name, Act::Succeed)))).collect();
        for caller in callers.iter_mut().flatten() {
            assert!(caller.now_or_never().is_none(), "it waits");
        }
        for leaves in [1, 3, 4, 0, 2] {
            callers[leaves] = None;
        }
    }
    held.release().await;
    assert_whole_share(&layer, "left").await;

    // A first request that fails, with a duplicate of it and another request behind it.
    let guilty = || layer.submit("guilty", Act::ForgetResponse);
    let submitted = join3(guilty(), guilty(), layer.submit("guilty", Act::Succeed));
    let (one, two, other) = layer.together(submitted).await;
    assert!(matches!((&one, &two), (Err(Failure::Internal(_)), Err(Failure::Internal(_)))));
    assert!(is_new(&other));
    assert_whole_share(&layer, "failed").await;

    // Duplicates of what is answered, while another key of the account waits for another server.
    let mut holder = layer.database.connect().await;
    holder.execute(AssertSqlSafe(format!("BEGIN; {}", take_lock("waits")))).await.unwrap();
    let (waits, ()) = tokio::join!(layer.submit("waits", Act::Succeed), async {
        for round in 0..3 {
            let name = format!("answered-{round}");
            let duplicates =
                join_all((0..=2 * DUPLICATES_PER_KEY).map(|_| layer.submit(&name, Act::Succeed)));
            assert!(duplicates.await.iter().all(Result::is_ok), "{name}");
        }
        holder.execute("ROLLBACK").await.unwrap();
    });
    assert!(is_new(&waits));
    assert_whole_share(&layer, "answered").await;

    // A caller who leaves while another server executes the key, and a duplicate that takes its place.
    holder.execute(AssertSqlSafe(format!("BEGIN; {}", take_lock("held")))).await.unwrap();
    let mut first = Box::pin(layer.submit("held", Act::Succeed));
    let mut second = Box::pin(layer.submit("held", Act::Succeed));
    assert!((&mut first).now_or_never().is_none() && (&mut second).now_or_never().is_none());
    let looked_up = observer.look_ups();
    while observer.look_ups() == looked_up {
        yield_now().await;
    }
    drop(first);
    holder.execute("ROLLBACK").await.unwrap();
    let outcome = second.await;
    assert!(is_new(&outcome), "{outcome:?}");
    assert_whole_share(&layer, "taken-over").await;
}
