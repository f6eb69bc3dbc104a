//! Runs the sweeper: in the background of a server, and once for `payonce sweep`.

use std::time::Duration;

use log::{debug, info, warn};
use sqlx::{Connection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use crate::{
    config::Settings,
    database,
    idempotency::{Oldest, Sweeper, Swept, loggable},
    metrics::Sweeps,
};

/// The pause between two pages of a sweep in the background.
const PAUSE: Duration = Duration::from_millis(20);

/// Deletes what has expired, for ever, with a pause after each pass.
pub async fn forever(
    settings: Settings,
    options: PgConnectOptions,
    interval: Duration,
    sweeps: Sweeps,
) {
    let mut sweeper =
        Sweeper::new(settings.idempotency_response_ttl.0, settings.idempotency_key_ttl.0);
    sweeps.saw(sweeper.oldest());
    loop {
        sleep(interval).await;
        let progress = |swept, oldest| {
            sweeps.deleted(swept);
            sweeps.saw(oldest);
        };
        let done = pass(&mut sweeper, &options, PAUSE, progress).await;
        match &done {
            Ok(_) => sweeps.succeeded(),
            Err(_) => sweeps.failed(),
        }
        match done {
            Ok((0, 0)) => debug!("sweep: nothing has expired"),
            Ok((responses, keys)) => {
                info!("sweep: {responses} expired responses and {keys} expired keys deleted");
            }
            Err(error) => warn!("sweep: {}", loggable(&error)),
        }
    }
}

/// One pass of a sweeper: how many responses and keys it deleted. `progress` hears after each page what
/// that was, and what is still there.
///
/// # Errors
/// When the database fails; what was deleted until then is.
pub async fn pass(
    sweeper: &mut Sweeper,
    options: &PgConnectOptions,
    pause: Duration,
    mut progress: impl FnMut(Swept, Oldest),
) -> Result<(u64, u64), sqlx::Error> {
    let mut conn = database::connect(options).await?;
    let (mut responses, mut keys) = (0, 0);
    loop {
        let step = timeout(database::STATEMENT_LIMIT, sweeper.step(&mut conn)).await;
        let swept = step.map_err(|_| database::silent())??;
        responses += swept.responses;
        keys += swept.keys;
        progress(swept, sweeper.oldest());
        if swept.done {
            conn.close().await?;
            return Ok((responses, keys));
        }
        sleep(pause).await;
    }
}
