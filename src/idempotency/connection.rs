//! A committer's connection to PostgreSQL: opened with everything that keeps one stuck server from
//! holding up the others, never used again after an error that leaves its state in doubt.

use std::time::Duration;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, postgres::PgConnectOptions};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::{
    Settings,
    batch::{self, Retention, Verdict},
    error::{Remedy, loggable},
    queue::Running,
};

/// How long a statement waits for a row that another transaction holds. Other servers' batches are
/// passed by without waiting, so only somebody else's transaction can hold one.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// When PostgreSQL ends the transaction of a server that stopped in the middle of it, and frees its
/// keys.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(1);

/// The first pause before connecting again, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// A server that the layer can't keep its promises on, or can't be reached at all.
#[derive(Debug, Error)]
pub enum UnfitServer {
    /// No connection.
    #[error("can't connect to PostgreSQL: {}", loggable(.0))]
    Unreachable(sqlx::Error),
    /// No connection, and no error either.
    #[error("PostgreSQL didn't answer within {0:?}")]
    Silent(Duration),
    /// Keys and bodies are stored as they came.
    #[error("the database's encoding is {0}; payonce needs UTF8")]
    Encoding(String),
    /// An acknowledged payment could be lost in a crash, and taken again.
    #[error(
        "synchronous_commit is off: a crash of PostgreSQL could lose a payment that was answered, and its key. \
         Turn it on, or say ALLOW_ASYNCHRONOUS_COMMIT=true to accept that"
    )]
    AsynchronousCommit,
    /// PostgreSQL's shared lock table has no room for the locks of full batches.
    #[error(
        "{wanted} keys could be locked at once, and PostgreSQL's lock table has room for {room}: lower \
         MAX_BATCH or COMMITTERS, or raise max_locks_per_transaction"
    )]
    LockTable {
        /// MAX_BATCH × COMMITTERS.
        wanted: usize,
        /// Half of max_locks_per_transaction × max_connections: other servers need theirs.
        room: usize,
    },
}

/// The time-outs of a connection, all below the deadline of a request.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    connect: Duration,
    lock: Duration,
    idle_in_transaction: Duration,
    statement: Duration,
    batch: Duration,
}

impl Timeouts {
    fn within(deadline: Duration) -> Self {
        Self {
            connect: deadline / 5,
            lock: LOCK_TIMEOUT.min(deadline / 10),
            idle_in_transaction: IDLE_IN_TRANSACTION_TIMEOUT.min(deadline / 10),
            statement: deadline / 5,
            batch: deadline * 3 / 10,
        }
    }
}

/// Why a batch has no verdicts.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) remedy: Remedy,
    /// Whether the batch may be committed all the same.
    pub(super) in_doubt: bool,
    pub(super) message: String,
}

/// One connection, opened when it is needed.
pub(super) struct Connector {
    options: PgConnectOptions,
    timeouts: Timeouts,
    retention: Retention,
    max_locks: usize,
    allow_asynchronous_commit: bool,
    connection: Option<PgConnection>,
    /// Whether the batch that runs, or ran last, may have been committed.
    commit_sent: bool,
    /// How often in a row there was no usable server.
    setbacks: u32,
}

impl Connector {
    pub(super) fn new(options: PgConnectOptions, settings: &Settings) -> Self {
        Self {
            options,
            timeouts: Timeouts::within(settings.request_deadline),
            retention: Retention {
                response_ttl: settings.response_ttl.map(|ttl| ttl.as_secs_f64()),
                key_ttl: settings.key_ttl.map(|ttl| ttl.as_secs_f64()),
            },
            max_locks: settings.max_batch.saturating_mul(settings.committers),
            allow_asynchronous_commit: settings.allow_asynchronous_commit,
            connection: None,
            commit_sent: false,
            setbacks: 0,
        }
    }

    /// Runs a batch in one transaction, within the time that a batch may take.
    ///
    /// The connection is kept only if it is known to be at rest: after success, or after an error
    /// that the server reported and that was rolled back. A time-out, a lost connection, a panic or
    /// a cancelled future drop it, and PostgreSQL ends what it had begun.
    pub(super) async fn run(&mut self, batch: &[Running]) -> Result<Vec<Option<Verdict>>, Fault> {
        self.commit_sent = false;
        let mut conn = match self.take().await {
            Ok(conn) => conn,
            Err(error) => {
                self.setbacks = self.setbacks.saturating_add(1);
                return Err(Fault {
                    remedy: Remedy::AwaitServer,
                    in_doubt: false,
                    message: error.to_string(),
                });
            }
        };
        let run = batch::run(&mut conn, batch, self.retention, &mut self.commit_sent);
        let (remedy, message) = match timeout(self.timeouts.batch, run).await {
            Ok(Ok(verdicts)) => {
                self.connection = Some(conn);
                self.setbacks = 0;
                return Ok(verdicts);
            }
            Ok(Err(error)) => (Remedy::of(&error), loggable(&error)),
            Err(_elapsed) => {
                (Remedy::Reconnect, format!("no answer within {:?}", self.timeouts.batch))
            }
        };
        let lost = matches!(remedy, Remedy::Reconnect | Remedy::AwaitServer);
        if lost {
            self.setbacks = self.setbacks.saturating_add(1);
        } else {
            self.connection = Some(conn);
            self.setbacks = 0;
        }
        Err(Fault { remedy, in_doubt: lost && self.commit_sent, message })
    }

