//! What watches over processes asks: is this one up, and can it do its work?

use actix_web::{HttpResponse, http::header, web};
use serde::Serialize;

use crate::{
    database::{self, Reads},
    problem::{Kind, Problem},
};

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
/// `database-unavailable`.
pub async fn ready(reads: web::Data<Reads>) -> Result<HttpResponse, Problem> {
    match reads.run(async |conn| database::pending(conn).await).await? {
        0 => Ok(healthy("ready")),
        pending => Err(Problem::new(Kind::DatabaseUnavailable)
            .with_detail(format!("the database lacks {pending} migrations: run payonce migrate"))),
    }
}
