//! The steps of a batch.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout_at};

use super::failed::{Cause, Failed};
use crate::observer::{Event, Observer, Step};

/// Runs the steps of a batch: measures each, enforces the batch's time limit, and adds the step to its error.
pub(super) struct Steps<'a> {
    observer: &'a dyn Observer,
    limit: Duration,
    end: Instant,
}

impl<'a> Steps<'a> {
    pub(super) fn new(observer: &'a dyn Observer, limit: Duration) -> Self {
        Self { observer, limit, end: Instant::now() + limit }
    }

    pub(super) async fn run<T>(
        &self,
        step: Step,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failed> {
        let began = Instant::now();
        let done = self.within_limit(work).await;
        self.observer.observe(Event::Ran(step, began.elapsed()));
        done.map_err(|cause| Failed { step: Some(step), cause })
    }

    /// The same for BEGIN and ROLLBACK, which are not steps.
    pub(super) async fn untimed<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Failed> {
        self.within_limit(work).await.map_err(|cause| Failed { step: None, cause })
    }

    /// A panic, which is a defect in a command or in this layer, fails the batch and nothing else.
    async fn within_limit<T>(
        &self,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, Cause> {
        match timeout_at(self.end, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(done)) => done.map_err(Cause::Error),
            Ok(Err(_panic)) => Err(Cause::Panic),
            Err(_elapsed) => Err(Cause::NoAnswer(self.limit)),
        }
    }
}
