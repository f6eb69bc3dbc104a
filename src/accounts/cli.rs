//! `payonce account` and `payonce api-key`: what operators do with accounts and their keys.
//!
//! The keys themselves are shown by `api-key create`, once, on stdout. Everything else that is printed
//! may be seen by anybody.

use std::io::{self, Write};

use chrono::SecondsFormat;
use clap::Subcommand;
use serde::Serialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use thiserror::Error;
use uuid::Uuid;

use super::{
    api_key::ApiKey,
    directory::{MAX_KEYS, REVOKED_WITHIN},
    name::Name,
    store::{self, Account, ListedKey},
};
use crate::{database, idempotency::loggable, timestamp::Timestamp};

/// What can be done with accounts.
#[derive(Debug, Clone, Subcommand)]
pub enum AccountCommand {
    /// Create an account
    Create {
        /// What people call it
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

/// What can be done with API keys.
#[derive(Debug, Clone, Subcommand)]
pub enum ApiKeyCommand {
    /// Create an API key and show it, once
    Create {
        /// Whose key it is: an account's name or id
        #[arg(long, default_value = "default")]
        account: String,
        /// What it is for, in words of your own
        #[arg(long)]
        name: Name,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List API keys, revoked ones too; never the keys themselves
    List {
        /// Only those of this account (its name or id)
        #[arg(long)]
        account: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an API key for good
    Revoke {
        /// Its id, as the list has it
        api_key_id: Uuid,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Why something can't be done.
#[derive(Debug, Error)]
pub enum AccountError {
    /// The database can't be reached, or refuses.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// It was never migrated so far.
    #[error("the database lacks {0} migrations: run payonce migrate")]
    Unmigrated(usize),
    /// There is an account of this name.
    #[error("there is an account {0:?} already")]
    NameTaken(String),
    /// There is no such account.
    #[error("there is no account {0:?}: payonce account list shows all")]
    NoAccount(String),
    /// There is no such key.
    #[error("there is no API key with the id {0}: payonce api-key list shows all")]
    NoKey(Uuid),
    /// As many keys are valid as may be.
    #[error("there are {MAX_KEYS} valid API keys, and there can't be more: revoke some")]
    TooManyKeys,
    /// The operating system has no random numbers.
    #[error("no random numbers to make a key of: {0}")]
    Random(getrandom::Error),
    /// Nobody reads what is printed.
    #[error("can't print: {0}")]
    Print(#[from] io::Error),
}

/// Does what the command line says.
///
/// # Errors
/// See [`AccountError`]; nothing was changed then, or what was can be seen in the list.
pub async fn account(
    command: &AccountCommand,
    options: &PgConnectOptions,
) -> Result<(), AccountError> {
    let mut conn = connect(options).await?;
    match command {
        AccountCommand::Create { name, json } => create_account(&mut conn, name, *json).await?,
        AccountCommand::List { json } => list_accounts(&mut conn, *json).await?,
    }
    Ok(conn.close().await?)
}

/// Does what the command line says.
///
/// # Errors
/// See [`AccountError`]; nothing was changed then, or what was can be seen in the list.
pub async fn api_key(
    command: &ApiKeyCommand,
    options: &PgConnectOptions,
) -> Result<(), AccountError> {
    let mut conn = connect(options).await?;
    match command {
        ApiKeyCommand::Create { account, name, json } => {
            create_key(&mut conn, account, name, *json).await?;
        }
        ApiKeyCommand::List { account, json } => {
            list_keys(&mut conn, account.as_deref(), *json).await?;
        }
        ApiKeyCommand::Revoke { api_key_id, json } => {
            revoke_key(&mut conn, *api_key_id, *json).await?;
        }
    }
    Ok(conn.close().await?)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, AccountError> {
    let mut conn = database::connect(options).await?;
    match database::pending(&mut conn).await? {
        0 => Ok(conn),
        pending => Err(AccountError::Unmigrated(pending)),
    }
}

async fn create_account(
    conn: &mut PgConnection,
    name: &Name,
    json: bool,
) -> Result<(), AccountError> {
    let account = store::insert_account(conn, Uuid::now_v7(), name).await?;
    let account = account.ok_or_else(|| AccountError::NameTaken(name.to_string()))?;
    if json {
        return print_json(&account);
    }
    let Account { account_id, name, .. } = account;
    print(&format!(
        "Account {name:?} was created, with the id {account_id}.\n\
         An API key for it:  payonce api-key create --account {account_id} --name NAME"
    ))
}

async fn list_accounts(conn: &mut PgConnection, json: bool) -> Result<(), AccountError> {
    let accounts = store::accounts(conn).await?;
    if json {
        return print_json(&accounts);
    }
    let rows = accounts
        .into_iter()
        .map(|account| [account.account_id.to_string(), account.name, seconds(account.created_at)]);
    print(&table(["ID", "NAME", "CREATED"], rows))
}

/// A key with itself, for the one time that it is shown.
#[derive(Serialize)]
struct NewKey<'a> {
    #[serde(flatten)]
    listed: &'a ListedKey,
    api_key: &'a str,
}

async fn create_key(
    conn: &mut PgConnection,
    account: &str,
    name: &Name,
    json: bool,
) -> Result<(), AccountError> {
    let account = find_account(conn, account).await?;
    if store::count_valid_keys(conn).await? >= MAX_KEYS {
        return Err(AccountError::TooManyKeys);
    }
    let first = store::changes(conn).await? == 0;
    let key = ApiKey::generate().map_err(AccountError::Random)?;
    let (id, hash) = (Uuid::now_v7(), key.hash());
    let listed = store::insert_key(conn, id, account.account_id, name, hash, key.ending()).await?;
    if json {
        print_json(&NewKey { listed: &listed, api_key: key.reveal() })?;
    } else {
        let ListedKey { account, name, .. } = &listed;
        print(&format!(
            "API key {name:?} of the account {account:?}, with the id {id}:\n\n\
             {key}\n\n\
             This is the only time that it is shown. Send it with each request:\n\n\
             Authorization: Bearer {key}",
            key = key.reveal(),
        ))?;
    }
    if first {
        let seconds = REVOKED_WITHIN.as_secs();
        writeln!(
            io::stderr(),
            "\nThis is the first API key: anonymous calls end with it, for good and at every server, \
             within {seconds} seconds."
        )?;
    }
    Ok(())
}

async fn list_keys(
    conn: &mut PgConnection,
    account: Option<&str>,
    json: bool,
) -> Result<(), AccountError> {
    let account_id = match account {
        Some(account) => Some(find_account(conn, account).await?.account_id),
        None => None,
    };
    let keys = store::keys(conn, account_id).await?;
    if json {
        return print_json(&keys);
    }
    let rows = keys.into_iter().map(|key| {
        let moment = |time: Option<Timestamp>| time.map_or("-".to_owned(), seconds);
        [
            key.api_key_id.to_string(),
            key.account,
            key.name,
            format!("…{}", key.ending),
            seconds(key.created_at),
            moment(key.last_used_at),
            moment(key.revoked_at),
        ]
    });
    print(&table(["ID", "ACCOUNT", "NAME", "ENDS IN", "CREATED", "LAST USED", "REVOKED"], rows))
}

async fn revoke_key(
    conn: &mut PgConnection,
    api_key_id: Uuid,
    json: bool,
) -> Result<(), AccountError> {
    let key = store::revoke(conn, api_key_id).await?.ok_or(AccountError::NoKey(api_key_id))?;
    if json {
        return print_json(&key);
    }
    print(&format!(
        "API key {:?} of the account {:?} was revoked at {}. Every server refuses it within {} seconds.",
        key.name,
        key.account,
        key.revoked_at.map_or_else(String::new, seconds),
        REVOKED_WITHIN.as_secs()
    ))
}

async fn find_account(conn: &mut PgConnection, account: &str) -> Result<Account, AccountError> {
    let found = store::find_account(conn, account).await?;
    found.ok_or_else(|| AccountError::NoAccount(account.to_owned()))
}

/// Rows below headings, each column as wide as its widest cell.
fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = std::iter::once(headings.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn seconds(time: Timestamp) -> String {
    time.0.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn print(text: &str) -> Result<(), AccountError> {
    Ok(writeln!(io::stdout(), "{text}")?)
}

fn print_json(value: &impl Serialize) -> Result<(), AccountError> {
    print(&serde_json::to_string_pretty(value).map_err(io::Error::from)?)
}

#[cfg(test)]
mod tests {
    use super::table;

    #[test]
    fn columns_stand_below_their_headings() {
        let rows = [["1", "größe"], ["23", "b"]].map(|row| row.map(str::to_owned));
        assert_eq!(table(["ID", "NAME"], rows), "ID  NAME\n1   größe\n23  b");
        assert_eq!(table(["ID"], []), "ID");
    }
}
