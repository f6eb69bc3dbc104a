//! Runs the sweeper: in the background of a server, and once for `payonce sweep`.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use log::{debug, info, warn};
use sqlx::{Connection, Executor, postgres::PgConnectOptions};
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::{
    config::Settings,
    db,
    events::expiry::expire_once,
    idempotency::{Oldest, Sweeper, Swept, loggable},
    metrics::Sweeps,
};

/// The shortest pause between two pages of a sweep in the background.
const PAUSE: Duration = Duration::from_millis(20);

/// Length of a pause, in times of the page before it. The sweeper so takes a fifth of one connection's time, and less
/// work when payments make its pages slow.
const GIVING_WAY: u32 = 4;

/// Lag above which the sweeper stops giving way, because disk space matters too. The alert fires at twice this lag.
const PATIENCE: TimeDelta = TimeDelta::minutes(30);

/// The interval of passes over events, and the least number of them in `EVENT_TTL`. They look at every account.
const EVENTS_INTERVAL: Duration = Duration::from_hours(1);
const EVENT_WALKS_PER_TTL: u32 = 24;

/// The speed of a pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Without pauses.
    Full,
    /// With pauses for payments.
    InBackground,
}

impl Pace {
    /// Returns the pause after a page that took this long.
    fn pause(self, page: Duration, oldest: Oldest, now: DateTime<Utc>) -> Duration {
        let late = |expiry: DateTime<Utc>| now - expiry > PATIENCE;
        match self {
            Self::Full => Duration::ZERO,
            Self::InBackground if oldest.responses.is_some_and(late) => PAUSE,
            Self::InBackground => page.saturating_mul(GIVING_WAY).max(PAUSE),
        }
    }
}

/// Deletes expired rows until the task ends, with a pause after each pass.
pub async fn forever(
    settings: Settings,
    options: PgConnectOptions,
    interval: Duration,
    sweeps: Sweeps,
) {
    let mut sweeper =
        Sweeper::new(settings.idempotency_response_ttl.0, settings.idempotency_key_ttl.0);
    sweeps.saw(sweeper.oldest());
    let mut events_next = Instant::now();
    loop {
        sleep(interval).await;
        if let Some(ttl) = settings.event_ttl.0
            && events_next <= Instant::now()
        {
            events_next = Instant::now() + EVENTS_INTERVAL.min(ttl / EVENT_WALKS_PER_TTL);
            match expire_events(&options, ttl, Pace::InBackground).await {
                Ok(0) => debug!("sweep: no events have expired"),
                Ok(events) => info!("sweep: {events} expired events deleted"),
                Err(error) => warn!("sweep: events: {}", loggable(&error)),
            }
        }
        let progress = |swept, oldest| {
            sweeps.deleted(swept);
            sweeps.saw(oldest);
        };
        let done = pass(&mut sweeper, &options, Pace::InBackground, progress).await;
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

/// Deletes the events of all accounts that are older than `ttl`, and returns their number.
///
/// # Errors
/// When the database fails. Earlier pages stay deleted.
pub async fn expire_events(
    options: &PgConnectOptions,
    ttl: Duration,
    pace: Pace,
) -> Result<i64, sqlx::Error> {
    let mut conn = db::connect(options).await?;
    conn.execute(Sweeper::SESSION).await?;
    let (mut events, mut next) = (0, Some(Uuid::nil()));
    while let Some(from) = next {
        let began = Instant::now();
        let step = timeout(db::STATEMENT_LIMIT, expire_once(&mut conn, ttl, from)).await;
        let expired = step.map_err(|_| db::silent())??;
        events += expired.events;
        next = expired.next;
        if pace == Pace::InBackground {
            sleep(began.elapsed().saturating_mul(GIVING_WAY)).await;
        }
    }
    conn.close().await?;
    Ok(events)
}

/// Runs one pass and returns the number of deleted responses and keys. `progress` is called after each page with its
/// rows and the oldest ones left.
///
/// # Errors
/// When the database fails. Earlier pages stay deleted.
pub async fn pass(
    sweeper: &mut Sweeper,
    options: &PgConnectOptions,
    pace: Pace,
    mut progress: impl FnMut(Swept, Oldest),
) -> Result<(u64, u64), sqlx::Error> {
    let mut conn = db::connect(options).await?;
    conn.execute(Sweeper::SESSION).await?;
    let (mut responses, mut keys) = (0, 0);
    loop {
        let began = Instant::now();
        let step = timeout(db::STATEMENT_LIMIT, sweeper.step(&mut conn)).await;
        let swept = step.map_err(|_| db::silent())??;
        responses += swept.responses;
        keys += swept.keys;
        progress(swept, sweeper.oldest());
        if swept.done {
            conn.close().await?;
            return Ok((responses, keys));
        }
        sleep(pace.pause(began.elapsed(), sweeper.oldest(), Utc::now())).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sweeper_gives_way_to_payments_until_it_is_half_an_hour_behind() {
        let now = Utc::now();
        let behind =
            |minutes| Oldest { responses: Some(now - TimeDelta::minutes(minutes)), keys: None };
        let pause = |millis, oldest| {
            Pace::InBackground.pause(Duration::from_millis(millis), oldest, now).as_millis()
        };
        assert_eq!(pause(1, behind(0)), 20);
        assert_eq!(pause(50, behind(0)), 200);
        assert_eq!(pause(50, behind(30)), 200);
        assert_eq!(pause(50, behind(31)), 20);
        assert_eq!(pause(50, Oldest { responses: None, keys: None }), 200);
        assert_eq!(Pace::Full.pause(Duration::from_secs(1), behind(0), now), Duration::ZERO);
    }
}
