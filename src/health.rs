//! What watches over processes asks: is this one up, and can it do its work?

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep_until},
};

use crate::{
    database::{self, Reads, Unmigrated},
    problem::{Kind, Problem},
};

/// Whether this server is on its way out. It still serves whoever comes; whoever chooses between
/// servers should choose another one.
#[derive(Debug, Default)]
pub struct Stopping(AtomicBool);

impl Stopping {
    /// From now on: for good.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it is.
    #[must_use]
    pub fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What tells whether the database can be reached and is migrated. On a connection of its own: whoever keeps those
/// busy that read would else make the server seem to be down, to those who watch it and send it payments.
///
/// Anybody may ask. So looks are 50 ms apart at least, and whoever asked before one began is answered by it.
#[derive(Debug)]
pub struct Readiness {
    reads: Reads,
    last: Mutex<Option<Look>>,
}

/// What the database was found to be.
#[derive(Debug)]
struct Look {
    began: Instant,
    found: Result<Result<(), Unmigrated>, Problem>,
}

/// From one look to the next at least.
const APART: Duration = Duration::from_millis(50);

impl Readiness {
    /// Looks for no longer than `limit`.
    #[must_use]
    pub fn new(options: &PgConnectOptions, limit: Duration) -> Self {
        Self { reads: Reads::new(options, 1, limit), last: Mutex::default() }
    }

    /// What the database is found to be by a look that begins from now on.
    async fn look(&self) -> Result<Result<(), Unmigrated>, Problem> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        if let Some(look) = &*last {
            if look.began >= asked {
                return look.found.clone();
            }
            sleep_until(look.began + APART).await;
        }
        let began = Instant::now();
        let found = self.reads.run(async |conn| database::migrated(conn).await).await;
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

/// `GET /health/ready`: the server isn't being stopped, and the database can be reached and is migrated
/// at least as far as this binary needs.
///
/// # Errors
/// `shutting-down`, `database-unavailable`.
pub async fn ready(
    stopping: web::Data<Stopping>,
    readiness: web::Data<Readiness>,
) -> Result<HttpResponse, Problem> {
    if stopping.has_begun() {
        return Err(Kind::ShuttingDown.into());
    }
    match readiness.look().await? {
        Ok(()) => Ok(healthy("ready")),
        Err(unmigrated) => Err(Problem::new(Kind::DatabaseUnavailable).with_message(&unmigrated)),
    }
}
