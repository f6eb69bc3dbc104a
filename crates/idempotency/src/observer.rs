//! What the layer says of its work, to whoever counts it. It goes on the same whatever is made of that.

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

/// Hears of events, in the midst of the work that they are about: it must be quick, and never wait.
pub trait Observer: Send + Sync + 'static {
    /// Takes note of an event.
    fn observe(&self, event: Event<'_>);
}

/// Takes note of nothing.
impl Observer for () {
    fn observe(&self, _: Event<'_>) {}
}

/// Keeps what an observer's panic would do to the work that it hears of: the event is lost, and nothing else.
pub(super) struct Contained(pub(super) Arc<dyn Observer>);

impl Observer for Contained {
    fn observe(&self, event: Event<'_>) {
        if catch_unwind(AssertUnwindSafe(|| self.0.observe(event))).is_err() {
            error!("the observer of the idempotency layer panicked: what it was to note is lost");
        }
    }
}

/// What happened.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A caller hears this. One that stopped waiting before hears nothing.
    Answered {
        /// The command's operation.
        operation: Operation,
        /// What it hears.
        answer: &'a Result<Outcome, Failure>,
    },
    /// A command was executed and committed, whether or not somebody still waits to hear it.
    Executed {
        /// The command, as it was submitted.
        command: &'a dyn Any,
        /// What is stored for it.
        response: &'a Response,
    },
    /// A command was not executed, since it was before.
    Replayed {
        /// The command, as it was submitted.
        command: &'a dyn Any,
        /// What was stored for it.
        response: &'a Response,
    },
    /// A command was taken out of the queue, after this long in it.
    Taken(Duration),
    /// A step of a batch took this long, whether or not it succeeded.
    Ran(Step, Duration),
    /// A batch of so many commands was committed.
    Committed(usize),
    /// A batch's transaction failed, and this is done about it.
    Failed(Remedy),
    /// A command waits for a table that another session has locked. It is said again for each time that it is tried.
    TableLocked,
    /// A connection was opened.
    Connected,
    /// The COMMIT of a key's command was sent, and never answered.
    InDoubt,
    /// It is known, or given up, what became of a key that was in doubt.
    Settled(Resolution),
}

/// A step of a batch: one statement that does it all, or those of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Step {
    /// All of the batch, committed, in one statement.
    OneStatement,
    /// Claiming the keys.
    Claim,
    /// Executing the commands.
    Execute,
    /// Storing the responses.
    Store,
    /// The COMMIT.
    Commit,
    /// Reading what used keys stand for.
    LookUp,
}

/// What became of a key that was in doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resolution {
    /// It had been committed.
    Committed,
    /// It had not, and was executed then, or by somebody else.
    NotCommitted,
    /// Nobody found out while somebody waited: the next request with the key does.
    Unknown,
}
