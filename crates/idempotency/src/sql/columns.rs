//! Arguments of a statement that are arrays: each is a column with one value for each command of a batch.

use sqlx::{Arguments, Encode, Postgres, Type, error::BoxDynError, postgres::PgArguments};

/// A statement's arguments, the first of which are columns.
pub(crate) struct Columns {
    /// Of the arguments, in their order.
    names: Vec<&'static str>,
    arguments: Result<PgArguments, BoxDynError>,
}

impl Columns {
    pub(crate) fn new() -> Self {
        Self { names: Vec::new(), arguments: Ok(PgArguments::default()) }
    }

    /// Adds an array, of a type that PostgreSQL knows, with a place for each row.
    pub(crate) fn add<'t>(
        &mut self,
        name: &'static str,
        values: impl Encode<'t, Postgres> + Type<Postgres>,
    ) {
        self.names.push(name);
        if let Ok(arguments) = &mut self.arguments
            && let Err(error) = arguments.add(values)
        {
            self.arguments = Err(error);
        }
    }

    /// Of all columns so far.
    pub(crate) fn names(&self) -> Vec<&'static str> {
        self.names.clone()
    }

    /// A SELECT that unnests these columns side by side. In FROM, PostgreSQL would store each of them on the way.
    pub(crate) fn select(&self, wanted: &[&str]) -> String {
        let places = (1..).zip(&self.names).filter(|(_, name)| wanted.contains(name));
        let opened = places.map(|(place, name)| format!("unnest(${place}) AS {name}"));
        format!("SELECT {}", opened.collect::<Vec<_>>().join(", "))
    }

    /// The arguments. No more columns can be added.
    pub(crate) fn into_arguments(self) -> Result<PgArguments, sqlx::Error> {
        self.arguments.map_err(sqlx::Error::Encode)
    }
}
