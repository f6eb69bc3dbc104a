//! `payonce account`, and the choice of an account for other commands.

use clap::Subcommand;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{connect, error::CommandError, print};
use crate::accounts::{
    Name,
    store::{self, Account},
};

/// Commands for accounts.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum AccountCommand {
    /// Create an account
    Create {
        /// Its name
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List all accounts
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command for accounts.
pub(super) async fn account(
    command: &AccountCommand,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let mut conn = connect(options).await?;
    match command {
        AccountCommand::Create { name, json } => create_account(&mut conn, name, *json).await?,
        AccountCommand::List { json } => list_accounts(&mut conn, *json).await?,
    }
    Ok(conn.close().await?)
}

async fn create_account(
    conn: &mut PgConnection,
    name: &Name,
    json: bool,
) -> Result<(), CommandError> {
    let account = store::insert_account(conn, Uuid::now_v7().into(), name).await?;
    let account = account.ok_or_else(|| CommandError::NameTaken(name.to_string()))?;
    if json {
        return Ok(print::json(&account)?);
    }
    let Account { account_id, name, .. } = account;
    Ok(print::text(&format!(
        "Account {name:?} was created, with the id {account_id}.\n\
         An API key for it:  payonce api-key create --account {account_id} --name NAME"
    ))?)
}

async fn list_accounts(conn: &mut PgConnection, json: bool) -> Result<(), CommandError> {
    let accounts = store::accounts(conn).await?;
    if json {
        return Ok(print::json(&accounts)?);
    }
    let rows = accounts.into_iter().map(|account| {
        [account.account_id.to_string(), account.name, print::seconds(account.created_at)]
    });
    Ok(print::table(["ID", "NAME", "CREATED"], rows)?)
}

/// The account of this name or id, or the only one. Of several accounts none is assumed: about the wrong account's keys
/// and payments, the output would be wrong without saying so.
pub(super) async fn choose_account(
    conn: &mut PgConnection,
    account: Option<&str>,
) -> Result<Account, CommandError> {
    match account {
        Some(account) => find_account(conn, account).await,
        None => store::only_account(conn).await?.ok_or(CommandError::WhichAccount),
    }
}

/// The account of this name or id.
pub(super) async fn find_account(
    conn: &mut PgConnection,
    account: &str,
) -> Result<Account, CommandError> {
    let found = store::find_account(conn, account).await?;
    found.ok_or_else(|| CommandError::NoAccount(account.to_owned()))
}
