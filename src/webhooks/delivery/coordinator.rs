//! The one task of a server that writes: it holds the leases, and stores what all workers have done in shared commits.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use chrono::Utc;
use log::{debug, error, warn};
use sqlx::{Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    agenda::{Agenda, OPEN_FAILURES},
    breaker::Breaker,
    cursor::Cursor,
    lease::{self, Holder, LeaseClock, LeaseId, Leased},
    store,
    worker::{Shared, Told, Worker},
    write::Write,
};
use crate::{
    db,
    idempotency::loggable,
    ids::{AccountId, EndpointId},
    webhooks::{
        Caller, Guard,
        endpoint::{Endpoint, Range},
        secrets::{KeyId, Keyring, OpenError},
    },
};

/// Endpoints that a server delivers to at once. Others wait until one has nothing to deliver.
const ENDPOINTS: usize = 1000;

/// Leases that are taken at once.
const LEASES: usize = 50;

/// The shortest time between two commits. What ends meanwhile shares the next one.
const BETWEEN_COMMITS: Duration = Duration::from_millis(5);

/// Pause between two looks for work that other servers or earlier failures left.
const BETWEEN_LOOKS: Duration = Duration::from_millis(200);

/// The same pause of a server that delivers to no endpoint.
const BETWEEN_IDLE_LOOKS: Duration = Duration::from_millis(500);

/// Looks take this part of the time at most.
const SHARE_OF_LOOKS: u32 = 10;

/// Pause after the database failed.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// Time for statements.
const LIMIT: Duration = Duration::from_secs(10);

/// Time for calls that are under way when the server stops.
const FINISHING: Duration = Duration::from_secs(4);

/// Writes that wait for the next commit.
pub(super) const WRITES: usize = 2 * ENDPOINTS;

/// An endpoint that this server failed to deliver to by its own fault is left to other servers for this long.
const AVOIDING: Duration = Duration::from_mins(1);

/// Pause between two deletions of expired failures.
const BETWEEN_SWEEPS: Duration = Duration::from_mins(10);

/// Messages that wait for a worker.
const MAILBOX: usize = 4;

/// Settings of the session: a server that freezes in a transaction must not hold rows.
const SESSION: &str =
    "SET statement_timeout = '8s'; SET idle_in_transaction_session_timeout = '5s'; SET jit = off";

/// The reason why a leased endpoint has no worker.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Secret(#[from] OpenError),
    #[error(transparent)]
    Tls(#[from] rustls::Error),
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
}

/// An endpoint that this server delivers to.
#[derive(Debug)]
struct Place {
    lease: LeaseId,
    clock: LeaseClock,
    /// Dropped when the lease is lost: the worker then begins nothing any more.
    told: mpsc::Sender<Told>,
}

pub(super) struct Coordinator {
    options: PgConnectOptions,
    conn: Option<PgConnection>,
    holder: Holder,
    keyring: Keyring,
    keys: Vec<KeyId>,
    guard: Guard,
    /// Made for the first endpoint: it reads the certificates of the operating system.
    caller: Option<Caller>,
    shared: Shared,
    places: BTreeMap<EndpointId, Place>,
    workers: JoinSet<LeaseId>,
    pending: Vec<Write>,
    /// Leases without a worker.
    released: Vec<LeaseId>,
    /// Endpoints whose secret cannot be decrypted, whose deliveries cannot be stored, or whose worker panicked.
    avoided: BTreeMap<EndpointId, Instant>,
    renewed: Option<Instant>,
    swept: Option<Instant>,
    commit_at: Instant,
    look_at: Instant,
    stopping: bool,
}

impl Coordinator {
    pub(super) fn new(
        options: &PgConnectOptions,
        keyring: Keyring,
        guard: Guard,
        shared: Shared,
    ) -> Self {
        let now = Instant::now();
        Self {
            options: db::named(options.clone(), "payonce webhooks"),
            conn: None,
            holder: Holder::new(),
            keys: keyring.key_ids(),
            keyring,
            guard,
            caller: None,
            shared,
            places: BTreeMap::new(),
            workers: JoinSet::new(),
            pending: Vec::new(),
            released: Vec::new(),
            avoided: BTreeMap::new(),
            renewed: None,
            swept: None,
            commit_at: now,
            look_at: now,
            stopping: false,
        }
    }

    /// Works until it is told to stop, and then until the calls under way are stored, for some seconds at most.
    pub(super) async fn run(
        mut self,
        mut writes: mpsc::Receiver<Write>,
        mut stop: oneshot::Receiver<()>,
    ) {
        let mut end = None;
        while end.is_none_or(|end| Instant::now() < end && !self.is_done()) {
            let wakes = end.unwrap_or(self.look_at).min(self.look_at);
            tokio::select! {
                _ = &mut stop, if end.is_none() => {
                    end = Some(Instant::now() + FINISHING);
                    self.stop();
                }
                Some(write) = writes.recv() => self.pending.push(write),
                Some(ended) = self.workers.join_next() => match ended {
                    Ok(lease) => self.ended(lease),
                    Err(panic) => error!("webhooks: a worker ended: {panic}"),
                },
                () = sleep_until(self.commit_at.into()), if !self.pending.is_empty() => self.commit().await,
                () = sleep_until(wakes.into()) => self.look().await,
            }
        }
        self.workers.abort_all();
        self.released.extend(self.places.values().map(|place| place.lease));
        let leases = std::mem::take(&mut self.released);
        if let Err(error) = self.with_conn(async |conn| lease::release(conn, &leases).await).await {
            warn!("webhooks: can't release leases: {}", loggable(&error));
        }
        if let Some(conn) = self.conn {
            let _ = timeout(AFTER_FAILURE, conn.close()).await;
        }
    }

