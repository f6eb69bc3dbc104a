//! What a server knows of API keys: all valid ones, in memory, so that no request waits for the
//! database to tell whose it is.
//!
//! One task on one connection of its own looks every second whether keys have changed, which is one row
//! to read, and reads them again if they have, or every 15 seconds. Nobody else asks: whoever shows a key that isn't known
//! waits until the task has looked once more, and all who wait at that time wait for the same look. So
//! a flood of made-up keys takes no connection from anybody, and puts no known key out of memory.
//!
//! Memory is bounded by how many valid keys there may be (`MAX_KEYS`), which only an operator makes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use log::{debug, info, warn};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use uuid::Uuid;

use super::{
    api_key::KeyHash,
    store::{self, ValidKey},
};
use crate::{db, idempotency::loggable, ids::AccountId};

/// Within this time a revoked key is refused, at every server; and so long known keys are accepted
/// while the database can't be asked.
pub const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// How many valid keys there may be in all: more than anybody has, in some ten megabytes.
pub(crate) const MAX_KEYS: i64 = 100_000;

/// How often the task looks. Together with a look that fails and a new connection it fits into
/// [`REVOKED_WITHIN`].
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two looks, however many unknown keys are shown.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// How long a look may take before the connection counts as lost.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The pause after a look that failed.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// How often all keys are read again, whatever the count of changes says. Replication, and sessions with triggers off,
/// change keys without counting.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// A number of changes that no table says: what is known of no server.
const UNKNOWN: i64 = -1;

/// How often it is written down which keys were used.
const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// A valid key.
#[derive(Debug)]
struct KnownKey {
    api_key_id: Uuid,
    account_id: AccountId,
    /// Since that was written down last.
    used: AtomicBool,
}

/// What is known at a time.
#[derive(Debug, Clone)]
pub struct View {
    /// When the look began that found it so.
    seen_at: Instant,
    /// When the keys were read from their table last.
    read_at: Instant,
    keys: Arc<HashMap<KeyHash, Arc<KnownKey>>>,
    /// How often keys had changed.
    changes: i64,
}

impl View {
    /// The account of a valid key. Notes that the key is in use.
    #[must_use]
    pub fn account_of(&self, hash: KeyHash) -> Option<AccountId> {
        let key = self.keys.get(&hash)?;
        // Read first: written by every request, it would go from processor to processor.
        if !key.used.load(Ordering::Relaxed) {
            key.used.store(true, Ordering::Relaxed);
        }
        Some(key.account_id)
    }

    /// Whether there has ever been an API key, valid or revoked or deleted.
    #[must_use]
    pub fn had_keys(&self) -> bool {
        self.changes > 0
    }

    /// Whether what it says may still be gone by.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.seen_at.elapsed() < REVOKED_WITHIN
    }

    /// Whether it shows everything that was committed before this moment.
    #[must_use]
    pub fn shows(&self, moment: Instant) -> bool {
        self.seen_at >= moment
    }
}

