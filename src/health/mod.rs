//! Health checks: the process is up, and it can do its work.

pub(crate) mod openapi;

use std::{
    pin::pin,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep_until},
};

use crate::{
    db::{Needs, NotReady, Reads},
    http::problem::{Kind, Problem},
    state::AppState,
};

/// True once the server is stopping. It still serves requests; load balancers that choose between
/// servers should choose another one.
#[derive(Debug, Default)]
pub struct Stopping {
    begun: AtomicBool,
    news: Notify,
}

impl Stopping {
    /// Stops, permanently.
    pub fn begin(&self) {
        self.begun.store(true, Ordering::SeqCst);
        self.news.notify_waiters();
    }

    /// Returns whether the server is stopping.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.begun.load(Ordering::SeqCst)
    }

    /// Waits until the server is stopping.
    pub async fn begun(&self) {
        let mut news = pin!(self.news.notified());
        // From here on a notification is not missed.
        news.as_mut().enable();
        if !self.has_begun() {
            news.await;
        }
    }
}

/// Looks whether requests would be executed, on a connection of its own: clients that keep the reading connections
/// busy would else make the server seem to be down.
///
/// Everybody may ask. So looks are 50 ms apart at least, and one look answers all who asked before it began.
#[derive(Debug)]
pub struct Readiness {
    reads: Reads,
    needs: Needs,
    last: Mutex<Option<Look>>,
}

/// The result of a check of the database.
#[derive(Debug)]
struct Look {
    began: Instant,
    found: Result<Result<(), NotReady>, Problem>,
}

/// From one look to the next at least.
const APART: Duration = Duration::from_millis(50);

impl Readiness {
    /// Looks for no longer than `limit`.
    #[must_use]
    pub fn new(options: &PgConnectOptions, limit: Duration, needs: Needs) -> Self {
        Self { reads: Reads::short_lived(options, limit), needs, last: Mutex::default() }
    }

    /// Checks the database, or waits for a check that begins after this call.
    async fn look(&self) -> Result<Result<(), NotReady>, Problem> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(look) = &*last {
            if look.began >= asked {
                return look.found.clone();
            }
            sleep_until(look.began + APART).await;
        }
        let began = Instant::now();
        let found = self.reads.run(async |conn| self.needs.check(conn).await).await;
        *last = Some(Look { began, found: found.clone() });
        found
    }

    /// Closes the connection.
    pub async fn close(&self) {
        self.reads.close().await;
    }
}

#[derive(Serialize)]
struct Health {
    status: &'static str,
    version: &'static str,
}

fn healthy(status: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .json(Health { status, version: env!("CARGO_PKG_VERSION") })
}

/// `GET /health/live`: the process is up.
pub async fn live() -> HttpResponse {
    healthy("live")
}

/// `GET /health/ready`: the server is not being stopped, and its database takes what it writes.
///
/// # Errors
/// `shutting-down`, `database-unavailable`.
pub async fn ready(state: web::Data<AppState>) -> Result<HttpResponse, Problem> {
    if state.stopping.has_begun() {
        return Err(Kind::ShuttingDown.into());
    }
    match state.readiness.look().await? {
        Ok(()) => Ok(healthy("ready")),
        Err(not_ready) => Err(Problem::new(Kind::DatabaseUnavailable).with_message(&not_ready)),
    }
}
