//! The writes that an endpoint's worker requests.

use std::time::Duration;

use tokio::sync::oneshot;

use super::{changes::Changes, lease::LeaseId};
use crate::webhooks::endpoint::{DisabledReason, Range};

/// The health of an endpoint after the last calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Note {
    pub(super) succeeded: bool,
    pub(super) status: Option<u16>,
    pub(super) error: Option<String>,
    /// The time without a success.
    pub(super) failing_for: Option<Duration>,
    /// The rest of the breaker's pause.
    pub(super) resumes_in: Option<Duration>,
}

/// Everything of one endpoint that is stored in one commit.
#[derive(Debug)]
pub(super) struct Write {
    pub(super) lease: LeaseId,
    pub(super) changes: Changes,
    pub(super) note: Option<Note>,
    pub(super) ended_replay: Option<i64>,
    pub(super) lost: Option<Range>,
    pub(super) disables: Option<DisabledReason>,
    /// Hears whether the lease held. Dropped if the server stops.
    pub(super) stored: oneshot::Sender<bool>,
}
