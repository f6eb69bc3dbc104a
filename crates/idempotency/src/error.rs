//! Errors, sorted by what has to be done about them.

use std::{error::Error as StdError, mem::discriminant, sync::Arc};

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

/// The failure of a command, or of one of the layer's own statements.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum Error {
    /// PostgreSQL reported an error, or the connection to it was lost.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// Something else failed: a defect.
    #[error(transparent)]
    Other(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// An error that is not the database's: another error, or a text.
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }
}

/// For functions that report database errors only.
impl From<Error> for sqlx::Error {
    fn from(error: Error) -> Self {
        match error {
            Error::Database(error) => error,
            Error::Other(error) => Self::Encode(error),
        }
    }
}

/// A reason why a command got no outcome. Nothing of it is stored, and sending the same request with the same
/// key again is always safe.
#[derive(Debug, Clone, Error)]
pub enum Failure {
    /// As many keys are waiting as may. This request was not executed.
    #[error("more work than can be done")]
    Overloaded,
    /// This account has as many keys waiting as it may, or as many duplicates of them. This request was not
    /// executed.
    #[error("more of one account than its share")]
    ShareExceeded,
    /// The deadline passed while there was no connection to a database that takes writes. This request was not
    /// executed.
    #[error("the database could not be reached in time")]
    DatabaseUnavailable,
    /// Another session held a lock that this request needs, on a table or on a row other than its key's. This
    /// request was not executed.
    #[error("a table or row is locked by another session")]
    Locked,
    /// The deadline passed, and the transaction conflicted with others each time that it was run. This request
    /// was not executed.
    #[error("the transaction conflicted with others each time")]
    Conflict,
    /// The deadline passed, and the connection was lost each time that this request was tried, or the database
    /// took no writes from it. This request was not executed.
    #[error("the connection to the database was lost each time")]
    ConnectionLost,
    /// PostgreSQL ended the statement because it took too long. This request was not executed.
    #[error("the statement took too long")]
    TimedOut,
    /// PostgreSQL has run out of disk space, memory, or another resource. This request was not executed.
    #[error("the database has run out of a resource")]
    OutOfResources,
    /// The deadline passed while a transaction with this request was under way.
    #[error("the outcome is not known yet")]
    OutcomeUnknown,
    /// This command, and no other, can't be executed: a defect. The cause is for the log alone.
    #[error("the command failed: {0}")]
    Internal(Arc<Error>),
}

/// Failures are equal when they say the same: errors of a database cannot be compared.
impl PartialEq for Failure {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Internal(one), Self::Internal(other)) => one.to_string() == other.to_string(),
            _ => discriminant(self) == discriminant(other),
        }
    }
}

impl Eq for Failure {}

/// The remedy for a batch whose transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Remedy {
    /// Halve it until the guilty command is alone, and fail that one.
    Isolate,
    /// Run it again, since it met another transaction; halve it when that happens again and again.
    Repeat,
    /// Halve it until the command that waits for a lock is alone, and quarantine that one.
    Quarantine,
    /// Run it again on a new connection; halve it when that happens again and again.
    Reconnect,
    /// Run it again as soon as there is a connection to a database that takes writes.
    AwaitServer,
    /// Halve it until the command that takes too much time, or another resource, is alone, and quarantine that
    /// one. Where each part fails, it is the database that lacks it: fail them all.
    Refuse,
}

