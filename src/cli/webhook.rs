//! `payonce webhook`: the endpoints of `/webhook-endpoint`, for operators.
//!
//! `create` and `rotate` print the signing secret on stdout, once. Everything else that is printed is public.

use clap::{Subcommand, value_parser};
use serde::Serialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use super::{accounts::choose_account, connect, error::CommandError, print};
use crate::{
    accounts::store::Account,
    config::Settings,
    db::timestamp::Timestamp,
    events::{EventType, Position},
    ids::EndpointId,
    webhooks::{
        Guard, SystemResolver,
        body::{Changes, DESCRIPTION, NewEndpoint, is_description},
        command::Replaying,
        endpoint::{EventTypes, Range},
        owner::{self, NotKept},
        secrets::{Keyring, Secret},
        shown::{self, Behind, Failures, ShownEndpoint},
    },
};

/// Commands for webhook endpoints.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum WebhookCommand {
    /// Create an endpoint, and show its signing secret once
    Create {
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// URL that receives events, https://
        #[arg(long)]
        url: String,
        /// Only events of this type; may be repeated
        #[arg(long, value_name = "TYPE", value_parser = event_type)]
        event_type: Vec<EventType>,
        /// Description, for people
        #[arg(long, value_parser = description)]
        description: Option<String>,
        /// Send nothing until it is enabled
        #[arg(long)]
        disabled: bool,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// List endpoints, and how far behind they are
    List {
        /// Account by name or id; required where there are several
        #[arg(long)]
        account: Option<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Show an endpoint, and how its delivery goes
    Show(Named),
    /// Send events to an endpoint again, also those since it was disabled
    Enable(Named),
    /// Send nothing to an endpoint until it is enabled
    Disable(Named),
    /// Replace the signing secret, and show the new one once; the previous one signs as well for 24 hours
    Rotate(Named),
    /// Send events once more, with the same webhook-id, instead of a replay that still runs
    Replay {
        #[command(flatten)]
        named: Named,
        /// Position of the first event
        #[arg(long, value_parser = value_parser!(i64).range(1..))]
        from: i64,
        /// Position of the last event
        #[arg(long, value_parser = value_parser!(i64).range(1..))]
        to: i64,
    },
    /// Delete an endpoint
    Delete(Named),
}

/// An endpoint of an account.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Named {
    /// Its id, from the list
    endpoint_id: EndpointId,
    /// Account by name or id; required where there are several
    #[arg(long)]
    account: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn event_type(name: &str) -> Result<EventType, String> {
    let known = || format!("expected one of {}", EventType::ALL.map(EventType::name).join(", "));
    EventType::parse(name).ok_or_else(known)
}

fn description(text: &str) -> Result<String, String> {
    is_description(text).then(|| text.to_owned()).ok_or_else(|| format!("expected {DESCRIPTION}"))
}

/// Runs a command for webhook endpoints.
pub(super) async fn webhook(
    command: &WebhookCommand,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let keyring = || settings.webhook_secret.as_ref().ok_or(CommandError::NoWebhookSecret);
    let mut conn = connect(options).await?;
    match command {
        WebhookCommand::Create { account, url, event_type, description, disabled, json } => {
            let keyring = keyring()?;
            let networks = settings.webhook_allowed_networks.clone().unwrap_or_default();
            Guard::new(networks, SystemResolver).check(url).await?;
            let new = NewEndpoint {
                url: url.clone(),
                event_types: EventTypes::some(event_type),
                description: description.clone(),
                enabled: Some(!disabled),
            };
            create(&mut conn, account.as_deref(), keyring, &new, *json).await?;
        }
        WebhookCommand::List { account, json } => {
            list(&mut conn, account.as_deref(), *json).await?;
        }
        WebhookCommand::Show(named) => show(&mut conn, named, &Changes::default()).await?,
        WebhookCommand::Enable(named) => {
            show(&mut conn, named, &Changes { enabled: Some(true), ..Changes::default() }).await?;
        }
        WebhookCommand::Disable(named) => {
            show(&mut conn, named, &Changes { enabled: Some(false), ..Changes::default() }).await?;
        }
        WebhookCommand::Rotate(named) => rotate(&mut conn, named, keyring()?).await?,
        WebhookCommand::Replay { named, from, to } => {
            let position = |number| Position::new(number).unwrap_or_default();
            let range = Range { from: position(*from), to: position(*to) };
            replay(&mut conn, named, range).await?;
        }
        WebhookCommand::Delete(named) => delete(&mut conn, named).await?,
    }
    Ok(conn.close().await?)
}

/// An endpoint with its secret, as JSON has it.
#[derive(Serialize)]
struct WithSecret<'a> {
    #[serde(flatten)]
    endpoint: &'a ShownEndpoint,
    secret: &'a str,
}

