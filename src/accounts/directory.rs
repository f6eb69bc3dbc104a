//! The valid API keys in memory, so that no request waits for the database to authenticate.
//!
//! One task with its own connection checks every second whether keys have changed, by reading one row. It reads the keys
//! again after a change, and every 15 seconds. A request with an unknown key waits for the task's next look, together
//! with all other such requests. So a flood of made-up keys takes no connection from others, and evicts no known key.
//!
//! `MAX_KEYS` bounds the memory, and only operators create keys.

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

/// Time until every server refuses a revoked key, and for which known keys are accepted while the database is unavailable.
pub const REVOKED_WITHIN: Duration = Duration::from_secs(5);

/// Limit of valid keys: more than anybody needs, in about ten megabytes.
pub(crate) const MAX_KEYS: i64 = 100_000;

/// Interval of the task's looks. With a failed look and a new connection it fits into [`REVOKED_WITHIN`].
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Shortest time between two looks, however many unknown keys arrive.
const LOOK_PAUSE: Duration = Duration::from_millis(50);

/// Time-out of a look, after which the connection counts as lost.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// Pause after a failed look.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Interval at which all keys are read again, whatever the count of changes says. Replication, and sessions with
/// triggers off, change keys without counting.
const READ_INTERVAL: Duration = Duration::from_secs(15);

/// A number of changes that no table has, for a server that was not asked yet.
const UNKNOWN: i64 = -1;

/// Interval of storing the last use of keys.
const NOTE_INTERVAL: Duration = Duration::from_mins(1);

/// A valid key.
#[derive(Debug)]
struct KnownKey {
    api_key_id: Uuid,
    account_id: AccountId,
    /// Used since the last use was stored.
    used: AtomicBool,
}

/// The keys at one time.
#[derive(Debug, Clone)]
pub struct View {
    /// Start of the look that confirmed it.
    seen_at: Instant,
    /// Start of the look that read the keys.
    read_at: Instant,
    keys: Arc<HashMap<KeyHash, Arc<KnownKey>>>,
    /// Number of changes of keys until then.
    changes: i64,
}

impl View {
    /// Returns the account of a valid key, and marks the key as used.
    #[must_use]
    pub fn account_of(&self, hash: KeyHash) -> Option<AccountId> {
        let key = self.keys.get(&hash)?;
        // Read first: if every request wrote it, its cache line would move between cores.
        if !key.used.load(Ordering::Relaxed) {
            key.used.store(true, Ordering::Relaxed);
        }
        Some(key.account_id)
    }

    /// Returns whether there has ever been an API key, even a revoked or deleted one.
    #[must_use]
    pub fn had_keys(&self) -> bool {
        self.changes > 0
    }

    /// Returns whether the view is recent enough to accept keys.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.seen_at.elapsed() < REVOKED_WITHIN
    }

    /// Returns whether the view shows everything committed before a moment.
    #[must_use]
    pub fn shows(&self, moment: Instant) -> bool {
        self.seen_at >= moment
    }
}

/// A server's view of API keys, and the task that updates it.
#[derive(Debug)]
pub struct Directory {
    views: watch::Receiver<View>,
    wish: Arc<Notify>,
    stop: Arc<Notify>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Directory {
    /// Reads all valid keys, and starts the task that follows their changes.
    ///
    /// # Errors
    /// When the database fails.
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

    /// Returns the current view.
    #[must_use]
    pub fn view(&self) -> watch::Ref<'_, View> {
        self.views.borrow()
    }

    /// Asks the task for a look, and returns the views to come.
    #[must_use]
    pub fn look_again(&self) -> watch::Receiver<View> {
        self.wish.notify_one();
        self.views.clone()
    }

    /// Stores the last use of keys, and ends the task.
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
                Ok(()) if failing => info!("reading API keys works again"),
                Ok(()) => {}
                Err(error) if failing => debug!("could not read API keys: {}", loggable(&error)),
                Err(error) => warn!("could not read API keys: {}", loggable(&error)),
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

    /// Publishes a new view. After an error the connection is dropped.
    async fn look_once(&mut self) -> Result<(), sqlx::Error> {
        let mut known = self.publish.borrow().clone();
        let mut conn = if let Some(conn) = self.conn.take() {
            conn
        } else {
            // The new connection may lead to another server.
            known.changes = UNKNOWN;
            db::connect(&self.options).await?
        };
        let view = within(look(&mut conn, known)).await?;
        self.conn = Some(conn);
        self.publish.send_replace(view);
        Ok(())
    }

    /// Stores the last use of keys. Only people read it, so a failure drops it.
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
            Err(error) => debug!("could not store the last use of API keys: {}", loggable(&error)),
        }
    }
}

/// Looks at the database. It reads the keys only if they have changed since `known`, or if that was long ago.
async fn look(conn: &mut PgConnection, known: View) -> Result<View, sqlx::Error> {
    let seen_at = Instant::now();
    // Before the keys: changes in between are read by the next look.
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
