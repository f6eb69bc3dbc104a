//! A committer's connection to PostgreSQL. Its time-outs keep a server that hangs from holding up others, and it is
//! closed after an error that leaves its state unknown.

use std::{sync::Arc, time::Duration};

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, postgres::PgConnectOptions};
use tokio::time::{sleep, timeout};

use super::{
    batch::{self, Mode, Terms},
    failed::Failed,
    look_up::{self, Look},
    server_check::{Requirements, Server, UnfitServer},
    timeouts::Timeouts,
    used_share::UsedShare,
};
use crate::{
    Record, Settings,
    observer::{Event, Observer},
    queue::Job,
    sql::{self, TableLock},
};

/// The first pause before connecting again, and the longest; each is twice the one before.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// PostgreSQL could not be asked.
#[derive(Debug)]
pub(crate) struct Unknown;

/// A connection, and what is known of the server at its other end.
struct Session {
    conn: PgConnection,
    server: Server,
}

/// The options with an `application_name`, unless they have one.
fn named(options: PgConnectOptions, name: &str) -> PgConnectOptions {
    if options.get_application_name().is_some() { options } else { options.application_name(name) }
}

/// A connection that is opened when it is needed.
pub(crate) struct Connector {
    options: PgConnectOptions,
    observer: Arc<dyn Observer>,
    terms: Terms,
    requirements: Requirements,
    session: Option<Session>,
    /// The backend of a connection that was closed during COMMIT, and may still be committing.
    committing: Option<i32>,
    /// The number of times in a row that a connection could not be used.
    setbacks: u32,
    /// Of the last batches.
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
            terms: Terms::of(settings),
            requirements: Requirements::of(settings),
            session: None,
            committing: None,
            setbacks: 0,
            used_share: UsedShare::default(),
        }
    }

    /// Returns whether there is a connection, as far as is known.
    pub(crate) fn is_connected(&self) -> bool {
        self.session.is_some() && self.committing.is_none()
    }

    /// Opens a connection if there is none.
    pub(crate) async fn connect(&mut self) -> Result<(), UnfitServer> {
        if self.is_connected() {
            return Ok(());
        }
        let limit = self.terms.timeouts.connect;
        let connected =
            timeout(limit, self.open()).await.unwrap_or(Err(UnfitServer::Silent(limit)));
        if connected.is_err() {
            self.setbacks = self.setbacks.saturating_add(1);
        }
        connected
    }

    /// Returns whether to look the keys of the next batch up before they are claimed.
    pub(crate) fn looks_up_first(&self) -> bool {
        self.used_share.look_up_first()
    }

    /// Runs a batch, and returns the record of each command that it executed.
    pub(crate) async fn run(
        &mut self,
        batch: &[Job],
        mode: Mode,
    ) -> Result<Vec<Option<Record>>, Failed> {
        let mut session = self.take()?;
        let ended = batch::run(&mut session.conn, batch, self.terms, mode, &*self.observer).await;
        let records = self.give_back(session, ended)?;
        let used = records.iter().filter(|record| record.is_none()).count();
        self.used_share.note(used, records.len());
        Ok(records)
    }

    /// Returns the records of the keys of a batch that are used.
    pub(crate) async fn look_up(
        &mut self,
        batch: &[Job],
        look: Look,
    ) -> Result<Vec<Option<Record>>, Failed> {
        let mut session = self.take()?;
        let Session { conn, server } = &mut session;
        let ended = look_up::look_up(conn, batch, look, self.terms, *server, &*self.observer).await;
        let used = self.give_back(session, ended)?;
        if look == Look::First {
            // The others count when they are claimed.
            let found = used.iter().flatten().count();
            self.used_share.note(found, found);
        }
        Ok(used)
    }

    /// Takes the session for one run. A cancelled future drops it, and PostgreSQL rolls back.
    fn take(&mut self) -> Result<Session, Failed> {
        let missing = || Failed::no_server("there is no connection");
        self.session.take().ok_or_else(missing)
    }

    /// Keeps the session after success, and after an error that left no transaction open on it.
    fn give_back<T>(&mut self, session: Session, ended: Result<T, Failed>) -> Result<T, Failed> {
        let failed = match ended {
            Ok(done) => {
                self.session = Some(session);
                self.setbacks = 0;
                return Ok(done);
            }
            Err(failed) => failed,
        };
        if failed.spares_the_connection() {
            self.session = Some(session);
            self.setbacks = 0;
        } else {
            self.committing = failed.may_be_committing().then_some(session.server.backend);
            self.setbacks = self.setbacks.saturating_add(1);
        }
        Err(failed)
    }

    /// Looks for a table that another session has locked against writes.
    pub(crate) async fn locked_table(&mut self) -> Result<Option<TableLock>, Unknown> {
        let mut session = self.session.take().ok_or(Unknown)?;
        let found =
            timeout(self.terms.timeouts.statement, sql::locked_table(&mut session.conn)).await;
        let Ok(Ok(found)) = found else { return Err(Unknown) };
        self.session = Some(session);
        Ok(found)
    }

    /// Closes the connection.
    pub(crate) async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            // Everything is committed, and PostgreSQL notices a connection that is gone.
            let _ = timeout(self.terms.timeouts.connect, session.conn.close()).await;
        }
    }

    /// Pings an idle connection: a lost one is replaced before a command needs it, and firewalls keep a live one.
    pub(crate) async fn probe(&mut self) {
        if let Some(mut session) = self.session.take()
            && let Ok(Ok(())) = timeout(self.terms.timeouts.connect, session.conn.ping()).await
        {
            self.session = Some(session);
        }
    }

    /// Waits before the next attempt to connect: not at all after the first setback, then longer each time.
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
        let Timeouts { lock, idle_in_transaction, statement, batch, .. } = self.terms.timeouts;
        // By SET, because some poolers refuse connection options. One plan is kept for each statement: PostgreSQL
        // would otherwise plan a batch of one each time. It was made when the tables may have been small, so it
        // must not read whole tables.
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
