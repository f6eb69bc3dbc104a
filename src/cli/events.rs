//! `payonce events`: the feed of events, for operators.

use std::time::Duration;

use clap::{Subcommand, value_parser};
use indicatif::ProgressBar;
use log::warn;
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use super::{accounts::choose_account, connect, error::CommandError, print};
use crate::{
    config::Settings,
    db,
    events::{
        Event, EventType, Position, backfill,
        feed::{self, FeedId},
        page::{self, Gone, Page},
    },
    ids::AccountId,
};

/// The pause between two looks for new events, and between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(250);

/// Events that are read at once.
const PAGE: usize = 200;

/// Events that `tail` shows before new ones.
const SHOWN_FIRST: i64 = 10;

/// Commands for events.
#[derive(Debug, Clone, Subcommand)]
pub(super) enum EventsCommand {
    /// Show events as they happen, until Ctrl-C; also while servers and the database restart
    Tail(Tail),
    /// Announce payments and refunds that have no event, with later positions: those from before events, or from a time
    /// with EVENTS=off
    ///
    /// Run it when every server announces. It can run beside servers, and again after it was interrupted.
    Backfill {
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Give the feed a new id, so that consumers learn that positions have begun anew; run it after restoring a dump
    Renew,
}

/// Arguments of `tail`.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Tail {
    /// Account by name or id; required where there are several
    #[arg(long)]
    account: Option<String>,
    /// Begin after this position; 0 shows all [default: the last ten events]
    #[arg(long, value_parser = value_parser!(i64).range(0..))]
    after: Option<i64>,
    /// Only events of this type; repeat it for several
    #[arg(long = "type", value_parser = event_type)]
    types: Vec<EventType>,
    /// End after the newest event instead of waiting for more
    #[arg(long)]
    no_follow: bool,
    /// Print the JSON of one event a line
    #[arg(long)]
    json: bool,
}

fn event_type(name: &str) -> Result<EventType, String> {
    let expected = || EventType::ALL.map(EventType::name).join(", ");
    EventType::parse(name).ok_or_else(|| format!("expected {}", expected()))
}

/// Runs a command for events.
pub(super) async fn events(
    command: &EventsCommand,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    match command {
        EventsCommand::Tail(tail) => {
            let mut interrupt = signal(SignalKind::interrupt())?;
            tokio::select! {
                ended = follow(tail, settings, options) => ended,
                _ = interrupt.recv() => Ok(()),
            }
        }
        EventsCommand::Backfill { json } => announce_missing(options, *json).await,
        EventsCommand::Renew => {
            backfill::renew(&mut connect(options).await?).await?;
            Ok(print::text("The feed has a new id")?)
        }
    }
}

/// The number of announced events.
#[derive(Serialize)]
struct Announced {
    events: u64,
}

/// Announces what has no event. A terminal shows the progress.
async fn announce_missing(options: &PgConnectOptions, json: bool) -> Result<(), CommandError> {
    let mut writer = connect(options).await?;
    let mut reader = db::connect(options).await?;
    if !backfill::try_lock(&mut writer).await? {
        return Err(CommandError::SecondBackfill);
    }
    let bar = ProgressBar::new_spinner();
    let progress = |events: u64| {
        bar.set_message(format!("{events} events announced"));
        bar.tick();
    };
    let announced = backfill::backfill(&mut reader, &mut writer, progress).await;
    bar.finish_and_clear();
    let events = announced?;
    if json {
        Ok(print::json(&Announced { events })?)
    } else {
        Ok(print::text(&format!("{events} events announced"))?)
    }
}

/// A connection that follows the feed of one account.
struct Reader<'a> {
    tail: &'a Tail,
    account_id: AccountId,
    conn: PgConnection,
    /// The time-out of a read.
    limit: Duration,
}

impl<'a> Reader<'a> {
    async fn connect(
        tail: &'a Tail,
        settings: &Settings,
        options: &PgConnectOptions,
    ) -> Result<Self, CommandError> {
        let limit = settings.request_deadline / 2;
        let mut conn = connect(options).await?;
        db::prepare_to_read(&mut conn, limit).await?;
        let account_id = choose_account(&mut conn, tail.account.as_deref()).await?.account_id;
        Ok(Self { tail, account_id, conn, limit })
    }