    fn is_done(&self) -> bool {
        self.workers.is_empty() && self.pending.is_empty()
    }

    fn stop(&mut self) {
        self.stopping = true;
        for place in self.places.values() {
            let _ = place.told.try_send(Told::Stop);
        }
    }

    fn ended(&mut self, lease: LeaseId) {
        self.released.push(lease);
        if self.places.get(&lease.endpoint_id).is_some_and(|place| place.lease == lease) {
            self.places.remove(&lease.endpoint_id);
        }
        self.shared.metrics.leased(self.places.len());
    }

    fn avoid(&mut self, endpoint_id: EndpointId) {
        self.avoided.insert(endpoint_id, Instant::now() + AVOIDING);
    }

    /// Gives up the leases of workers that panicked.
    fn give_up_ended(&mut self) {
        let ended = self.places.values().filter(|place| place.told.is_closed());
        for lease in ended.map(|place| place.lease).collect::<Vec<_>>() {
            self.avoid(lease.endpoint_id);
            self.ended(lease);
        }
    }

    /// Stores everything that waits in one transaction, and again until PostgreSQL has said what became of it.
    async fn commit(&mut self) {
        let writes = std::mem::take(&mut self.pending);
        self.commit_at = Instant::now() + BETWEEN_COMMITS;
        match self.with_conn(async |conn| store::store(conn, &writes).await).await {
            Ok(held) => {
                for write in writes {
                    let holds = held.contains(&write.lease);
                    let _ = write.stored.send(holds);
                }
            }
            // A defect, or a constraint that somebody added. Taken again at once, the endpoint would get the same
            // events again and again.
            Err(error) if is_of_data(&error) => {
                error!("webhooks: can't store deliveries: {}", loggable(&error));
                self.commit_at = Instant::now() + AFTER_FAILURE;
                for write in writes {
                    let one = [write];
                    let stored = self.with_conn(async |conn| store::store(conn, &one).await).await;
                    let [write] = one;
                    if stored.as_ref().is_err_and(is_of_data) {
                        self.avoid(write.lease.endpoint_id);
                    }
                    let holds = stored.is_ok_and(|held| held.contains(&write.lease));
                    let _ = write.stored.send(holds);
                }
            }
            Err(error) => {
                warn!("webhooks: can't store deliveries: {}", loggable(&error));
                self.commit_at = Instant::now() + AFTER_FAILURE;
                self.pending = writes;
            }
        }
    }

    /// Renews leases, takes further ones, and tells workers of new events.
    async fn look(&mut self) {
        let begun = Instant::now();
        let looked = self.try_look(begun).await;
        let pause = match looked {
            Ok(()) if self.places.is_empty() => BETWEEN_IDLE_LOOKS,
            Ok(()) => BETWEEN_LOOKS.max(begun.elapsed() * SHARE_OF_LOOKS),
            Err(error) => {
                warn!("webhooks: can't look for events to deliver: {}", loggable(&error));
                AFTER_FAILURE
            }
        };
        self.look_at = Instant::now() + pause;
    }

    async fn try_look(&mut self, now: Instant) -> Result<(), sqlx::Error> {
        if self.renewed.is_none_or(|renewed| renewed + lease::RENEWAL <= now) {
            self.renew(now).await?;
        }
        if !self.released.is_empty() {
            let leases = self.released.clone();
            self.with_conn(async |conn| lease::release(conn, &leases).await).await?;
            self.released.clear();
        }
        if !self.stopping {
            self.take().await?;
            self.tell_last_positions().await?;
            if self.swept.is_none_or(|swept| swept + BETWEEN_SWEEPS <= now) {
                self.with_conn(async |conn| store::delete_expired(conn).await).await?;
                self.swept = Some(now);
            }
        }
        Ok(())
    }

