//! `payonce migrate` and `payonce sweep`.

use std::error::Error;

use indicatif::ProgressBar;
use serde::Serialize;
use sqlx::{Connection, postgres::PgConnectOptions};

use super::{connect, error::CommandError, print};
use crate::{
    config::Settings,
    db::{
        self, Unmigrated,
        sweep::{self, Pace},
    },
    idempotency::{self, Sweeper, loggable},
};

/// Applies missing migrations.
pub(super) async fn migrate(options: &PgConnectOptions) -> Result<(), Box<dyn Error>> {
    Ok(db::migrate(options).await?)
}

/// A missing migration.
#[derive(Serialize)]
struct Lacking {
    version: i64,
    description: &'static str,
}

/// Lists missing migrations, and fails if there are any.
pub(super) async fn check(options: &PgConnectOptions, json: bool) -> Result<(), Box<dyn Error>> {
    let check = async {
        let mut conn = db::connect(options).await?;
        let lacking = db::lacking(&mut conn).await?;
        conn.close().await.map(|()| lacking)
    };
    let lacking = check.await.map_err(CommandError::Database)??;
    let list = lacking.iter().map(|migration| Lacking {
        version: migration.version,
        description: &migration.description,
    });
    if json {
        print::json(&list.collect::<Vec<_>>())?;
    } else if lacking.is_empty() {
        print::text("The database lacks no migration")?;
    } else {
        let rows = list.map(|one| [format!("{:04}", one.version), one.description.to_owned()]);
        print::table(["LACKING", "DESCRIPTION"], rows)?;
    }
    if lacking.is_empty() { Ok(()) } else { Err(Unmigrated::Lacking(lacking.len()).into()) }
}

/// The number of deleted rows.
#[derive(Serialize)]
struct Swept {
    responses: u64,
    keys: u64,
    events: i64,
}

/// Deletes expired responses, keys and events. A terminal shows the progress.
pub(super) async fn sweep(
    settings: &Settings,
    options: &PgConnectOptions,
    json: bool,
) -> Result<(), Box<dyn Error>> {
    let conn = connect(options).await?;
    conn.close().await.map_err(CommandError::Database)?;
    let done = |responses: u64, keys: u64| {
        format!("{responses} expired responses and {keys} expired keys deleted")
    };
    let mut sweeper =
        Sweeper::new(settings.idempotency_response_ttl.0, settings.idempotency_key_ttl.0);
    let bar = ProgressBar::new_spinner();
    let (mut responses, mut keys) = (0, 0);
    let progress = |swept: idempotency::Swept, _| {
        responses += swept.responses;
        keys += swept.keys;
        bar.set_message(done(responses, keys));
        bar.tick();
    };
    let pass = sweep::pass(&mut sweeper, options, Pace::Full, progress).await;
    bar.finish_and_clear();
    let (responses, keys) = pass.map_err(|error| loggable(&error))?;
    let events = match settings.event_ttl.0 {
        Some(ttl) => sweep::expire_events(options, ttl, Pace::Full).await,
        None => Ok(0),
    };
    let events = events.map_err(|error| loggable(&error))?;
    if json {
        print::json(&Swept { responses, keys, events })?;
    } else {
        print::text(&format!(
            "{responses} expired responses, {keys} expired keys and {events} expired events deleted"
        ))?;
    }
    Ok(())
}
