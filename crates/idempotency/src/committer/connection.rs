//! A committer's connection to PostgreSQL: opened with everything that keeps one stuck server from
//! holding up the others, never used again after an error that leaves its state in doubt.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use super::{
    batch::{self, Look, Mode, SearchTimeouts, Terms},
    server_check::{Requirements, Server, UnfitServer},
    used_share::UsedShare,
};
use crate::{
    Record, Settings,
    error::{Failed, Remedy},
    observer::{Event, Observer, Step},
    queue::Running,
    sql::{self, TableLock},
};

/// How long a statement waits for a row that another transaction holds. Other servers' batches are
/// passed by without waiting, so only somebody else's transaction can hold one.
const LOCK_TIMEOUT: Duration = Duration::from_millis(100);

/// When PostgreSQL ends the transaction of a server that stopped in the middle of it, and frees its
/// keys.
const IDLE_IN_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(1);

/// TCP, TLS and a password take their time, however short the deadline is.
const SHORTEST_CONNECT: Duration = Duration::from_secs(1);

/// A tenth of the usual time-out for a lock; below a millisecond PostgreSQL would take it for none.
const SHORTEST_TIMEOUT: Duration = Duration::from_millis(10);

/// The first pause before connecting again, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The time-outs of a connection, below the deadline of a request; connecting, which holds no keys, may
/// take longer than a very short one.
#[derive(Debug, Clone, Copy)]
struct Timeouts {
    connect: Duration,
    lock: Duration,
    idle_in_transaction: Duration,
    statement: Duration,
    batch: Duration,
    /// While a command is searched for that holds up the others, which wait meanwhile.
    search: SearchTimeouts,
}

impl Timeouts {
    fn within(deadline: Duration) -> Self {
        Self {
            connect: (deadline / 5).max(SHORTEST_CONNECT),
            lock: LOCK_TIMEOUT.min(deadline / 10),
            idle_in_transaction: IDLE_IN_TRANSACTION_TIMEOUT.min(deadline / 10),
            statement: deadline / 5,
            batch: deadline / 10 * 3,
            search: SearchTimeouts {
                statement: (deadline / 50).max(SHORTEST_TIMEOUT),
                lock: SHORTEST_TIMEOUT,
            },
        }
    }
}

/// Why a batch has no outcome.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) remedy: Remedy,
    /// Whether the batch may be committed all the same.
    pub(crate) in_doubt: bool,
    /// Whether it failed when it claimed keys, and had executed nothing yet.
    pub(crate) while_claiming: bool,
    /// Whether a statement took too long.
    pub(crate) of_time: bool,
    pub(crate) message: String,
}

impl Fault {
    /// The batch did not begin.
    pub(crate) fn no_server(unfit: &UnfitServer) -> Self {
        Self::before_it_began(unfit.to_string())
    }

    fn before_it_began(message: String) -> Self {
        Self {
            remedy: Remedy::AwaitServer,
            in_doubt: false,
            while_claiming: false,
            of_time: false,
            message,
        }
    }
}

/// A connection, and what is known of the server at its other end.
struct Session {
    conn: PgConnection,
    server: Server,
}

/// The same with a name by which PostgreSQL shows them, where they have none of their own.
fn named(options: PgConnectOptions, name: &str) -> PgConnectOptions {
    if options.get_application_name().is_some() { options } else { options.application_name(name) }
}

/// One connection, opened when it is needed.
pub(crate) struct Connector {
    options: PgConnectOptions,
    observer: Arc<dyn Observer>,
    timeouts: Timeouts,
    response_ttl: Option<f64>,
    key_ttl: Option<f64>,
    requirements: Requirements,
    session: Option<Session>,
    /// The backend of a connection that was given up during COMMIT, while it may still be at it.
    committing: Option<i32>,
    /// How often in a row there was no usable server.
    setbacks: u32,
    /// What the keys of the last batches were.
    used_share: UsedShare,
}

