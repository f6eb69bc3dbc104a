//! Deletes expired rows. Nothing depends on when, or whether, that happens: the database's clock decides which
//! response can be replayed and which key is free.
//!
//! A sweep must not free a key for a transaction that sees an earlier time than the sweep, because `now()` is the
//! time of BEGIN. See [`LONGEST_TRANSACTION`].

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::settings::LONGEST_DEADLINE;

mod sql;

/// Rows that a statement reads: a few milliseconds of work.
const PAGE: i64 = 1000;

/// The interval at which a pass reads everything again. It finds rows that were stored under another TTL and expire later than
/// their neighbours.
const FULL_PASS_EVERY: Duration = Duration::from_hours(24);

/// A pass stays this far behind: an id is older than its response, and its clock may differ from the database's. A
/// pass without the margin would skip rows that expire a moment later.
const MARGIN: Duration = Duration::from_mins(1);

/// Expired keys are deleted this much later. A transaction that claims a deleted key then began after that
/// key had expired: none is open for so long, as time-outs are fractions of a deadline of an hour at most.
const LONGEST_TRANSACTION: Duration = LONGEST_DEADLINE;

/// Keys have no order in time, so all of them are read this many times in their TTL.
const KEY_WALKS_PER_TTL: u32 = 24;

/// Deletes expired responses and, if keys expire, keys: page by page, each page in its own transaction.
///
/// The first pass reads everything. A later pass continues where the last one ended, up to the rows that can have
/// expired since: execution ids are in order of time.
#[derive(Debug)]
pub struct Sweeper {
    response_ttl: Option<Duration>,
    key_ttl: Option<Duration>,
    phase: Phase,
    oldest: Oldest,
    /// The id at which the next pass through the responses begins.
    resume: Uuid,
    last_full_pass: Option<Instant>,
    last_key_walk: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Responses {
        after: Uuid,
        before: Uuid,
        /// The id at which the pass after this one begins.
        resume: Uuid,
    },
    Keys {
        after: (String, Uuid),
        /// When the oldest key was made of those that this walk has left, or will find made meanwhile.
        oldest: DateTime<Utc>,
    },
}

/// When the oldest remaining rows expire or expired. If a sweeper found none, when the first later one would expire;
/// before its first step, when the sweeper was created. `None`: never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oldest {
    /// Of the responses that the next page or pass begins with. Responses that were stored under a longer TTL, and
    /// outlive younger ones, do not count.
    pub responses: Option<DateTime<Utc>>,
    /// Of the keys, as of the last time that all were read. They may be deleted an hour after their TTL.
    pub keys: Option<DateTime<Utc>>,
}

/// The result of one step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// The number of expired responses deleted.
    pub responses: u64,
    /// The number of expired keys deleted, with their responses.
    pub keys: u64,
    /// True if the pass is over.
    pub done: bool,
}

impl Sweeper {
    /// Settings for its connection. Plans are kept: for each new one PostgreSQL looks for the first entry of the
    /// index, past all deleted entries that are not vacuumed yet, which takes several times as long as a page.
    pub const SESSION: &str =
        "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET jit = off";

    /// A sweeper for these times to live; `None`: permanently.
    #[must_use]
    pub fn new(response_ttl: Option<Duration>, key_ttl: Option<Duration>) -> Self {
        Self {
            response_ttl,
            key_ttl,
            phase: Phase::Idle,
            oldest: Oldest { responses: Some(Utc::now()), keys: key_ttl.map(|_| Utc::now()) },
            resume: Uuid::nil(),
            last_full_pass: None,
            last_key_walk: None,
        }
    }

    /// The oldest remaining rows, as of the last step.
    #[must_use]
    pub fn oldest(&self) -> Oldest {
        self.oldest
    }

    /// Sweeps one page of at most 1000 rows in one statement, and looks at the next one. Begins a pass if none is
    /// under way. It is fastest on a connection with [`SESSION`](Self::SESSION).
    ///
    /// # Errors
    /// When the database fails. The next step sweeps the same page.
    pub async fn step(&mut self, conn: &mut PgConnection) -> Result<Swept, sqlx::Error> {
        if matches!(self.phase, Phase::Idle) {
            self.phase = self.begin();
        }
        match &mut self.phase {
            Phase::Idle => Ok(Swept { responses: 0, keys: 0, done: true }),
            Phase::Responses { after, before, resume } => {
                let resume = *resume;
                let page = sql::sweep_responses(conn, *after, *before, PAGE).await?;
                let next = page.next.map_or(resume, |next| next.min(resume));
                let oldest = sql::first_to_expire(conn, next, PAGE).await?;
                self.oldest.responses = oldest.or_else(|| expiry(Utc::now(), self.response_ttl));
                if let Some(next) = page.next {
                    *after = next;
                } else {
                    self.resume = resume;
                    self.phase = self.begin_keys();
                }
                Ok(Swept { responses: page.deleted, keys: 0, done: self.is_idle() })
            }
            Phase::Keys { after, oldest } => {
                let kept = kept_for(self.key_ttl).unwrap_or(Duration::MAX).as_secs_f64();
                let (page, left) = sql::sweep_keys(conn, after, kept, PAGE).await?;
                *oldest = left.map_or(*oldest, |left| left.min(*oldest));
                if let Some(next) = page.next {
                    *after = next;
                } else {
                    self.oldest.keys = expiry(*oldest, kept_for(self.key_ttl));
                    self.phase = Phase::Idle;
                }
                Ok(Swept { responses: 0, keys: page.deleted, done: self.is_idle() })
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    fn begin(&mut self) -> Phase {
        let resume = id_of_age(self.response_ttl.unwrap_or(Duration::ZERO).saturating_add(MARGIN));
        if is_due(&mut self.last_full_pass, FULL_PASS_EVERY) {
            Phase::Responses { after: Uuid::nil(), before: id_of_age(Duration::ZERO), resume }
        } else {
            Phase::Responses { after: self.resume, before: resume, resume }
        }
    }

    fn begin_keys(&mut self) -> Phase {
        match self.key_ttl {
            Some(ttl) if is_due(&mut self.last_key_walk, ttl / KEY_WALKS_PER_TTL) => {
                Phase::Keys { after: (String::new(), Uuid::nil()), oldest: Utc::now() }
            }
            _ => Phase::Idle,
        }
    }
}

/// Returns whether it is time again; then the time starts anew.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The time that a key with this TTL is kept.
fn kept_for(key_ttl: Option<Duration>) -> Option<Duration> {
    key_ttl.map(|ttl| ttl.saturating_add(LONGEST_TRANSACTION))
}

/// When a row that was created then expires; `None`: never.
fn expiry(made: DateTime<Utc>, ttl: Option<Duration>) -> Option<DateTime<Utc>> {
    made.checked_add_signed(TimeDelta::from_std(ttl?).ok()?)
}

/// The lowest UUIDv7 of this age (RFC 9562 §5.7: it begins with 48 bits of milliseconds).
fn id_of_age(age: Duration) -> Uuid {
    let then =
        SystemTime::now().checked_sub(age).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    Uuid::from_u128(then.map_or(0, |then| then.as_millis()) << 80)
}
