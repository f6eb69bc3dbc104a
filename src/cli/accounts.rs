//! `payonce account` and `payonce api-key`: what operators do with accounts and their keys.
//!
//! The keys themselves are shown by `api-key create`, once, on stdout. Everything else that is printed
//! may be seen by anybody.

use std::io::{self, Write};

use clap::Subcommand;
use serde::Serialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{connect, error::CommandError, print};
use crate::{
    accounts::{
        ApiKey, DEFAULT_ACCOUNT, MAX_KEYS, Name, REVOKED_WITHIN,
        store::{self, Account, ListedKey},
    },
    config::Settings,
    timestamp::Timestamp,
};

/// What can be done with accounts.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum AccountCommand {
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
pub(super) enum ApiKeyCommand {
    /// Create an API key and show it, once
    Create {
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// What it is for, in words of your own
        #[arg(long)]
        name: Name,
        /// Create the first API key for another account than default although requests without an API key were
        /// executed: a client that repeats one of them with the new key executes it again
        #[arg(long)]
        abandon_anonymous_retries: bool,
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

/// Does what the command line says.
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

/// Does what the command line says.
pub(super) async fn api_key(
    command: &ApiKeyCommand,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let mut conn = connect(options).await?;
    match command {
        ApiKeyCommand::Create { account, name, abandon_anonymous_retries, json } => {
            let account = choose_account(&mut conn, account.as_deref()).await?;
            let abandon = *abandon_anonymous_retries;
            let new = insert_key(&mut conn, &account, name, abandon, settings).await?;
            show_new_key(&new, *json)?;
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

async fn create_account(
    conn: &mut PgConnection,
    name: &Name,
    json: bool,
) -> Result<(), CommandError> {
    let account = store::insert_account(conn, Uuid::now_v7(), name).await?;
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

/// A key that was just created.
struct NewKey {
    key: ApiKey,
    listed: ListedKey,
    /// Whether it is the first one, which ends anonymous calls.
    first: bool,
}

async fn insert_key(
    conn: &mut PgConnection,
    account: &Account,
    name: &Name,
    abandon_anonymous_retries: bool,
    settings: &Settings,
) -> Result<NewKey, CommandError> {
    let key = ApiKey::generate().map_err(CommandError::Random)?;
    let mut transaction = conn.begin().await?;
    if store::count_valid_keys(&mut transaction).await? >= MAX_KEYS {
        return Err(CommandError::TooManyKeys);
    }
    let first = store::changes(&mut transaction).await? == 0;
    if first && account.account_id != DEFAULT_ACCOUNT && !abandon_anonymous_retries {
        store::hold_up_executions(&mut transaction).await?;
        let key_ttl = settings.idempotency_key_ttl.0;
        if store::has_used_keys(&mut transaction, DEFAULT_ACCOUNT, key_ttl).await? {
            return Err(CommandError::AnonymousRetries);
        }
    }
    let (id, hash) = (Uuid::now_v7(), key.hash());
    let listed =
        store::insert_key(&mut transaction, id, account.account_id, name, hash, key.ending())
            .await?;
    transaction.commit().await?;
    Ok(NewKey { key, listed, first })
}

/// What programs are told of a new key.
#[derive(Serialize)]
struct ShownKey<'a> {
    #[serde(flatten)]
    listed: &'a ListedKey,
    api_key: &'a str,
}

fn show_new_key(NewKey { key, listed, first }: &NewKey, json: bool) -> Result<(), CommandError> {
    let id = listed.api_key_id;
    let shown = if json {
        print::pretty(&ShownKey { listed, api_key: key.reveal() })?
    } else {
        let ListedKey { account, name, .. } = listed;
        format!(
            "API key {name:?} of the account {account:?}, with the id {id}:\n\n\
             {key}\n\n\
             This is the only time that it is shown. Send it with each request:\n\n\
             Authorization: Bearer {key}",
            key = key.reveal(),
        )
    };
    print::secret(&shown).map_err(|error| CommandError::KeyNotShown(id, error))?;
    if *first {
        let seconds = REVOKED_WITHIN.as_secs();
        writeln!(
            io::stderr(),
            "\nThis is the first API key: anonymous calls end with it, permanently and at every server, \
             within {seconds} seconds."
        )?;
    }
    Ok(())
}

async fn list_keys(
    conn: &mut PgConnection,
    account: Option<&str>,
    json: bool,
) -> Result<(), CommandError> {
    let account_id = match account {
        Some(account) => Some(find_account(conn, account).await?.account_id),
        None => None,
    };
    let keys = store::keys(conn, account_id).await?;
    if json {
        return Ok(print::json(&keys)?);
    }
    let rows = keys.into_iter().map(|key| {
        let moment = |time: Option<Timestamp>| time.map_or("-".to_owned(), print::seconds);
        [
            key.api_key_id.to_string(),
            key.account,
            key.name,
            format!("…{}", key.ending),
            print::seconds(key.created_at),
            moment(key.last_used_at),
            moment(key.revoked_at),
        ]
    });
    Ok(print::table(["ID", "ACCOUNT", "NAME", "ENDS IN", "CREATED", "LAST USED", "REVOKED"], rows)?)
}

async fn revoke_key(
    conn: &mut PgConnection,
    api_key_id: Uuid,
    json: bool,
) -> Result<(), CommandError> {
    let key = store::revoke(conn, api_key_id).await?.ok_or(CommandError::NoApiKey(api_key_id))?;
    if json {
        return Ok(print::json(&key)?);
    }
    Ok(print::text(&format!(
        "API key {:?} of the account {:?} was revoked at {}. Every server refuses it within {} seconds.",
        key.name,
        key.account,
        key.revoked_at.map_or_else(String::new, print::seconds),
        REVOKED_WITHIN.as_secs()
    ))?)
}

/// The account of this name or id, or the only one. Where there are several, none is assumed: about another account's
/// keys and payments the answer would be wrong without saying so.
pub(super) async fn choose_account(
    conn: &mut PgConnection,
    account: Option<&str>,
) -> Result<Account, CommandError> {
    match account {
        Some(account) => find_account(conn, account).await,
        None => store::only_account(conn).await?.ok_or(CommandError::WhichAccount),
    }
}

async fn find_account(conn: &mut PgConnection, account: &str) -> Result<Account, CommandError> {
    let found = store::find_account(conn, account).await?;
    found.ok_or_else(|| CommandError::NoAccount(account.to_owned()))
}