#[expect(clippy::disallowed_methods, reason = "no request is executed in this transaction")]
async fn create(
    conn: &mut PgConnection,
    account: Option<&str>,
    keyring: &Keyring,
    new: &NewEndpoint,
    json: bool,
) -> Result<(), CommandError> {
    let account_id = choose_account(conn, account).await?.account_id;
    let (endpoint_id, secret) = (EndpointId::from(Uuid::now_v7()), Secret::generate()?);
    let sealed = keyring.seal(account_id, endpoint_id, &secret)?;
    // Each statement must see what was committed before the lock was taken.
    let mut transaction = conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let ids = (account_id, endpoint_id);
    let created = owner::create(&mut transaction, ids, new, &sealed).await?;
    created.ok_or(CommandError::TooManyEndpoints)?;
    let endpoint = shown::find(&mut transaction, account_id, endpoint_id).await?;
    transaction.commit().await?;
    let endpoint = endpoint.ok_or(sqlx::Error::RowNotFound)?;
    let heading = format!("Webhook endpoint {endpoint_id} for {:?}.", new.url);
    print_secret(&endpoint, &heading, &secret, json)
}

fn print_secret(
    endpoint: &ShownEndpoint,
    heading: &str,
    secret: &Secret,
    json: bool,
) -> Result<(), CommandError> {
    let secret = secret.reveal();
    let shown = if json {
        print::pretty(&WithSecret { endpoint, secret: &secret })?
    } else {
        format!("{heading} Its signing secret is shown only now:\n\n{}", secret.as_str())
    };
    let not_shown = |error| CommandError::SecretNotShown(endpoint.endpoint_id, error);
    print::secret(&shown).map_err(not_shown)
}

async fn list(
    conn: &mut PgConnection,
    account: Option<&str>,
    json: bool,
) -> Result<(), CommandError> {
    let account_id = choose_account(conn, account).await?.account_id;
    let endpoints = shown::list(conn, account_id).await?;
    if json {
        return Ok(print::json(&endpoints)?);
    }
    let rows = endpoints.webhook_endpoints.into_iter().map(|endpoint| {
        let ShownEndpoint { behind, failures, failing_since, .. } = endpoint;
        [
            endpoint.endpoint_id.to_string(),
            state(&endpoint),
            behind.events.to_string(),
            failures.open.to_string(),
            failures.parked.to_string(),
            failing_since.map_or("-".to_owned(), print::seconds),
            endpoint.url,
        ]
    });
    Ok(print::table(["ID", "STATE", "BEHIND", "OPEN", "PARKED", "FAILING SINCE", "URL"], rows)?)
}

fn state(endpoint: &ShownEndpoint) -> String {
    match endpoint.disabled_reason {
        _ if endpoint.enabled => "enabled".to_owned(),
        Some(reason) => format!("disabled ({})", reason.name()),
        None => "disabled".to_owned(),
    }
}

/// The account, and an error for an endpoint that it does not have.
async fn account_of(
    conn: &mut PgConnection,
    named: &Named,
) -> Result<(Account, CommandError), CommandError> {
    let account = choose_account(conn, named.account.as_deref()).await?;
    let missing =
        CommandError::NoEndpoint { account: account.name.clone(), endpoint_id: named.endpoint_id };
    Ok((account, missing))
}

