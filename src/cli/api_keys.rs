//! `payonce api-key`.
//!
//! `create` prints the key itself on stdout, once. Everything else that is printed is public.

use std::io::{self, Write};

use clap::Subcommand;
use serde::Serialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::time::sleep;
use uuid::Uuid;

use super::{
    accounts::{choose_account, find_account},
    connect,
    error::CommandError,
    print,
};
use crate::{
    accounts::{
        ApiKey, MAX_KEYS, Name, REVOKED_WITHIN,
        store::{self, Account, ListedKey},
    },
    config::Settings,
    db::timestamp::Timestamp,
    ids::AccountId,
};

/// Commands for API keys.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum ApiKeyCommand {
    /// Create an API key, and show it once
    Create {
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// Its name, such as the program that uses it
        #[arg(long)]
        name: Name,
        /// Create the first API key although it is for another account than default, and anonymous requests have
        /// been executed: a client that repeats one of them with this key executes it again
        #[arg(long)]
        abandon_anonymous_retries: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List API keys, including revoked ones; the keys themselves are never shown
    List {
        /// Only those of this account, by name or id
        #[arg(long)]
        account: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Revoke an API key permanently
    Revoke {
        /// Its id, from the list
        api_key_id: Uuid,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs a command for API keys.
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
            let new = create_key(&mut conn, &account, name, abandon, settings).await?;
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

/// A key that was just created.
struct NewKey {
    key: ApiKey,
    listed: ListedKey,
    /// The command ended anonymous calls.
    first: bool,
}

async fn create_key(
    conn: &mut PgConnection,
    account: &Account,
    name: &Name,
    abandon_anonymous_retries: bool,
    settings: &Settings,
) -> Result<NewKey, CommandError> {
    if store::count_valid_keys(conn).await? >= MAX_KEYS {
        return Err(CommandError::TooManyKeys);
    }
    let first = store::changes(conn).await? == 0;
    let may_repeat = account.account_id != AccountId::DEFAULT && !abandon_anonymous_retries;
    // Not `first`: an interrupted command has ended anonymous calls, and has created no key.
    if may_repeat && !store::has_keys(conn).await? {
        end_anonymous_calls(conn, settings).await?;
    }
    let key = ApiKey::generate().map_err(CommandError::Random)?;
    let (id, hash) = (Uuid::now_v7(), key.hash());
    let listed = store::insert_key(conn, id, account.account_id, name, hash, key.ending()).await?;
    Ok(NewKey { key, listed, first })
}

/// Ends anonymous calls before there is a key, and refuses if one was executed that a client may repeat.
#[expect(clippy::disallowed_methods, reason = "no request is executed in these transactions")]
async fn end_anonymous_calls(
    conn: &mut PgConnection,
    settings: &Settings,
) -> Result<(), CommandError> {
    // Each statement must see what was committed before the lock was taken.
    let begin = "BEGIN ISOLATION LEVEL READ COMMITTED";
    let mut transaction = conn.begin_with(begin).await?;
    refuse_anonymous_retries(&mut transaction, settings).await?;
    store::end_anonymous_calls(&mut transaction).await?;
    transaction.commit().await?;

    // Servers hear of it later, and still execute the anonymous requests that they have accepted until then.
    let wait = REVOKED_WITHIN + settings.request_deadline;
    writeln!(
        io::stderr(),
        "Anonymous calls have ended. The key follows in {} seconds, when no server executes one any more.",
        wait.as_secs()
    )?;
    sleep(wait).await;
    let mut transaction = conn.begin_with(begin).await?;
    refuse_anonymous_retries(&mut transaction, settings).await?;
    Ok(transaction.rollback().await?)
}

async fn refuse_anonymous_retries(
    conn: &mut PgConnection,
    settings: &Settings,
) -> Result<(), CommandError> {
    store::hold_up_executions(conn).await?;
    let key_ttl = settings.idempotency_key_ttl.0;
    if store::has_used_keys(conn, AccountId::DEFAULT, key_ttl).await? {
        return Err(CommandError::AnonymousRetries);
    }
    Ok(())
}

/// A new key as JSON has it.
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
             It is shown only now. Send it with each request:\n\n\
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
