//! A command's whole effect, where that is one INSERT: then a batch is one statement.

use sqlx::{
    Arguments, AssertSqlSafe, Encode, PgConnection, Postgres, Type, error::BoxDynError,
    postgres::PgArguments,
};
use uuid::Uuid;

use super::response::Response;

/// The effect of a batch of commands as one INSERT, with the responses to them.
///
/// The layer makes it part of the statement that claims the keys and stores the responses, so that
/// all of it takes one round trip and is its own transaction. That leaves nothing in between to die
/// at, and no transaction that a server which hangs could leave open.
///
/// For commands whose response is known before they are executed, and which can't be refused.
pub struct Insert {
    pub(super) sql: &'static str,
    pub(super) arguments: Result<PgArguments, BoxDynError>,
    pub(super) responses: Vec<Response>,
}

impl Insert {
    /// An INSERT of one row for each row of `claimed`, a table with one column, `execution_id`: those
    /// of the batch whose keys were new. The arguments are arrays with a place for each command of
    /// the batch; so it reads
    ///
    /// ```sql
    /// INSERT INTO greetings (id, name)
    /// SELECT execution_id, name
    /// FROM claimed JOIN (SELECT unnest($1::uuid[]) AS execution_id, unnest($2::text[]) AS name) AS greeting
    ///      USING (execution_id)
    /// ```
    ///
    /// without RETURNING. If it inserts fewer rows or more, nothing of the batch is committed.
    #[must_use]
    pub fn new(sql: &'static str) -> Self {
        Self { sql, arguments: Ok(PgArguments::default()), responses: Vec::new() }
    }

    /// Binds the next argument.
    #[must_use]
    pub fn bind<'t>(mut self, value: impl Encode<'t, Postgres> + Type<Postgres>) -> Self {
        if let Ok(arguments) = &mut self.arguments
            && let Err(error) = arguments.add(value)
        {
            self.arguments = Err(error);
        }
        self
    }

    /// The responses, one for each command of the batch, in its order.
    #[must_use]
    pub fn respond(mut self, responses: Vec<Response>) -> Self {
        self.responses = responses;
        self
    }

    /// Runs it as a statement of its own, in a transaction in which these keys have been claimed.
    pub(super) async fn execute(
        self,
        conn: &mut PgConnection,
        claimed: Vec<Uuid>,
    ) -> Result<Vec<Response>, sqlx::Error> {
        let mut arguments = self.arguments.map_err(sqlx::Error::Encode)?;
        let wanted = u64::try_from(claimed.len()).ok();
        arguments.add(claimed).map_err(sqlx::Error::Encode)?;
        let place = arguments.len();
        let sql = format!(
            "WITH claimed AS (SELECT execution_id FROM unnest(${place}::uuid[]) AS claimed(execution_id)) {}",
            self.sql
        );
        let inserted = sqlx::query_with(AssertSqlSafe(sql), arguments).execute(conn).await?;
        if Some(inserted.rows_affected()) != wanted {
            let what =
                format!("{} rows inserted for {wanted:?} commands", inserted.rows_affected());
            return Err(sqlx::Error::Encode(what.into()));
        }
        Ok(self.responses)
    }
}
