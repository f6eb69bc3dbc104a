//! What watches over processes asks: is this one up, and can it do its work?

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;

use crate::{
    database::{self, Reads},
    problem::{Kind, Problem},
};

/// Whether this server is being stopped.
#[derive(Debug, Clone, Default)]
pub struct Stopping(Arc<AtomicBool>);

impl Stopping {
    /// It is, from now on.
    pub fn begin(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    fn has_begun(&self) -> bool {
        self.0.load(Ordering::Relaxed)
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

/// `GET /health/ready`: the database can be reached, and is migrated at least as far as this binary
/// needs.
///
/// # Errors
/// `database-unavailable`; `overloaded` while the server is being stopped.
pub async fn ready(
    reads: web::Data<Reads>,
    stopping: web::Data<Stopping>,
) -> Result<HttpResponse, Problem> {
    if stopping.has_begun() {
        return Err(Problem::new(Kind::Overloaded).with_detail("this server is being stopped"));
    }
    match reads.run(async |conn| database::pending(conn).await).await? {
        0 => Ok(healthy("ready")),
        pending => Err(Problem::new(Kind::DatabaseUnavailable)
            .with_detail(format!("the database lacks {pending} migrations: run payonce migrate"))),
    }
}