impl Connector {
    pub(crate) fn new(
        options: PgConnectOptions,
        settings: &Settings,
        observer: Arc<dyn Observer>,
    ) -> Self {
        Self {
            options: named(options, "idempotency"),
            observer,
            timeouts: Timeouts::within(settings.request_deadline),
            response_ttl: settings.response_ttl.map(|ttl| ttl.as_secs_f64()),
            key_ttl: settings.key_ttl.map(|ttl| ttl.as_secs_f64()),
            requirements: Requirements::of(settings),
            session: None,
            committing: None,
            setbacks: 0,
            used_share: UsedShare::default(),
        }
    }

    /// Whether there is a connection, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_some() && self.committing.is_none()
    }

    /// Makes sure that there is a connection.
    ///
    /// # Errors
    /// When the server can't be reached, or isn't fit.
    pub(crate) async fn connect(&mut self) -> Result<(), UnfitServer> {
        if self.is_connected() {
            return Ok(());
        }
        let limit = self.timeouts.connect;
        let connected =
            timeout(limit, self.open()).await.unwrap_or(Err(UnfitServer::Silent(limit)));
        if connected.is_err() {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        connected
    }

    /// Whether the keys of the next batch had better be looked up before they are claimed.
    pub(crate) fn looks_up_first(&self) -> bool {
        self.used_share.look_up_first()
    }

    /// Runs a batch, and returns what became of each of its members.
    pub(crate) async fn run(
        &mut self,
        batch: &[Running],
        mode: Mode,
    ) -> Result<Vec<Option<Record>>, Fault> {
        let (mut session, terms) = self.take()?;
        let ended = batch::run(&mut session.conn, batch, terms, mode, &*self.observer).await;
        let records = self.give_back(session, ended)?;
        let used = records.iter().filter(|record| record.is_none()).count();
        self.used_share.note(used, records.len());
        Ok(records)
    }

    /// Finds out what the keys of a batch stand for that are used.
    pub(crate) async fn look_up(
        &mut self,
        batch: &[Running],
        look: Look,
    ) -> Result<Vec<Option<Record>>, Fault> {
        let (mut session, terms) = self.take()?;
        let ended = batch::look_up(&mut session.conn, batch, look, terms, &*self.observer).await;
        let used = self.give_back(session, ended)?;
        if look == Look::First {
            // Of the others it is known when they have been claimed.
            let found = used.iter().flatten().count();
            self.used_share.note(found, found);
        }
        Ok(used)
    }

    /// The session, for as long as something runs on it: a panic or a cancelled future drops it, and
    /// PostgreSQL ends what it had begun.
    fn take(&mut self) -> Result<(Session, Terms), Fault> {
        let Some(session) = self.session.take() else {
            return Err(Fault::before_it_began("there is no connection".to_owned()));
        };
        let terms = Terms {
            response_ttl: self.response_ttl,
            key_ttl: self.key_ttl,
            synchronous_standby: session.server.synchronous_standby,
            limit: self.timeouts.batch,
            search: self.timeouts.search,
        };
        Ok((session, terms))
    }

    /// Keeps the session if it is known to be at rest: after success, or after an error that PostgreSQL
    /// reported and rolled back.
    fn give_back<T>(&mut self, session: Session, ended: Result<T, Failed>) -> Result<T, Fault> {
        let failed = match ended {
            Ok(done) => {
                self.session = Some(session);
                self.setbacks = 0;
                return Ok(done);
            }
            Err(failed) => failed,
        };
        let may_be_committing = failed.may_be_committing();
        if failed.spares_the_connection() {
            self.session = Some(session);
            self.setbacks = 0;
        } else {
            self.committing = may_be_committing.then_some(session.server.backend);
            self.setbacks = self.setbacks.saturating_add(1);
        }
        Err(Fault {
            remedy: failed.remedy(),
            // What a look-up may commit claims nothing.
            in_doubt: may_be_committing && failed.step != Some(Step::LookUp),
            while_claiming: failed.step == Some(Step::Claim),
            of_time: failed.is_of_time(),
            message: failed.to_string(),
        })
    }

    /// A table that another session has locked, so that nothing can be written to it.
    pub(crate) async fn locked_table(&mut self) -> Option<TableLock> {
        let mut session = self.session.take()?;
        let found = timeout(self.timeouts.statement, sql::locked_table(&mut session.conn)).await;
        let Ok(Ok(found)) = found else { return None };
        self.session = Some(session);
        found
    }

    /// Says goodbye to the server.
    pub(crate) async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            // What matters is committed; a server that is gone needs no goodbye.
            let _ = timeout(self.timeouts.connect, session.conn.close()).await;
        }
    }

    /// Finds out whether an idle connection still stands, before a command has to; and keeps
    /// firewalls from forgetting it.
    pub(crate) async fn probe(&mut self) {
        if let Some(mut session) = self.session.take()
            && let Ok(Ok(())) = timeout(self.timeouts.connect, session.conn.ping()).await
        {
            self.session = Some(session);
        }
    }

    /// Waits before the next attempt at a server that can't be had: not at all after the first
    /// setback (a connection that was cut is simply opened again), then longer and longer.
    pub(crate) async fn pause(&self) {
        if let Some(doublings) = self.setbacks.checked_sub(2) {
            let (first, longest) = PAUSES;
            let pause = first.saturating_mul(1 << doublings.min(10)).min(longest);
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    async fn open(&mut self) -> Result<(), UnfitServer> {
        let mut session = match self.session.take() {
            Some(session) => session,
            None => self.session().await?,
        };
        if let Some(backend) = self.committing {
            let waits = sql::waits_for_standby(&mut session.conn, backend).await;
            if waits.map_err(UnfitServer::Unreachable)? {
                self.session = Some(session);
                return Err(UnfitServer::AwaitsStandby);
            }
            self.committing = None;
        }
        self.session = Some(session);
        Ok(())
    }

    async fn session(&self) -> Result<Session, UnfitServer> {
        let mut conn =
            PgConnection::connect_with(&self.options).await.map_err(UnfitServer::Unreachable)?;
        let Timeouts { lock, idle_in_transaction, statement, batch, .. } = self.timeouts;
        // By SET, not as options of the connection, which some poolers refuse. No sequential scans: a
        // plan made while the tables were small would go on reading all of them when they are large. And
        // that plan, always: for a batch of one PostgreSQL may think it worth its while to plan anew each time.
        let settings = format!(
            "SET lock_timeout = {}; SET idle_in_transaction_session_timeout = {}; SET statement_timeout = {}; \
             SET tcp_user_timeout = {}; SET tcp_keepalives_idle = 1; SET tcp_keepalives_interval = 1; \
             SET enable_seqscan = off; SET plan_cache_mode = force_generic_plan; \
             SET default_transaction_isolation = 'read committed'",
            lock.as_millis(),
            idle_in_transaction.as_millis(),
            statement.as_millis(),
            batch.as_millis(),
        );
        conn.execute(AssertSqlSafe(settings)).await.map_err(UnfitServer::Unreachable)?;
        let server = self.requirements.check(&mut conn).await?;
        self.observer.observe(Event::Connected);
        Ok(Session { conn, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transaction_claims_its_keys_within_a_deadline_of_its_begin() {
        for millis in [10, 500, 10_000, 3_600_000] {
            let deadline = Duration::from_millis(millis);
            let Timeouts { idle_in_transaction, statement, .. } = Timeouts::within(deadline);
            // PostgreSQL waits for, and executes: locks, deletion of expired keys, claims.
            assert!(3 * (idle_in_transaction + statement) < deadline, "{deadline:?}");
        }
    }
}
