//! A command's whole effect, where that is one INSERT: then a batch is one statement.

use sqlx::{AssertSqlSafe, Encode, PgConnection, Postgres, Type};
use uuid::Uuid;

use super::{AccountId, response::Response, sql::Columns};

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
    /// The number of values of each column.
    lengths: Vec<usize>,
    pub(super) responses: Vec<Response>,
}

impl Insert {
    /// An INSERT of one row for each row of `claimed`: those of the batch whose keys were new.
    /// Its columns are `execution_id`, `account_id`, and those that are [added](Self::column); so it reads
    ///
    /// ```sql
    /// INSERT INTO greetings (id, name) SELECT execution_id, name FROM claimed
    /// ```
    ///
    /// without RETURNING. If it inserts fewer rows or more, nothing of the batch is committed.
    #[must_use]
    pub fn new(sql: &'static str) -> Self {
        Self { sql, columns: Columns::new(), lengths: Vec::new(), responses: Vec::new() }
    }

    /// Adds a column to `claimed`, with a value for each command of the batch, in its order. The name is an
    /// identifier of PostgreSQL's, another than those that are there; those that begin with `_` are the layer's.
    #[must_use]
    pub fn column<'t, T>(mut self, name: &'static str, values: Vec<T>) -> Self
    where
        Vec<T>: Encode<'t, Postgres> + Type<Postgres>,
    {
        self.lengths.push(values.len());
        self.columns.add(name, values);
        self
    }

    /// The responses, one for each command of the batch, in its order.
    #[must_use]
    pub fn respond(mut self, responses: Vec<Response>) -> Self {
        self.responses = responses;
        self
    }

    /// Makes sure that each of so many commands has its values and its response.
    pub(super) fn complete(self, commands: usize) -> Result<Self, sqlx::Error> {
        let mut given = self.lengths.iter().copied().chain([self.responses.len()]);
        match given.find(|given| *given != commands) {
            None => Ok(self),
            Some(given) => Err(sqlx::Error::Encode(
                format!("{given} values or responses for {commands} commands").into(),
            )),
        }
    }

    /// Runs it as a statement of its own, in a transaction in which the keys of these executions have been claimed.
    pub(super) async fn execute(
        self,
        conn: &mut PgConnection,
        ids: Vec<Uuid>,
        accounts: Vec<AccountId>,
    ) -> Result<Vec<Response>, sqlx::Error> {
        let mut this = self.complete(ids.len())?;
        let wanted = u64::try_from(ids.len()).ok();
        this.columns.add("execution_id", ids);
        this.columns.add("account_id", accounts);
        let claimed = this.columns.select(&this.columns.names());
        let sql = format!("WITH claimed AS ({claimed}) {}", this.sql);
        let arguments = this.columns.into_arguments()?;
        let inserted = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(conn).await?;
        if Some(inserted.rows_affected()) != wanted {
            let what =
                format!("{} rows inserted for {wanted:?} commands", inserted.rows_affected());
            return Err(sqlx::Error::Encode(what.into()));
        }
        Ok(this.responses)
    }
}
