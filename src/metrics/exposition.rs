//! `GET /metrics`.

use std::{io, net::SocketAddr};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer, dev::Server, http::header, middleware::from_fn, web,
};

use super::{Metrics, access::Access};
use crate::{
    exchange::{BodyLimits, exchange},
    health::Stopping,
    idempotency::Committer,
    problem::{Kind, Problem},
    routes,
};

/// At an address of the metrics' own: more than anybody needs, and no threat to clients' files.
const MAX_CONNECTIONS: usize = 16;

/// `GET /metrics`: everything that is counted, in Prometheus' text format.
///
/// # Errors
/// `unauthorized`; `not-found` where it is not to be seen.
pub async fn show(
    request: HttpRequest,
    access: web::Data<Access>,
    metrics: web::Data<Metrics>,
    committer: web::Data<Committer>,
) -> Result<HttpResponse, Problem> {
    access.check(&request)?;
    let text = metrics
        .render(&committer)
        .map_err(|error| Problem::new(Kind::Internal).caused_by(error))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, prometheus::TEXT_FORMAT))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text))
}

/// Serves the metrics, and nothing else, at an address of their own.
///
/// # Errors
/// When it can't be listened on.
pub fn serve(
    address: SocketAddr,
    access: Access,
    metrics: web::Data<Metrics>,
    committer: Committer,
    limits: web::Data<BodyLimits>,
    stopping: web::Data<Stopping>,
) -> io::Result<(Vec<SocketAddr>, Server)> {
    let access = web::Data::new(access);
    let committer = web::Data::new(committer);
    let http = HttpServer::new(move || {
        App::new()
            .app_data(access.clone())
            .app_data(committer.clone())
            .app_data(metrics.requests())
            .app_data(metrics.clone())
            .app_data(limits.clone())
            .app_data(stopping.clone())
            .wrap(from_fn(exchange))
            .configure(routes::metrics)
            .default_service(web::to(routes::not_found))
    })
    .workers(1)
    .max_connections(MAX_CONNECTIONS)
    .disable_signals()
    .bind(address)?;
    Ok((http.addrs(), http.run()))
}
