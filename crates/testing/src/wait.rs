//! Waiting for conditions instead of for a time, so that tests also pass on a busy machine.

use std::{
    fmt::Debug,
    pin::pin,
    time::{Duration, Instant},
};

use tokio::{select, time::sleep};

/// The time that a test waits for something that must happen. Only a hang takes this long.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// The pause between two looks at a condition.
pub(crate) const PAUSE: Duration = Duration::from_millis(5);

/// Waits until a condition holds. Panics with this description if it does not within [`PATIENCE`].
pub async fn until(description: &str, mut holds: impl AsyncFnMut() -> bool) {
    eventually(description, async || holds().await.then_some(())).await;
}

/// Waits for a value, as [`until`] waits for a condition, and returns it.
pub async fn eventually<T>(description: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {description}");
        sleep(PAUSE).await;
    }
}

/// Asserts that one future is still pending when `others` has ended, then lets it continue with
/// `release`. Returns the results of both.
pub async fn pending_until_released<T: Debug, U>(
    pending: impl Future<Output = T>,
    others: impl Future<Output = U>,
    release: impl Future<Output = ()>,
) -> (T, U) {
    let mut pending = pin!(pending);
    let others = select! {
        biased;
        early = &mut pending => panic!("it should still be waiting: {early:?}"),
        others = others => others,
    };
    (tokio::join!(pending, release).0, others)
}

/// Waits until requests are refused, and returns when the last accepted one began. So the result does not
/// depend on how long a request takes.
pub async fn last_accepted(begun: Instant, mut accepted: impl AsyncFnMut() -> bool) -> Duration {
    let mut last = Duration::ZERO;
    until("requests are refused", async || {
        let sent = begun.elapsed();
        let accepted = accepted().await;
        if accepted {
            last = sent;
        }
        !accepted
    })
    .await;
    last
}
