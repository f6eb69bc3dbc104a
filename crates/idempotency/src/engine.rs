//! The engine, to which applications submit their commands.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use log::warn;
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Instant, sleep, timeout_at},
};

use super::{
    AccountId, BatchCommand, Failure, IdempotencyKey, InvalidSettings, Outcome, Settings,
    UnfitServer,
    committer::{Connector, committer},
    execution_id,
    key::ScopedKey,
    observer::{Contained, Event, Observer},
    queue::{Queue, Request, Stage},
    record::Void,
};

/// The interval at which a second call of `close` checks that the queues are empty.
const DRAINED_AGAIN: Duration = Duration::from_millis(5);

/// A reason why an engine does not start.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum StartError {
    /// The settings contradict each other.
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    /// PostgreSQL cannot be reached, or cannot keep the promises.
    #[error(transparent)]
    Server(#[from] UnfitServer),
}

/// A handle to the tasks that commit; cheap to clone. When the last one is dropped, the tasks execute the commands that
/// they have, and end.
#[derive(Clone)]
pub struct Engine(Arc<Shared>);

struct Shared {
    queues: Vec<Arc<Queue>>,
    observer: Arc<dyn Observer>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    request_deadline: Duration,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.close_queues();
    }
}

impl Shared {
    fn close_queues(&self) {
        for queue in &self.queues {
            queue.close();
        }
    }
}

impl Engine {
    /// Connects, checks that the server is fit, and starts the committers on the current tokio
    /// runtime. It is kept free of other work best.
    ///
    /// # Errors
    /// When the settings contradict each other, or PostgreSQL cannot be reached, or could not keep the promises.
    pub async fn start(
        options: &PgConnectOptions,
        settings: &Settings,
    ) -> Result<Self, StartError> {
        Self::start_observed(options, settings, Arc::new(())).await
    }

    /// As [`start`](Self::start), and `observer` hears what the committers do.
    ///
    /// # Errors
    /// As those of [`start`](Self::start).
    pub async fn start_observed(
        options: &PgConnectOptions,
        settings: &Settings,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, StartError> {
        let observer: Arc<dyn Observer> = Arc::new(Contained(observer));
        settings.check()?;
        let connector = || Connector::new(options.clone(), settings, Arc::clone(&observer));
        let committers = settings.committers;
        let mut connectors = Vec::with_capacity(committers);
        for _ in 0..committers {
            let mut connector = connector();
            match connector.connect().await {
                Ok(()) => {}
                // It may be promoted at any moment, as it may for a committer that runs already.
                Err(unfit @ UnfitServer::ReadOnly) => warn!("{unfit}"),
                Err(unfit) => return Err(unfit.into()),
            }
            connectors.push(connector);
        }
        let mut queues = Vec::with_capacity(committers);
        let mut tasks = Vec::with_capacity(2 * committers);
        for main_connector in connectors {
            let limits = (
                settings.queue_limit.div_ceil(committers),
                settings.account_limit().div_ceil(committers),
            );
            let queue = Arc::new(Queue::new(limits, Arc::clone(&observer)));
            let (main, quarantine) = committer(&queue, settings, (main_connector, connector()));
            tasks.extend([tokio::spawn(main.run()), tokio::spawn(quarantine.run())]);
            queues.push(queue);
        }
        let request_deadline = settings.request_deadline;
        Ok(Self(Arc::new(Shared { queues, observer, tasks: Mutex::new(tasks), request_deadline })))
    }

    /// Executes a command exactly once for this key of this account, and returns the outcome.
    ///
    /// Dropping the future does not cancel the command. It may still be executed.
    ///
    /// # Errors
    /// A [`Failure`] is never stored: the same request with the same key may be sent again.
    pub async fn submit<C: BatchCommand>(
        &self,
        account_id: AccountId,
        key: IdempotencyKey,
        command: C,
    ) -> Result<Outcome, Failure> {
        let answer = self.answer(account_id, key, command).await;
        self.0.observer.observe(Event::Answered { operation: C::OPERATION, answer: &answer });
        answer
    }

    /// Returns the number of keys that wait or are being executed, in all queues together.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.0.queues.iter().map(|queue| queue.keys()).sum()
    }

    async fn answer<C: BatchCommand>(
        &self,
        account_id: AccountId,
        key: IdempotencyKey,
        command: C,
    ) -> Result<Outcome, Failure> {
        let scope = ScopedKey { key, account_id };
        let lock_number = scope.lock_number();
        let arrived = Instant::now();
        let deadline = arrived + self.0.request_deadline;
        let (reply, mut answer) = oneshot::channel();
        let seat = self.queue(lock_number)?.join(Request {
            scope,
            lock_number,
            execution_id: execution_id::next(),
            operation: C::OPERATION.as_str(),
            fingerprint: command.fingerprint(),
            row: command.locks(),
            command: Box::new(command),
            arrived,
            deadline,
            reply,
        })?;
        let heard = match timeout_at(deadline, &mut answer).await {
            Ok(heard) => heard.ok(),
            Err(_elapsed) => {
                let stage = seat.leave();
                // The answer may have come at this moment.
                return answer.try_recv().unwrap_or_else(|_| match stage {
                    Stage::Waiting(obstacle) => obstacle.reply(),
                    Stage::Begun => Err(Failure::OutcomeUnknown),
                });
            }
        };
        seat.answered();
        // The committer was ended before it answered.
        heard.unwrap_or(Err(Failure::OutcomeUnknown))
    }

    /// Uses a key up, so that no request with it is ever executed. A request that was executed earlier stays executed.
    ///
    /// [`Record::find`](super::Record::find) then tells which of the two happened, unless the outcome is
    /// [`Outcome::InFlight`]: another server is executing a request with this key.
    ///
    /// # Errors
    /// As those of [`submit`](Self::submit).
    pub async fn void(
        &self,
        account_id: AccountId,
        key: IdempotencyKey,
    ) -> Result<Outcome, Failure> {
        self.submit(account_id, key, Void).await
    }

    /// Refuses new commands, and waits until the others are committed and answered. After `limit` it gives up the rest,
    /// which is as safe as a crash. Returns whether all were answered.
    pub async fn close(&self, limit: Duration) -> bool {
        self.0.close_queues();
        let tasks =
            std::mem::take(&mut *self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        let end = Instant::now() + limit;
        let mut all = true;
        for mut task in tasks {
            if timeout_at(end, &mut task).await.is_err() {
                task.abort();
                all = false;
            }
        }
        let drained = || self.0.queues.iter().all(|queue| queue.is_drained());
        // A second call has no tasks to wait for.
        while !drained() && Instant::now() < end {
            sleep(DRAINED_AGAIN).await;
        }
        all &= drained();
        if !all {
            warn!("gave up on commands that were not committed within {limit:?}");
        }
        all
    }

    /// A key always goes to the same queue, where its duplicates are found.
    fn queue(&self, lock_number: i64) -> Result<&Queue, Failure> {
        let queues = u64::try_from(self.0.queues.len()).unwrap_or(1);
        let place = lock_number.cast_unsigned().checked_rem(queues).unwrap_or(0);
        let queue = usize::try_from(place).ok().and_then(|place| self.0.queues.get(place));
        queue.map(|queue| &**queue).ok_or(Failure::Overloaded)
    }
}