    /// A page after this position, and the feed that has it. PostgreSQL may also fall silent.
    async fn read(
        &mut self,
        after: Position,
        limit: usize,
    ) -> Result<(Result<Page, Gone>, FeedId), CommandError> {
        let reading = async {
            let feed = feed::read(&mut self.conn).await?.id;
            let types = &self.tail.types;
            let page = page::read(&mut self.conn, self.account_id, after, limit, types).await?;
            Ok((page, feed))
        };
        let read = timeout(2 * self.limit, reading).await;
        read.unwrap_or_else(|_elapsed| Err(db::silent().into()))
    }

    /// The position from which to begin.
    async fn start(&mut self) -> Result<Position, CommandError> {
        if let Some(after) = self.tail.after.and_then(Position::new) {
            return Ok(after);
        }
        let (page, _) = self.read(Position::START, 1).await?;
        let last = page.map_or_else(Gone::last_position, |page| page.last_position);
        Ok(Position::new(last.number() - SHOWN_FIRST).unwrap_or(Position::START))
    }
}

/// Prints events until there is none left, or until nobody reads them any more.
async fn follow(
    tail: &Tail,
    settings: &Settings,
    options: &PgConnectOptions,
) -> Result<(), CommandError> {
    let mut reader = Reader::connect(tail, settings, options).await?;
    let mut after = reader.start().await?;
    let mut known = None;
    if !tail.json && !print::line(&row(["POSITION", "TIME", "TYPE", "AMOUNT", "", "PAYMENT"]))? {
        return Ok(());
    }
    loop {
        let (page, feed) = match reader.read(after, PAGE).await {
            Err(error) if error.is_temporary() => {
                reader = reconnect(tail, settings, options, &error).await?;
                continue;
            }
            read => read?,
        };
        if known.replace(feed).is_some_and(|known| known != feed) {
            warn!(
                "the database was restored or replaced: events after {after} may be others than before"
            );
        }
        match page {
            Ok(Page { events, next_after, last_position }) => {
                for event in &events {
                    if !show(event, tail.json)? {
                        return Ok(());
                    }
                }
                after = next_after;
                if after < last_position {
                    continue;
                }
                if tail.no_follow {
                    return Ok(());
                }
                sleep(PAUSE).await;
            }
            Err(Gone::Expired { oldest_position, .. }) => {
                let (missed, resume) = (after.plus(1), oldest_position.before());
                warn!("the events from {missed} to {resume} were deleted after EVENT_TTL");
                after = resume;
            }
            Err(Gone::Rewound { last_position }) => {
                return Err(CommandError::EventsRewound { after, last_position });
            }
        }
    }
}

/// Connects again, however long that takes.
async fn reconnect<'a>(
    tail: &'a Tail,
    settings: &Settings,
    options: &PgConnectOptions,
    lost: &CommandError,
) -> Result<Reader<'a>, CommandError> {
    warn!("waiting for the database: {lost}");
    loop {
        sleep(PAUSE).await;
        match Reader::connect(tail, settings, options).await {
            Err(error) if error.is_temporary() => {}
            Ok(reader) => {
                warn!("connected to the database again");
                return Ok(reader);
            }
            Err(error) => return Err(error),
        }
    }
}

/// The part of each event's body that the table shows.
#[derive(Deserialize)]
struct Envelope {
    data: Money,
}

#[derive(Deserialize)]
struct Money {
    amount: i64,
    currency: String,
}

/// Prints an event. False if nobody reads.
fn show(event: &Event, json: bool) -> Result<bool, CommandError> {
    if json {
        return Ok(print::line(event.envelope())?);
    }
    let Envelope { data } = serde_json::from_str(event.envelope()).map_err(std::io::Error::from)?;
    Ok(print::line(&row([
        &event.occurrence.position.to_string(),
        &print::seconds(event.occurrence.at),
        event.occurrence.event_type.name(),
        &print::units(data.amount, &data.currency),
        &data.currency,
        &event.payment_id.to_string(),
    ]))?)
}

/// A row of columns that have their widths before the cells are known.
fn row([position, time, event_type, amount, currency, payment]: [&str; 6]) -> String {
    format!("{position:>10}  {time:20}  {event_type:15}  {amount:>14} {currency:3}  {payment}")
}