    /// Whether the last batch, of which nothing else is known, may have been committed.
    pub(super) fn may_have_committed(&self) -> bool {
        self.commit_sent
    }

    /// Opens a connection where there is none.
    ///
    /// # Errors
    /// When the server can't be reached, or isn't fit.
    pub(super) async fn connect(&mut self) -> Result<(), UnfitServer> {
        self.connection = Some(self.take().await?);
        Ok(())
    }

    /// Says goodbye to the server.
    pub(super) async fn close(&mut self) {
        if let Some(conn) = self.connection.take() {
            // What matters is committed; a server that is gone needs no goodbye.
            let _ = timeout(self.timeouts.connect, conn.close()).await;
        }
    }

    /// Finds out whether an idle connection still stands, before a command has to; and keeps
    /// firewalls from forgetting it.
    pub(super) async fn probe(&mut self) {
        if let Some(mut conn) = self.connection.take()
            && let Ok(Ok(())) = timeout(self.timeouts.connect, conn.ping()).await
        {
            self.connection = Some(conn);
        }
    }

    /// Waits before the next attempt at a server that can't be had: not at all after the first
    /// setback (a connection that was cut is simply opened again), then longer and longer.
    pub(super) async fn pause(&self) {
        if let Some(doublings) = self.setbacks.checked_sub(2) {
            let (first, longest) = PAUSES;
            let pause = first.saturating_mul(1 << doublings.min(10)).min(longest);
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn take(&mut self) -> Result<PgConnection, UnfitServer> {
        if let Some(conn) = self.connection.take() {
            return Ok(conn);
        }
        let limit = self.timeouts.connect;
        timeout(limit, self.open()).await.map_err(|_| UnfitServer::Silent(limit))?
    }

    async fn open(&self) -> Result<PgConnection, UnfitServer> {
        let mut conn =
            PgConnection::connect_with(&self.options).await.map_err(UnfitServer::Unreachable)?;
        let Timeouts { lock, idle_in_transaction, statement, batch, .. } = self.timeouts;
        // By SET, not as options of the connection, which some poolers refuse. force_custom_plan: a
        // plan made while the tables were empty reads all of them when they are full.
        let settings = format!(
            "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET statement_timeout = {}; \
             SET tcp_user_timeout = {}; SET plan_cache_mode = force_custom_plan; SET application_name = 'payonce'",
            lock.as_millis(),
            idle_in_transaction.as_millis(),
            statement.as_millis(),
            batch.as_millis(),
        );
        conn.execute(AssertSqlSafe(settings)).await.map_err(UnfitServer::Unreachable)?;
        self.check(&mut conn).await?;
        Ok(conn)
    }

    async fn check(&self, conn: &mut PgConnection) -> Result<(), UnfitServer> {
        let row = conn
            .fetch_one(
                "SELECT current_setting('server_encoding') AS encoding,
                        current_setting('synchronous_commit') AS synchronous_commit,
                        current_setting('max_locks_per_transaction')::bigint
                      * (current_setting('max_connections')::bigint
                       + current_setting('max_prepared_transactions')::bigint) AS locks",
            )
            .await
            .map_err(UnfitServer::Unreachable)?;
        let text = |column| row.try_get::<String, _>(column).map_err(UnfitServer::Unreachable);
        let encoding = text("encoding")?;
        if encoding != "UTF8" {
            return Err(UnfitServer::Encoding(encoding));
        }
        if text("synchronous_commit")? == "off" && !self.allow_asynchronous_commit {
            return Err(UnfitServer::AsynchronousCommit);
        }
        let locks: i64 = row.try_get("locks").map_err(UnfitServer::Unreachable)?;
        let room = usize::try_from(locks).unwrap_or(0) / 2;
        if self.max_locks > room {
            return Err(UnfitServer::LockTable { wanted: self.max_locks, room });
        }
        Ok(())
    }
}
