//! Frees the space of what has expired. Nothing depends on when, or whether, that happens: the
//! database's clock decides at every request what may be replayed and which key is free.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use sqlx::PgConnection;
use uuid::Uuid;

mod store;

/// Rows a statement goes through: a few milliseconds' work, and as few row locks.
const PAGE: i64 = 1000;

/// How often a pass goes through everything again, for what expires later than its neighbours:
/// stored while the TTL was another.
const FULL_PASS_EVERY: Duration = Duration::from_hours(24);

/// An id is older than its response by the time a command waited, and its clock may be another than
/// the database's: a pass stays this far behind, or it would go by what expires a moment later.
const MARGIN: Duration = Duration::from_mins(1);

/// A walk through all keys, which have no order in time, is begun this many times in their TTL.
const KEY_WALKS_PER_TTL: u32 = 24;

/// Deletes expired responses and, where keys expire, keys; page by page, each a transaction of its own.
///
/// Its first pass goes through everything. The following ones go on where the last one ended, through
/// what has come of age since: execution ids are in order of time.
#[derive(Debug)]
pub struct Sweeper {
    response_ttl: Option<Duration>,
    key_ttl: Option<Duration>,
    phase: Phase,
    /// Where the next pass through the responses begins.
    resume: Uuid,
    last_full_pass: Option<Instant>,
    last_key_walk: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Responses { after: Uuid, before: Uuid },
    Keys { after: (Uuid, String) },
}

/// What one step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Swept {
    /// Responses deleted because they can't be replayed any more.
    pub responses: u64,
    /// Keys deleted, each with its response if it had one.
    pub keys: u64,
    /// Whether the pass is over.
    pub done: bool,
}

impl Sweeper {
    /// A sweeper for these times to live; `None` is for ever.
    #[must_use]
    pub fn new(response_ttl: Option<Duration>, key_ttl: Option<Duration>) -> Self {
        Self {
            response_ttl,
            key_ttl,
            phase: Phase::Idle,
            resume: Uuid::nil(),
            last_full_pass: None,
            last_key_walk: None,
        }
    }

    /// Goes through one page, at most 1000 rows, in one statement. Begins a pass when none is under way.
    ///
    /// # Errors
    /// When the database fails; the next step goes through the same page.
    pub async fn step(&mut self, conn: &mut PgConnection) -> Result<Swept, sqlx::Error> {
        if matches!(self.phase, Phase::Idle) {
            self.phase = self.begin();
        }
        match &self.phase {
            Phase::Idle => Ok(Swept { responses: 0, keys: 0, done: true }),
            Phase::Responses { after, before } => {
                let before = *before;
                let page = store::sweep_responses(conn, *after, before, PAGE).await?;
                self.phase = if let Some(after) = page.next {
                    Phase::Responses { after, before }
                } else {
                    self.resume = before;
                    self.begin_keys()
                };
                Ok(Swept { responses: page.deleted, keys: 0, done: self.is_idle() })
            }
            Phase::Keys { after } => {
                let ttl = self.key_ttl.unwrap_or(Duration::MAX).as_secs_f64();
                let page = store::sweep_keys(conn, after, ttl, PAGE).await?;
                self.phase = page.next.map_or(Phase::Idle, |after| Phase::Keys { after });
                Ok(Swept { responses: 0, keys: page.deleted, done: self.is_idle() })
            }
        }
    }

    fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    fn begin(&mut self) -> Phase {
        let age = if is_due(&mut self.last_full_pass, FULL_PASS_EVERY) {
            self.resume = Uuid::nil();
            Duration::ZERO
        } else {
            self.response_ttl.unwrap_or(Duration::ZERO).saturating_add(MARGIN)
        };
        Phase::Responses { after: self.resume, before: id_of_age(age) }
    }

    fn begin_keys(&mut self) -> Phase {
        match self.key_ttl {
            Some(ttl) if is_due(&mut self.last_key_walk, ttl / KEY_WALKS_PER_TTL) => {
                Phase::Keys { after: (Uuid::nil(), String::new()) }
            }
            _ => Phase::Idle,
        }
    }
}

/// Whether it is time, which then counts as taken.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|last| last.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

/// The lower bound of the UUIDv7s made this long ago (RFC 9562 §5.7: 48 bits of milliseconds lead).
fn id_of_age(age: Duration) -> Uuid {
    let then =
        SystemTime::now().checked_sub(age).and_then(|then| then.duration_since(UNIX_EPOCH).ok());
    Uuid::from_u128(then.map_or(0, |then| then.as_millis()) << 80)
}
