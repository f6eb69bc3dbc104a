//! A command's whole effect, where that is one INSERT: then a batch is one statement.

use sqlx::{AssertSqlSafe, Encode, PgConnection, Postgres, Type};
use uuid::Uuid;

use super::{columns::Columns, response::Response};

/// The effect of a batch of commands as one INSERT, with the responses to them.
///
/// The layer makes it part of the statement that claims the keys and stores the responses, so that
/// all of it takes one round trip and is its own transaction. That leaves nothing in between to die
/// at, and no transaction that a server which hangs could leave open.
///
/// For commands whose response is known before they are executed, and which can't be refused.
pub struct Insert {
    pub(super) sql: &'static str,
    pub(super) columns: Columns,
    pub(super) responses: Vec<Response>,
}

impl Insert {
    /// An INSERT of one row for each row of `claimed`: those of the batch whose keys were new. Its columns are
    /// `execution_id`, `account_id`, and those that are [added](Self::column); so it reads
    ///
    /// ```sql
    /// INSERT INTO greetings (id, name) SELECT execution_id, name FROM claimed
    /// ```
    ///
    /// without RETURNING. If it inserts fewer rows or more, nothing of the batch is committed.
    #[must_use]
    pub fn new(sql: &'static str) -> Self {
        Self { sql, columns: Columns::new(), responses: Vec::new() }
    }

    /// Adds a column to `claimed`: an array with a place for each command of the batch, in its order. The name is an
    /// identifier of PostgreSQL's; those that begin with `_` are the layer's.
    #[must_use]
    pub fn column<'t>(
        mut self,
        name: &'static str,
        values: impl Encode<'t, Postgres> + Type<Postgres>,
    ) -> Self {
        self.columns.add(name, values);
        self
    }

    /// The responses, one for each command of the batch, in its order.
    #[must_use]
    pub fn respond(mut self, responses: Vec<Response>) -> Self {
        self.responses = responses;
        self
    }

    /// Runs it as a statement of its own, in a transaction in which these keys have been claimed, by accounts.
    pub(super) async fn execute(
        mut self,
        conn: &mut PgConnection,
        claimed: (Vec<Uuid>, Vec<Uuid>),
    ) -> Result<Vec<Response>, sqlx::Error> {
        let (ids, accounts) = claimed;
        let wanted = u64::try_from(ids.len()).ok();
        self.columns.add("execution_id", ids);
        self.columns.add("account_id", accounts);
        let claimed = self.columns.select(&self.columns.names());
        let sql = format!("WITH claimed AS ({claimed}) {}", self.sql);
        let arguments = self.columns.into_arguments()?;
        let inserted = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(conn).await?;
        if Some(inserted.rows_affected()) != wanted {
            let what =
                format!("{} rows inserted for {wanted:?} commands", inserted.rows_affected());
            return Err(sqlx::Error::Encode(what.into()));
        }
        Ok(self.responses)
    }
}
