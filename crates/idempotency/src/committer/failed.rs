//! The failure of a batch.

use std::{fmt, time::Duration};

use crate::{
    Error, Failure,
    error::{Remedy, loggable, rolled_back},
    observer::Step,
};

/// The failure of a batch's transaction, and its step: `None` for BEGIN, ROLLBACK and what was not sent.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) step: Option<Step>,
    pub(crate) cause: Cause,
}

#[derive(Debug)]
pub(crate) enum Cause {
    Error(sqlx::Error),
    /// There was no answer within this time.
    NoAnswer(Duration),
    /// A defect; Rust has printed its message to stderr.
    Panic,
    /// There is no server to run the batch on.
    NoServer(String),
}

impl Failed {
    pub(crate) fn no_server(why: impl Into<String>) -> Self {
        Self { step: None, cause: Cause::NoServer(why.into()) }
    }

    pub(crate) fn remedy(&self) -> Remedy {
        match &self.cause {
            Cause::Error(error) => Remedy::of(error),
            Cause::NoAnswer(_) => Remedy::Reconnect,
            Cause::Panic if self.was_committing() => Remedy::Reconnect,
            Cause::Panic => Remedy::Isolate,
            Cause::NoServer(_) => Remedy::AwaitServer,
        }
    }

    /// Returns whether the connection is at rest, and can be used again.
    pub(crate) fn spares_the_connection(&self) -> bool {
        matches!(self.cause, Cause::Error(_)) && self.remedy() != Remedy::Reconnect
    }

    /// Returns whether PostgreSQL may be committing, or have committed: COMMIT was sent, and PostgreSQL did not report
    /// that it rolled back.
    pub(crate) fn may_be_committing(&self) -> bool {
        let rolled_back = matches!(&self.cause, Cause::Error(error) if rolled_back(error));
        self.was_committing() && !self.spares_the_connection() && !rolled_back
    }

    /// A look-up commits, too, if a standby has to confirm what it read.
    fn was_committing(&self) -> bool {
        matches!(self.step, Some(Step::OneStatement | Step::Commit | Step::LookUp))
    }

    /// Returns whether the batch may be committed nevertheless. A look-up commits no keys.
    pub(crate) fn is_in_doubt(&self) -> bool {
        self.may_be_committing() && self.step != Some(Step::LookUp)
    }

    /// The failure of a command that fails for this reason.
    pub(crate) fn of_command(&self) -> Failure {
        match self.remedy() {
            Remedy::Refuse if self.is_of_time() => Failure::TimedOut,
            Remedy::Refuse => Failure::OutOfResources,
            _ => Failure::Internal(Error::other(self.to_string()).into()),
        }
    }

    /// Returns whether the SQLSTATE says that a statement took too long.
    fn is_of_time(&self) -> bool {
        let Cause::Error(error) = &self.cause else { return false };
        error.as_database_error().and_then(sqlx::error::DatabaseError::code).as_deref()
            == Some("57014")
    }
}

/// In words that may stand in a log.
impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Error(error) => f.write_str(&loggable(error)),
            Cause::NoAnswer(limit) => write!(f, "no answer within {limit:?}"),
            Cause::Panic => f.write_str("it panicked"),
            Cause::NoServer(why) => f.write_str(why),
        }
    }
}
