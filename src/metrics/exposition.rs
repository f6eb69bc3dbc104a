//! `GET /metrics`.

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use super::{Metrics, access::Access};
use crate::{
    http::problem::{Kind, Problem},
    idempotency::Engine,
};

/// `GET /metrics`: all metrics in Prometheus' text format.
///
/// # Errors
/// `unauthorized`, or `not-found` for callers that may not see them.
pub async fn show(
    request: HttpRequest,
    access: web::Data<Access>,
    metrics: web::Data<Metrics>,
    engine: web::Data<Engine>,
) -> Result<HttpResponse, Problem> {
    access.check(&request)?;
    let text =
        metrics.render(&engine).map_err(|error| Problem::new(Kind::Internal).caused_by(error))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, prometheus::TEXT_FORMAT))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text))
}
