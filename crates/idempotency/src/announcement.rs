//! Announcements: rows that tell a reader what a transaction executed.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{AccountId, Error};

/// The code of an application's type of event. It is stored: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventCode(i16);

impl EventCode {
    /// The type of event with this code.
    #[must_use]
    pub const fn new(code: i16) -> Self {
        Self(code)
    }

    /// The code.
    #[must_use]
    pub const fn get(self) -> i16 {
        self.0
    }
}

/// An execution to announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Announced {
    /// The account of the key.
    pub account_id: AccountId,
    /// The execution's id.
    pub execution_id: Uuid,
    /// The type of its event.
    pub event: EventCode,
}

/// Announces executions in the caller's transaction. Inserts one row for any number of them, and none for none.
///
/// **Call it last, immediately before COMMIT.** This statement draws the id of the announcement, and events have the
/// order of these ids. Events about the same row then have the order in which its lock was held.
///
/// # Errors
/// When the database fails, or a trigger drops the row. Roll the transaction back.
pub async fn announce(conn: &mut PgConnection, announced: &[Announced]) -> Result<(), Error> {
    if announced.is_empty() {
        return Ok(());
    }
    let accounts = announced.iter().map(|one| one.account_id).collect();
    let executions: Vec<Uuid> = announced.iter().map(|one| one.execution_id).collect();
    let events = announced.iter().map(|one| one.event.get()).collect();
    let inserted = sqlx::query(
        "INSERT INTO announcements (account_ids, execution_ids, types) VALUES ($1, $2, $3)",
    )
    .bind(one_if_equal(accounts))
    .bind(executions)
    .bind(one_if_equal(events))
    .execute(conn)
    .await?;
    match inserted.rows_affected() {
        1 => Ok(()),
        rows => Err(Error::other(format!("{rows} announcements inserted instead of one"))),
    }
}

/// One value where all are equal, as the table has it: it saves most of the row's bytes.
pub(super) fn one_if_equal<T: PartialEq>(mut values: Vec<T>) -> Vec<T> {
    if values.windows(2).all(|pair| pair.first() == pair.last()) {
        values.truncate(1);
    }
    values
}

#[cfg(test)]
mod tests {
    use super::one_if_equal;

    #[test]
    fn equal_values_are_stored_once() {
        assert_eq!(one_if_equal(vec![7, 7, 7]), [7]);
        assert_eq!(one_if_equal(vec![7, 7, 8]), [7, 7, 8]);
        assert_eq!(one_if_equal(vec![7]), [7]);
        assert_eq!(one_if_equal(Vec::<i16>::new()), [0_i16; 0]);
    }
}
