//! `payonce key`: what `GET /idempotency-key` and `POST /idempotency-key/void` do, for operators.

use std::io::{self, IsTerminal};

use clap::{Args, Subcommand};
use serde::Serialize;
use sqlx::{Connection, postgres::PgConnectOptions};

use super::{accounts::choose_account, connect, error::CommandError, print};
use crate::{
    accounts::store::Account,
    config::Settings,
    db,
    idempotency::{self, Engine, IdempotencyKey, Outcome},
    ids::AccountId,
    keys::{self, Shown},
};

/// The command that voids a key.
const VOIDING: &str = "payonce key void";

/// Commands for idempotency keys.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum KeyCommand {
    /// Show what became of the request with a key
    Show(Asked),
    /// Void a key, so that its request is never executed, unless it was executed already; show which
    Void(Asked),
}

/// A key and its account.
#[derive(Debug, Clone, Args)]
pub(super) struct Asked {
    /// The key, as in the header; - reads it from stdin, where no list of processes shows it
    key: String,
    /// Account by name or id; required where there are several
    #[arg(long)]
    account: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The output for programs: the response of the API, the account, and the hash that the log has.
#[derive(Serialize)]
struct Found<'a> {
    #[serde(flatten)]
    shown: &'a Shown,
    account_id: AccountId,
    account: &'a str,
    key_hash: &'a str,
}

/// Runs a command for idempotency keys.
pub(super) async fn key(
    command: &KeyCommand,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let (KeyCommand::Show(asked) | KeyCommand::Void(asked)) = command;
    let key = read(&asked.key)?;
    let mut conn = connect(options).await?;
    let Account { account_id, name: account, .. } =
        choose_account(&mut conn, asked.account.as_deref()).await?;
    if matches!(command, KeyCommand::Void(_)) {
        void(settings, options, account_id, key.clone()).await?;
    }
    let key_hash = key.hash_in(account_id);
    let key_ttl = settings.idempotency_key_ttl.0;
    let shown = keys::look_up(&mut conn, account_id, key, key_ttl, VOIDING).await?;
    conn.close().await?;
    if asked.json {
        let (account, key_hash) = (&account, &key_hash);
        return Ok(print::json(&Found { shown: &shown, account_id, account, key_hash })?);
    }
    print::members([
        ("account", Some(format!("{account} ({account_id})"))),
        ("state", Some(shown.state.as_str().to_owned())),
        ("operation", shown.operation),
        ("execution", shown.execution_id.map(|id| id.to_string())),
        ("resource", shown.resource),
        ("status", shown.status.map(|status| status.to_string())),
        ("first used", shown.first_used_at.map(print::seconds)),
        ("replayable until", shown.replayable_until.map(print::seconds)),
        ("hash in the log", Some(key_hash)),
    ])?;
    Ok(print::text(&format!("\n{}", shown.detail))?)
}

fn read(key: &str) -> Result<IdempotencyKey, CommandError> {
    if key != "-" {
        return Ok(IdempotencyKey::parse(key.as_bytes())?);
    }
    let mut lines = io::stdin().lines();
    let line = lines.next().transpose()?.unwrap_or_default();
    // At a terminal the first line ends the input.
    if !io::stdin().is_terminal() && lines.next().transpose()?.is_some() {
        return Err(CommandError::SeveralKeys);
    }
    Ok(IdempotencyKey::parse(line.as_bytes())?)
}

/// Voids a key in the same way as a server.
async fn void(
    settings: &Settings,
    options: &PgConnectOptions,
    account_id: AccountId,
    key: IdempotencyKey,
) -> Result<(), CommandError> {
    let settings = idempotency::Settings { committers: 1, ..settings.idempotency() };
    let engine = Engine::start(&db::named(options.clone(), "payonce"), &settings).await?;
    let outcome = engine.void(account_id, key).await;
    engine.close(settings.request_deadline).await;
    if outcome? == Outcome::InFlight { Err(CommandError::InFlight) } else { Ok(()) }
}