impl Remedy {
    /// Sorts an error by SQLSTATE (PostgreSQL's documentation, appendix A) and severity.
    pub(super) fn of(error: &sqlx::Error) -> Self {
        match error {
            error if is_of_outdated_statement(error) => Self::Reconnect,
            sqlx::Error::Database(error) => {
                let of_postgres = error.try_downcast_ref::<PgDatabaseError>();
                let fatal = of_postgres.is_some_and(|error| {
                    matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic)
                });
                match error.code().as_deref() {
                    Some(code) => Self::of_sqlstate(code, fatal),
                    None => Self::Reconnect,
                }
            }
            // After these the state of the connection is unknown.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => Self::Reconnect,
            _ => Self::Isolate,
        }
    }

    /// A trigger can raise any of them for one command, so every remedy ends at a single command.
    fn of_sqlstate(code: &str, fatal: bool) -> Self {
        match code {
            "40001" | "40P01" => Self::Repeat,
            "55P03" => Self::Quarantine,
            "57014" => Self::Refuse,
            // A command ignored a statement's error: its own fault, and not the connection's.
            "25P02" => Self::Isolate,
            // A pooler has lost a prepared statement, or another client has prepared one with the same name.
            "26000" | "42P05" => Self::Reconnect,
            _ if fatal => Self::Reconnect,
            _ => match code.get(..2) {
                Some("53") => Self::Refuse,
                // Among them 25006: if the database takes no writes, the next connection finds out.
                Some("08" | "25" | "57") => Self::Reconnect,
                _ => Self::Isolate,
            },
        }
    }
}

/// Returns whether PostgreSQL reports that a statement failed, and has rolled its transaction back. After any other error
/// the transaction may be committed.
pub(super) fn rolled_back(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| undoes(error.severity(), error.code()))
}

/// Not class 08: a pooler says so of its own connection to PostgreSQL, which may have committed.
fn undoes(severity: PgSeverity, code: &str) -> bool {
    matches!(severity, PgSeverity::Error) && !code.starts_with("08")
}

/// Returns whether a statement breaks a unique constraint.
pub(super) fn breaks_unique_constraint(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Returns whether a statement was prepared before a migration changed the type of its result. It was not executed,
/// and never will be on a connection that goes on with it.
#[must_use]
pub fn is_of_outdated_statement(error: &sqlx::Error) -> bool {
    let error = error.as_database_error().and_then(|error| error.try_downcast_ref());
    error.and_then(PgDatabaseError::routine) == Some("RevalidateCachedQuery")
}

/// An error in words that may stand in a log: a database error's message and SQLSTATE, never its
/// detail, which holds the values of rows.
#[must_use]
pub fn loggable(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(error) => match error.code() {
            Some(code) => format!("{} (SQLSTATE {code})", error.message()),
            None => error.message().to_owned(),
        },
        sqlx::Error::Configuration(error) => error.to_string(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::{PgSeverity, Remedy, undoes};

    #[test]
    fn only_an_error_of_postgresql_itself_undoes_a_transaction() {
        assert!(undoes(PgSeverity::Error, "23505"));
        assert!(undoes(PgSeverity::Error, "57014"));
        assert!(!undoes(PgSeverity::Error, "08006"), "a pooler lost its server");
        assert!(!undoes(PgSeverity::Fatal, "57P01"));
        assert!(!undoes(PgSeverity::Panic, "XX000"));
    }

    #[test]
    fn every_class_of_the_failure_table_has_its_remedy() {
        for (code, remedy) in [
            ("22003", Remedy::Isolate),
            ("23514", Remedy::Isolate),
            ("42P01", Remedy::Isolate),
            ("XX000", Remedy::Isolate),
            ("25P02", Remedy::Isolate),
            ("40001", Remedy::Repeat),
            ("40P01", Remedy::Repeat),
            ("55P03", Remedy::Quarantine),
            ("08006", Remedy::Reconnect),
            ("25P03", Remedy::Reconnect),
            ("57P01", Remedy::Reconnect),
            ("57P02", Remedy::Reconnect),
            ("26000", Remedy::Reconnect),
            ("42P05", Remedy::Reconnect),
            ("25006", Remedy::Reconnect),
            ("57P03", Remedy::Reconnect),
            ("53100", Remedy::Refuse),
            ("53200", Remedy::Refuse),
            ("57014", Remedy::Refuse),
        ] {
            assert_eq!(Remedy::of_sqlstate(code, false), remedy, "{code}");
        }
        assert_eq!(Remedy::of_sqlstate("XX000", true), Remedy::Reconnect);
    }
}
