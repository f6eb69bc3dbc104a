//! `GET /metrics`.

use actix_web::{HttpRequest, HttpResponse, http::header, web};

use crate::{
    http::problem::{Kind, Problem},
    state::AppState,
};

/// `GET /metrics`: all metrics in Prometheus' text format.
///
/// # Errors
/// `unauthorized`, or `not-found` for callers that may not see them.
pub async fn show(
    request: HttpRequest,
    state: web::Data<AppState>,
) -> Result<HttpResponse, Problem> {
    state.metrics_access.check(&request, state.authenticator.had_keys())?;
    let text = state
        .metrics
        .render(&state.engine)
        .map_err(|error| Problem::new(Kind::Internal).caused_by(error))?;
    Ok(HttpResponse::Ok()
        .insert_header((header::CONTENT_TYPE, prometheus::TEXT_FORMAT))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .body(text))
}