    async fn renew(&mut self, sent: Instant) -> Result<(), sqlx::Error> {
        self.give_up_ended();
        let leases: Vec<LeaseId> = self.places.values().map(|place| place.lease).collect();
        let renewed = self.with_conn(async |conn| lease::renew(conn, &leases).await).await?;
        self.renewed = Some(sent);
        let mut lost = leases;
        for leased in renewed {
            let id = leased.id();
            lost.retain(|lease| *lease != id);
            let Some(place) = self.places.get(&id.endpoint_id) else { continue };
            place.clock.renew(sent);
            let secrets = leased.endpoint.secrets(&self.keyring, Utc::now());
            let told = secrets.map(|secrets| Told::Renewed(Box::new(leased), secrets));
            // A worker that cannot sign ends. A full mailbox has an earlier renewal.
            let _ = place.told.try_send(told.unwrap_or(Told::Stop));
        }
        for lease in lost {
            debug!(endpoint:% = lease.endpoint_id; "webhooks: a lease is lost, or the endpoint is disabled or deleted");
            // What is under way may still be stored, if the endpoint is disabled only.
            self.places.remove(&lease.endpoint_id);
        }
        let room = self.room();
        if room > 0 && !self.stopping {
            let (holder, keys) = (self.holder, self.keys.clone());
            self.with_conn(async |conn| lease::ask(conn, holder, &keys, room).await).await?;
        }
        Ok(())
    }

    fn room(&self) -> i64 {
        let room = ENDPOINTS.saturating_sub(self.workers.len()).min(LEASES);
        i64::try_from(room).unwrap_or(0)
    }

    async fn take(&mut self) -> Result<(), sqlx::Error> {
        let room = self.room();
        let sent = Instant::now();
        self.avoided.retain(|_, until| *until > sent);
        let except: Vec<EndpointId> = self.avoided.keys().copied().collect();
        let (holder, keys) = (self.holder, self.keys.clone());
        let taken = self
            .with_conn(async |conn| lease::take(conn, holder, &keys, &except, room).await)
            .await?;
        for leased in taken {
            let id = leased.id();
            if let Err(error) = self.begin(leased, sent).await {
                error!(endpoint:% = id.endpoint_id; "webhooks: can't deliver to an endpoint: {error}");
                self.released.push(id);
            }
        }
        self.shared.metrics.leased(self.places.len());
        Ok(())
    }

    /// Starts the worker of an endpoint whose lease was taken by a statement sent at this time.
    async fn begin(&mut self, leased: Leased, sent: Instant) -> Result<(), Unusable> {
        let id = leased.id();
        let secrets = leased
            .endpoint
            .secrets(&self.keyring, Utc::now())
            .inspect_err(|_| self.avoid(id.endpoint_id))?;
        let caller = match &self.caller {
            Some(caller) => caller.clone(),
            None => self.caller.insert(Caller::new(self.guard.clone())?).clone(),
        };
        let agenda = self.with_conn(async |conn| load(conn, &leased).await).await?;
        let clock = LeaseClock::since(sent);
        let (told, hears) = mpsc::channel(MAILBOX);
        let worker =
            Worker::new(self.shared.clone(), caller, leased, secrets, clock.clone(), agenda);
        self.workers.spawn_local(async move {
            worker.run(hears).await;
            id
        });
        self.places.insert(id.endpoint_id, Place { lease: id, clock, told });
        Ok(())
    }

    async fn tell_last_positions(&mut self) -> Result<(), sqlx::Error> {
        let mut accounts: Vec<AccountId> =
            self.places.values().map(|place| place.lease.account_id).collect();
        if accounts.is_empty() {
            return Ok(());
        }
        accounts.sort_unstable();
        accounts.dedup();
        let last =
            self.with_conn(async |conn| store::last_positions(conn, &accounts).await).await?;
        let last: BTreeMap<AccountId, i64> = last.into_iter().collect();
        for place in self.places.values() {
            if let Some(position) = last.get(&place.lease.account_id) {
                let _ = place.told.try_send(Told::LastPosition(*position));
            }
        }
        Ok(())
    }

    /// Runs statements on the connection. If they fail, it is replaced.
    async fn with_conn<T>(
        &mut self,
        run: impl AsyncFn(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let running = async {
            let mut conn = if let Some(conn) = self.conn.take() {
                conn
            } else {
                let mut conn = db::connect(&self.options).await?;
                conn.execute(SESSION).await?;
                conn
            };
            let result = run(&mut conn).await?;
            self.conn = Some(conn);
            Ok(result)
        };
        timeout(LIMIT, running).await.unwrap_or_else(|_| Err(db::silent()))
    }
}

/// Reads where an endpoint's deliveries are.
async fn load(conn: &mut PgConnection, leased: &Leased) -> Result<Agenda, sqlx::Error> {
    let id = leased.id();
    let Endpoint { after_position, replay, replay_number, .. } = leased.endpoint;
    let first = store::cursor(conn, id, 0).await?.unwrap_or(Cursor::at(after_position.number()));
    let failures = store::failures(conn, id, OPEN_FAILURES).await?;
    let breaker = Breaker::restored(Instant::now(), leased.failing_for, leased.resumes_in);
    let mut agenda = Agenda::new(first, failures, breaker);
    if let Some(Range { from, to }) = replay {
        let begun = store::cursor(conn, id, replay_number).await?;
        let cursor = begun.unwrap_or(Cursor::at(from.before().number()));
        agenda.set_replay(Some((replay_number, cursor, to.number())));
    }
    Ok(agenda)
}

/// Returns whether an error is about the data, so that it would come again.
fn is_of_data(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    matches!(
        error.code().as_deref().and_then(|code| code.get(..2)),
        Some("21" | "22" | "23" | "42")
    )
}
