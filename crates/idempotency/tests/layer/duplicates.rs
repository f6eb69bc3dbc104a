//! Duplicates of a request that wait with it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{join_all, join3},
};
use payonce_idempotency::{Event, Failure, Observer, Outcome, Settings};
use payonce_testing::proxy::{Fault, Proxy, Step};

use crate::{
    commands::{Act, Effect},
    engine::{Layer, is_new, is_replay},
};

/// Notes the events of keys in doubt, and executions.
#[derive(Default)]
struct Heard(Mutex<Vec<String>>);

impl Observer for Heard {
    fn observe(&self, event: Event<'_>) {
        let heard = match event {
            Event::InDoubt => "in doubt".to_owned(),
            Event::Settled(resolution) => format!("{resolution:?}"),
            Event::Executed { command, .. } => {
                format!("executed {:?}", command.downcast_ref::<Effect>().unwrap().0)
            }
            _ => return,
        };
        self.0.lock().unwrap().push(heard);
    }
}

#[tokio::test]
async fn a_duplicate_leads_when_the_first_caller_has_left() {
    let layer = Layer::start().await;
    let held = layer.hold().await;
    let mut first = Box::pin(layer.submit("k", Act::Succeed));
    assert!(first.as_mut().now_or_never().is_none(), "it waits");
    let mut second = Box::pin(layer.submit("k", Act::Refuse));
    assert!(second.as_mut().now_or_never().is_none(), "it waits, too");
    drop(first);
    held.release().await;
    let outcome = second.await;
    assert!(matches!(outcome, Ok(Outcome::New { response, .. }) if response.status() == 402));
}

#[tokio::test]
async fn another_request_with_the_key_is_tried_when_the_first_fails() {
    let layer = Layer::start().await;
    let submit = |act| layer.submit("k", act);
    let guilty = Act::Run("SELECT 1 / 0");
    let submitted = join3(submit(guilty), submit(guilty), submit(Act::Succeed));
    let (one, two, other) = layer.together(submitted).await;
    assert!(
        matches!(one, Err(Failure::Internal(_))) && one == two,
        "the same request fails with it"
    );
    assert!(is_new(&other), "{other:?}");
}

#[tokio::test]
async fn a_commit_without_a_response_is_reported_though_its_caller_has_left() {
    const SENT: (Step, Act) = (Step::CommitSent, Act::Refuse);
    const COMMITTED: (Step, Act) = (Step::Committed, Act::Succeed);
    for (leaders, last, heard) in [
        // The last one sends the same as the first, or something else.
        (vec![COMMITTED], Act::Succeed, ["in doubt", "Committed", "executed Succeed"]),
        (vec![COMMITTED], Act::Refuse, ["in doubt", "Committed", "executed Succeed"]),
        (vec![SENT], Act::Succeed, ["in doubt", "NotCommitted", "executed Succeed"]),
        (vec![SENT, COMMITTED], Act::Refuse, ["in doubt", "Committed", "executed Succeed"]),
    ] {
        let layer = Layer::start().await;
        let proxy = Proxy::start(&layer.database.options).await;
        let options = proxy.through(&layer.database.options);
        let observer = Arc::new(Heard::default());
        let layer = layer.observed(&options, Arc::<Heard>::clone(&observer)).await;
        let was_committed = leaders.iter().any(|(step, _)| *step == Step::Committed);
        let mut others: Vec<_> =
            leaders.iter().map(|(_, act)| Box::pin(layer.submit("k", *act))).collect();
        others.push(Box::pin(layer.submit("k", last)));
        for (step, _) in leaders {
            proxy.arm(step, Fault::Hold);
            // All of them join before the first has come so far, and it leaves then.
            tokio::select! {
                outcome = join_all(&mut others) => panic!("{outcome:?}"),
                () = proxy.reached() => {}
            }
            drop(others.remove(0));
            proxy.cut_all();
        }
        let outcome = others.remove(0).await;
        assert_eq!(*observer.0.lock().unwrap(), heard, "{last:?} {outcome:?}");
        assert_eq!(layer.effects().await, 1);
        match last {
            _ if !was_committed => assert!(is_new(&outcome), "{outcome:?}"),
            Act::Succeed => assert!(is_replay(&outcome), "{outcome:?}"),
            _ => assert!(matches!(outcome, Ok(Outcome::Reused { .. })), "{outcome:?}"),
        }
    }
}

/// The end of a request that follows one in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// Its deadline passes, and its caller stops waiting.
    Elapses,
    /// The same, and the engine is the first to notice.
    IsNoticed,
    /// Its execution fails.
    Fails,
}

#[tokio::test]
async fn after_a_request_in_doubt_its_duplicates_never_hear_that_nothing_was_executed() {
    for end in [End::Elapses, End::IsNoticed, End::Fails] {
        let layer = Layer::start().await;
        let proxy = Proxy::start(&layer.database.options).await;
        let options = proxy.through(&layer.database.options);
        let settings = Settings {
            request_deadline: Duration::from_millis(1500),
            in_flight_wait: Duration::from_millis(500),
            ..Settings::default()
        };
        let layer = layer.through(&options, &settings).await;
        proxy.arm(Step::CommitSent, Fault::Hold);
        let mut leader = Box::pin(layer.submit("k", Act::Succeed));
        let mut follower = Box::pin(layer.submit("k", Act::Run("SELECT 1 / 0")));
        tokio::select! {
            outcome = async { tokio::join!(&mut leader, &mut follower) } => panic!("{outcome:?}"),
            () = proxy.reached() => {}
        }
        drop(leader);
        if end != End::Fails {
            proxy.redirect(&options.clone().port(1)).await;
        }
        proxy.cut_all();
        if end == End::IsNoticed {
            layer.until_queued(0).await;
        }
        assert_eq!(follower.await, Err(Failure::OutcomeUnknown), "{end:?}");
    }
}
