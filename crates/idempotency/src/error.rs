//! What can go wrong below the commands, sorted by what has to be done about it.

use std::sync::Arc;

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

/// Why a command got no outcome. Nothing of it is stored, and sending the same request with the same
/// key again is always safe.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Failure {
    /// As many keys are waiting as may, or the database refuses work for want of a resource. This
    /// request was not executed.
    #[error("more work than can be done")]
    Overloaded,
    /// This account has as many keys waiting as it may, or as many copies of them. This request was not
    /// executed.
    #[error("more of one account than its share")]
    ShareExceeded,
    /// The deadline passed while the database could not be had. This request was not executed.
    #[error("the database could not be had in time")]
    DatabaseUnavailable,
    /// The deadline passed while a transaction with this request was under way.
    #[error("the outcome is not known yet")]
    OutcomeUnknown,
    /// This command, and no other, can't be executed: a defect. The cause is for the log alone.
    #[error("the command failed: {0}")]
    Internal(Arc<str>),
}

/// What to do with a batch whose transaction failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remedy {
    /// Halve it until the guilty command is alone, and fail that one.
    Isolate,
    /// The same batch again: it met another transaction.
    Repeat,
    /// Halve it until the command whose row is locked is alone, and let that one wait aside.
    Sidestep,
    /// A new connection and the same batch; halved when that happens again and again.
    Reconnect,
    /// A new connection and the same batch: this server takes no writes, whatever the batch.
    AwaitServer,
    /// Answer that the server is overloaded: it has run out of something, or time.
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
            // After these nobody knows what the connection will say next.
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::BeginFailed
            | sqlx::Error::WorkerCrashed => Self::Reconnect,
            _ => Self::Isolate,
        }
    }

    fn of_sqlstate(code: &str, fatal: bool) -> Self {
        match code {
            "40001" | "40P01" => Self::Repeat,
            "55P03" => Self::Sidestep,
            "57014" => Self::Refuse,
            "25006" | "57P03" => Self::AwaitServer,
            // A command swallowed a statement's error: its own fault, and not the connection's.
            "25P02" => Self::Isolate,
            // A prepared statement that a pooler has lost, or that another client made there before.
            "26000" | "42P05" => Self::Reconnect,
            _ if fatal => Self::Reconnect,
            _ => match code.get(..2) {
                Some("53") => Self::Refuse,
                Some("08" | "25" | "57") => Self::Reconnect,
                _ => Self::Isolate,
            },
        }
    }
}

/// Whether it is PostgreSQL itself that says that a statement failed, and has undone its transaction. After
/// anything else, an error that ends the connection too, it may have been committed.
pub(super) fn rolled_back(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error
        .try_downcast_ref::<PgDatabaseError>()
        .is_some_and(|error| undoes(error.severity(), error.code()))
}

/// A connection that was lost (class 08) is what a pooler says of a server that it has lost itself.
fn undoes(severity: PgSeverity, code: &str) -> bool {
    matches!(severity, PgSeverity::Error) && !code.starts_with("08")
}

/// Whether a statement breaks a unique constraint.
pub(super) fn breaks_unique_constraint(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(sqlx::error::DatabaseError::is_unique_violation)
}

/// Whether a statement was prepared before a migration changed the type of its result. It was not executed,
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
            ("55P03", Remedy::Sidestep),
            ("08006", Remedy::Reconnect),
            ("25P03", Remedy::Reconnect),
            ("57P01", Remedy::Reconnect),
            ("57P02", Remedy::Reconnect),
            ("26000", Remedy::Reconnect),
            ("42P05", Remedy::Reconnect),
            ("25006", Remedy::AwaitServer),
            ("57P03", Remedy::AwaitServer),
            ("53100", Remedy::Refuse),
            ("53200", Remedy::Refuse),
            ("57014", Remedy::Refuse),
        ] {
            assert_eq!(Remedy::of_sqlstate(code, false), remedy, "{code}");
        }
        assert_eq!(Remedy::of_sqlstate("XX000", true), Remedy::Reconnect);
    }
}
