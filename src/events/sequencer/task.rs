//! The loop around the sequencer's step.

use std::{sync::Arc, time::Duration};

use log::{debug, info, warn};
use sqlx::{PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::Notify,
    time::{Instant, sleep, sleep_until, timeout},
};

use super::{Pass, Seen, Sequenced, connect, sequence_once, waiting};
use crate::{
    db,
    events::{Wakes, set_announcing},
    idempotency::{Event, Observer, loggable},
    metrics::Sequencing,
};

/// Time from the first commit after an idle pause to its pass: commits that follow at once share the pass.
const GATHERING: Duration = Duration::from_millis(10);

/// The shortest interval of passes under load. A pass over one announcement costs a large part of one over seventy.
const INTERVAL: Duration = Duration::from_millis(100);

/// The longest interval. Others commit, too: the command line, and servers that then end.
const POLL: Duration = Duration::from_secs(1);

/// The interval at which a pass looks at all announcements, whatever is remembered. It also counts those that wait.
const FULL_LOOK: Duration = Duration::from_secs(10);

/// A full look may read deleted announcements. The next one waits for this many times as long.
const GIVING_WAY: u32 = 50;

/// The first pause after a failure, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));

/// Wakes the sequencer when something was committed.
#[derive(Clone, Default)]
pub struct Committed(Arc<Notify>);

impl Committed {
    /// An observer that also passes events on to another.
    #[must_use]
    pub fn observer(&self, next: Arc<dyn Observer>) -> Arc<dyn Observer> {
        Arc::new(Signal { committed: Arc::clone(&self.0), next })
    }
}

struct Signal {
    committed: Arc<Notify>,
    next: Arc<dyn Observer>,
}

impl Observer for Signal {
    fn observe(&self, event: Event<'_>) {
        if let Event::Committed(_) = event {
            // The sequencer is woken only if it waits: once for all commits until its next pass.
            self.committed.notify_one();
        }
        self.next.observe(event);
    }
}

/// The parts of a server's sequencer.
pub struct Sequencer {
    /// The database of the announcements.
    pub options: PgConnectOptions,
    /// Says when to look.
    pub committed: Committed,
    /// Those who wait for events.
    pub wakes: Wakes,
    /// The counters.
    pub counters: Sequencing,
}

/// A connection, and what is remembered of it.
struct Session {
    conn: PgConnection,
    seen: Seen,
    next_full_look: Instant,
}

impl Sequencer {
    /// Sequences until the task ends.
    pub async fn run(self) {
        let mut session = None;
        let mut failures = 0;
        self.counters.started();
        loop {
            let began = Instant::now();
            match self.pass(&mut session).await {
                Ok(sequenced) => {
                    if failures > 0 {
                        info!("sequencer: events get their positions again");
                    }
                    failures = 0;
                    self.wait(began, &sequenced).await;
                }
                Err(error) => {
                    session = None;
                    self.counters.failed();
                    let error = loggable(&error);
                    match failures {
                        0 => warn!("sequencer: events wait for their positions: {error}"),
                        _ => debug!("sequencer: events still wait for their positions: {error}"),
                    }
                    let (first, longest) = PAUSES;
                    sleep(first.saturating_mul(1 << failures.min(10)).min(longest)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Runs one pass, and connects first if there is no connection. After an error it must be dropped.
    async fn pass(&self, session: &mut Option<Session>) -> Result<Sequenced, sqlx::Error> {
        let session = match session {
            Some(session) => session,
            None => session.insert(Session::open(&self.options).await?),
        };
        let began = Instant::now();
        let sequenced = within(session.pass(&self.counters)).await?;
        if let Sequenced::Here(pass) = &sequenced {
            self.counters.passed(began, pass);
            self.wakes.sequenced(&pass.accounts);
        }
        Ok(sequenced)
    }

    /// Waits for the time of the next pass.
    async fn wait(&self, began: Instant, sequenced: &Sequenced) {
        match sequenced {
            Sequenced::Here(pass) if pass.more => {}
            Sequenced::Here(pass) if pass.events == 0 => {
                if timeout(POLL, self.committed.0.notified()).await.is_ok() {
                    sleep(GATHERING).await;
                }
            }
            // The server that is sequencing may have looked before this server's last commit.
            Sequenced::Here(_) | Sequenced::Elsewhere => sleep_until(began + INTERVAL).await,
        }
    }
}

impl Session {
    async fn open(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut conn = connect(options).await?;
        within(set_announcing(&mut conn, true)).await?;
        Ok(Self { conn, seen: Seen::default(), next_full_look: Instant::now() + FULL_LOOK })
    }

    async fn pass(&mut self, counters: &Sequencing) -> Result<Sequenced, sqlx::Error> {
        let began = Instant::now();
        if began < self.next_full_look {
            return sequence_once(&mut self.conn, &mut self.seen).await;
        }
        self.seen = Seen::default();
        let sequenced = sequence_once(&mut self.conn, &mut self.seen).await?;
        if let Sequenced::Here(Pass { more: true, .. }) = sequenced {
            counters.waiting(waiting(&mut self.conn).await?);
        }
        self.next_full_look = began + FULL_LOOK.max(began.elapsed() * GIVING_WAY);
        Ok(sequenced)
    }
}

async fn within<T>(step: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, sqlx::Error> {
    timeout(db::STATEMENT_LIMIT, step).await.map_err(|_| db::silent())?
}