/// What a server knows of API keys.
#[derive(Debug)]
pub struct Directory {
    views: watch::Receiver<View>,
    wish: Arc<Notify>,
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Directory {
    /// Reads all valid keys and starts the task that keeps up with them.
    ///
    /// # Errors
    /// When the database can't be read.
    pub async fn start(options: &PgConnectOptions) -> Result<Self, sqlx::Error> {
        let mut conn = db::connect(options).await?;
        let now = Instant::now();
        let nothing = View { seen_at: now, read_at: now, keys: Arc::default(), changes: UNKNOWN };
        let view = within(look(&mut conn, nothing)).await?;
        let (publish, views) = watch::channel(view);
        let (wish, stop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let reader = Reader { options: options.clone(), conn: Some(conn), publish };
        let task = tokio::spawn(reader.run(Arc::clone(&wish), Arc::clone(&stop)));
        Ok(Self { views, wish, stop, task: Mutex::new(Some(task)) })
    }

    /// What is known now.
    #[must_use]
    pub fn view(&self) -> watch::Ref<'_, View> {
        self.views.borrow()
    }

    /// Has the task look soon, and gives what it will see.
    #[must_use]
    pub fn look_again(&self) -> watch::Receiver<View> {
        self.wish.notify_one();
        self.views.clone()
    }

    /// Writes down which keys were used, and ends the task.
    pub async fn close(&self) {
        self.stop.notify_one();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

/// The task.
struct Reader {
    options: PgConnectOptions,
    /// `None` after a failure.
    conn: Option<PgConnection>,
    publish: watch::Sender<View>,
}

impl Reader {
    async fn run(mut self, wish: Arc<Notify>, stop: Arc<Notify>) {
        let mut noted = Instant::now();
        let mut failing = false;
        loop {
            let pause = if failing { RETRY_PAUSE } else { LOOK_PAUSE };
            tokio::select! {
                () = sleep(LOOK_INTERVAL) => {}
                () = async { sleep(pause).await; wish.notified().await } => {}
                () = stop.notified() => break,
            }
            match self.look_once().await {
                Ok(()) if failing => info!("API keys can be read again"),
                Ok(()) => {}
                Err(error) if failing => debug!("API keys can't be read: {}", loggable(&error)),
                Err(error) => warn!("API keys can't be read: {}", loggable(&error)),
            }
            failing = self.conn.is_none();
            if noted.elapsed() >= NOTE_INTERVAL {
                noted = Instant::now();
                self.note_use().await;
            }
        }
        self.note_use().await;
        if let Some(conn) = self.conn {
            let _ = conn.close().await;
        }
    }

    /// Publishes what is there now. The connection is gone after an error.
    async fn look_once(&mut self) -> Result<(), sqlx::Error> {
        let mut known = self.publish.borrow().clone();
        let mut conn = if let Some(conn) = self.conn.take() {
            conn
        } else {
            // It may be to another server than the last one.
            known.changes = UNKNOWN;
            db::connect(&self.options).await?
        };
        let view = within(look(&mut conn, known)).await?;
        self.conn = Some(conn);
        self.publish.send_replace(view);
        Ok(())
    }

    /// Writes down which keys were used since the last time. Only people read that: what can't be
    /// written is dropped.
    async fn note_use(&mut self) {
        let view = self.publish.borrow().clone();
        let used = view.keys.values().filter(|key| key.used.swap(false, Ordering::Relaxed));
        let used: Vec<Uuid> = used.map(|key| key.api_key_id).collect();
        if used.is_empty() {
            return;
        }
        let Some(mut conn) = self.conn.take() else { return };
        match within(store::note_use(&mut conn, &used)).await {
            Ok(()) => self.conn = Some(conn),
            Err(error) => debug!("the use of API keys can't be noted: {}", loggable(&error)),
        }
    }
}

/// What is there. The keys are read only if they have changed since they were `known`, or that was a while ago.
async fn look(conn: &mut PgConnection, known: View) -> Result<View, sqlx::Error> {
    let seen_at = Instant::now();
    // Before the keys: those that change in between are read again next time.
    let changes = store::changes(conn).await?;
    if known.changes == changes && known.read_at.elapsed() < READ_INTERVAL {
        return Ok(View { seen_at, ..known });
    }
    let mut keys = HashMap::new();
    for ValidKey { api_key_id, account_id, hash } in store::valid_keys(conn).await? {
        let Some(hash) = KeyHash::of_stored(&hash) else { continue };
        let known = known.keys.get(&hash).filter(|known| known.account_id == account_id);
        let new = || Arc::new(KnownKey { api_key_id, account_id, used: AtomicBool::new(false) });
        keys.insert(hash, known.map_or_else(new, Arc::clone));
    }
    debug!("{} valid API keys", keys.len());
    Ok(View { seen_at, read_at: seen_at, keys: Arc::new(keys), changes })
}

async fn within<T>(
    looking: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    timeout(LOOK_LIMIT, looking).await.map_err(|_| db::silent())?
}
