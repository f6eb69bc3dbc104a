//! The outcome of a command, for its caller.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::Response;

/// The result of a command for its caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The key was new. The command was executed, and its response is stored.
    New {
        /// The id of the execution, and of what it created.
        execution_id: Uuid,
        /// The stored response.
        response: Response,
        /// Until when it can be replayed; `None`: as long as its key.
        replayable_until: Option<DateTime<Utc>>,
    },
    /// The same request was executed before, and this is its stored response.
    Replay {
        /// The id of the execution that it repeats.
        execution_id: Uuid,
        /// The stored response, byte for byte.
        response: Response,
        /// Until when it can be replayed; `None`: as long as its key.
        replayable_until: Option<DateTime<Utc>>,
    },
    /// The key was used by another request.
    Reused {
        /// The names of the fields that differ; `operation` when it is another operation.
        fields: Vec<&'static str>,
    },
    /// The same request was executed before, and its response has expired.
    Expired {
        /// The id of the execution, and of what it created.
        execution_id: Uuid,
    },
    /// The key was used up without anything being executed ([`Engine::void`](super::Engine::void)), and nothing ever will.
    Voided,
    /// Another server is executing the key's command.
    InFlight,
}