/// Changes an endpoint, unless there is nothing to change, and shows it.
async fn show(
    conn: &mut PgConnection,
    named: &Named,
    changes: &Changes,
) -> Result<(), CommandError> {
    let (Account { account_id, .. }, missing) = account_of(conn, named).await?;
    if *changes != Changes::default() {
        owner::change(conn, account_id, named.endpoint_id, changes).await?;
    }
    let endpoint = shown::find(conn, account_id, named.endpoint_id).await?.ok_or(missing)?;
    if named.json {
        return Ok(print::json(&endpoint)?);
    }
    let Behind { events, seconds } = endpoint.behind;
    let Failures { open, parked } = endpoint.failures;
    let time = |time: Option<Timestamp>| time.map(print::seconds);
    let range = |range: Option<Range>| range.map(|Range { from, to }| format!("{from} to {to}"));
    Ok(print::members([
        ("id", Some(endpoint.endpoint_id.to_string())),
        ("url", Some(endpoint.url.clone())),
        ("events", Some(endpoint.event_types.to_string())),
        ("description", Some(endpoint.description.clone()).filter(|text| !text.is_empty())),
        ("state", Some(state(&endpoint))),
        ("created", Some(print::seconds(endpoint.created_at))),
        ("behind", Some(format!("{events} events, {seconds} s"))),
        ("failed", Some(format!("{open} open, {parked} parked"))),
        ("failing since", time(endpoint.failing_since)),
        ("last success", time(endpoint.last_success_at)),
        ("last status", endpoint.last_status.map(|status| status.to_string())),
        ("last error", endpoint.last_error.clone()),
        ("lost", range(endpoint.lost)),
        ("replay", range(endpoint.replay)),
        ("previous secret until", time(endpoint.previous_secret_until)),
    ])?)
}

#[expect(clippy::disallowed_methods, reason = "no request is executed in this transaction")]
async fn rotate(
    conn: &mut PgConnection,
    named: &Named,
    keyring: &Keyring,
) -> Result<(), CommandError> {
    let (Account { account_id, .. }, missing) = account_of(conn, named).await?;
    let secret = Secret::generate()?;
    let mut transaction = conn.begin_with("BEGIN ISOLATION LEVEL READ COMMITTED").await?;
    let ids = (account_id, named.endpoint_id);
    let rotation = owner::rotate(&mut transaction, keyring, ids, &secret).await?;
    let endpoint = shown::find(&mut transaction, account_id, named.endpoint_id).await?;
    transaction.commit().await?;
    let (rotation, endpoint) = rotation.zip(endpoint).ok_or(missing)?;
    let previous = rotation.previous_until.map_or_else(
        || "The previous secret could not be decrypted, and signs no more.".to_owned(),
        |until| format!("The previous secret signs as well until {}.", print::seconds(until)),
    );
    let heading = format!("Webhook endpoint {} has a new secret. {previous}", named.endpoint_id);
    print_secret(&endpoint, &heading, &secret, named.json)
}

async fn replay(conn: &mut PgConnection, named: &Named, range: Range) -> Result<(), CommandError> {
    let (Account { account_id, .. }, missing) = account_of(conn, named).await?;
    if range.from > range.to {
        return Err(CommandError::Replay("--from: expected at most --to".to_owned()));
    }
    let refused =
        |NotKept { field, expected }| CommandError::Replay(format!("--{field}: {expected}"));
    owner::check_kept(conn, account_id, range).await?.map_err(refused)?;
    if !owner::replay(conn, account_id, named.endpoint_id, range).await? {
        return Err(missing);
    }
    if named.json {
        return Ok(print::json(&Replaying { endpoint_id: named.endpoint_id, replay: range })?);
    }
    Ok(print::text(&format!(
        "The events from {} to {} are sent once more, after those that are sent for the first time.",
        range.from, range.to
    ))?)
}

async fn delete(conn: &mut PgConnection, named: &Named) -> Result<(), CommandError> {
    let (Account { account_id, .. }, missing) = account_of(conn, named).await?;
    if !owner::delete(conn, account_id, named.endpoint_id).await? {
        return Err(missing);
    }
    if named.json {
        return Ok(print::json(&serde_json::json!({ "endpoint_id": named.endpoint_id }))?);
    }
    Ok(print::text(&format!("Webhook endpoint {} was deleted.", named.endpoint_id))?)
}
