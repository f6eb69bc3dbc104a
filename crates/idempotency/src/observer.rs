//! Events that the layer reports, for metrics.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use log::error;

use super::{Failure, Operation, Outcome, Remedy, Response};

/// Names every value of a type once; the compiler finds one that is missing.
macro_rules! named {
    ($type:ty: $($value:ident => $name:literal),+ $(,)?) => {
        impl $type {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$value),+];

            /// The value's name in metrics.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name),+
                }
            }
        }
    };
}

named!(Step:
    OneStatement => "one_statement",
    Claim => "claim",
    Execute => "execute",
    Store => "store",
    Announce => "announce",
    Commit => "commit",
    LookUp => "look_up",
);

named!(Remedy:
    Isolate => "isolate",
    Repeat => "repeat",
    Quarantine => "quarantine",
    Reconnect => "reconnect",
    AwaitServer => "await_server",
    Refuse => "refuse",
);

named!(Resolution:
    Committed => "committed",
    NotCommitted => "not_committed",
    Unknown => "unknown",
);

/// Receives events, in the middle of the work that they are about: it must be quick, and must not block.
pub trait Observer: Send + Sync + 'static {
    /// Receives an event.
    fn observe(&self, event: Event<'_>);
}

/// Ignores all events.
impl Observer for () {
    fn observe(&self, _: Event<'_>) {}
}

/// Catches panics of an observer: the event is lost, and nothing else.
pub(super) struct Contained(pub(super) Arc<dyn Observer>);

impl Observer for Contained {
    fn observe(&self, event: Event<'_>) {
        if catch_unwind(AssertUnwindSafe(|| self.0.observe(event))).is_err() {
            error!("the observer of the idempotency layer panicked: an event is lost");
        }
    }
}

/// Something that happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A caller gets this. None is reported for a caller that stopped waiting.
    Answered {
        /// The command's operation.
        operation: Operation,
        /// The outcome, or why there is none.
        answer: &'a Result<Outcome, Failure>,
    },
    /// A command was executed and committed, even if its caller is gone.
    Executed {
        /// The command, as it was submitted.
        command: &'a dyn Any,
        /// The stored response.
        response: &'a Response,
    },
    /// A command was not executed, because it was executed before.
    Replayed {
        /// The command, as it was submitted.
        command: &'a dyn Any,
        /// The stored response.
        response: &'a Response,
    },
    /// A command was taken out of the queue, after this long in it.
    Taken(Duration),
    /// A step of a batch took this long, whether or not it succeeded.
    Ran(Step, Duration),
    /// A batch of so many commands was committed.
    Committed(usize),
    /// A batch's transaction failed, and is handled in this way.
    Failed(Remedy),
    /// A command waits for a table that another session has locked; reported for each attempt.
    TableLocked,
    /// A connection was opened.
    Connected,
    /// The COMMIT of a key's command was sent and not acknowledged.
    InDoubt,
    /// A key is no longer in doubt.
    Settled(Resolution),
}

/// A step of a batch: one statement that does everything, or a part of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// The whole batch, committed, in one statement.
    OneStatement,
    /// Claiming the keys.
    Claim,
    /// Executing the commands.
    Execute,
    /// Storing the responses.
    Store,
    /// Announcing the executions.
    Announce,
    /// The COMMIT.
    Commit,
    /// Looking used keys up.
    LookUp,
}

/// The end of a doubt about a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// The COMMIT had succeeded.
    Committed,
    /// The COMMIT had not succeeded; the key was executed later, or by another server.
    NotCommitted,
    /// Not known when the last caller's deadline passed. The next request with the key finds out.
    Unknown,
}
