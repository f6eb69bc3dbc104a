//! The URL table.

use std::future::{Ready, ready};

use actix_web::{
    FromRequest, Handler, HttpRequest, HttpResponse, Resource, Responder, guard,
    http::header::{self, HeaderValue},
    web::{self, ServiceConfig},
};

use crate::{
    events, health,
    http::problem::{self, Kind, Problem},
    keys, metrics,
    openapi::{self, part::Part},
    payments, refunds,
    state::AppState,
    webhooks,
};

/// The description of each feature's operations, which stands in the feature's folder.
pub(crate) const DESCRIBED: [Part; 9] = [
    payments::openapi::PART,
    refunds::openapi::PART,
    events::openapi::PART,
    webhooks::openapi::PART,
    keys::openapi::PART,
    problem::openapi::PART,
    health::openapi::PART,
    metrics::openapi::PART,
    openapi::own::PART,
];

/// Registers every route but the metrics'.
pub fn configure(routes: &mut ServiceConfig) {
    routes
        .service(
            resource("/payment", "GET, HEAD, POST")
                .route(web::post().to(payments::http::create))
                .route(get(payments::http::list)),
        )
        .service(
            resource("/payment/{transaction_id}", "GET, HEAD").route(get(payments::http::show)),
        )
        .service(
            resource("/payment/{transaction_id}/refund", "POST")
                .route(web::post().to(refunds::http::create)),
        )
        .service(resource("/events", "GET, HEAD").route(get(events::http::list)))
        .service(resource("/idempotency-key", "GET, HEAD").route(get(keys::show)))
        .service(resource("/idempotency-key/void", "POST").route(web::post().to(keys::void)))
        .service(resource("/idempotency-policy", "GET, HEAD").route(get(keys::policy::show)))
        .service(
            resource("/webhook-endpoint", "GET, HEAD, POST")
                .route(web::post().to(webhooks::http::create))
                .route(get(webhooks::http::list)),
        )
        .service(
            resource("/webhook-endpoint/{endpoint_id}", "DELETE, GET, HEAD, PATCH")
                .route(web::patch().to(webhooks::http::change))
                .route(web::delete().to(webhooks::http::delete))
                .route(get(webhooks::http::show)),
        )
        .service(
            resource("/webhook-endpoint/{endpoint_id}/rotate", "POST")
                .route(web::post().to(webhooks::http::rotate)),
        )
        .service(
            resource("/webhook-endpoint/{endpoint_id}/replay", "POST")
                .route(web::post().to(webhooks::http::replay)),
        )
        .service(resource("/problems", "GET, HEAD").route(get(problem::pages::list)))
        .service(resource("/problems/{code}", "GET, HEAD").route(get(problem::pages::show)))
        .service(resource("/health/live", "GET, HEAD").route(get(health::live)))
        .service(resource("/health/ready", "GET, HEAD").route(get(health::ready)))
        .service(resource("/openapi.json", "GET, HEAD").route(get(openapi::show)))
        .service(resource("/docs", "GET, HEAD").route(get(openapi::page::show)))
        .service(resource("/docs/{file}", "GET, HEAD").route(get(openapi::page::file)))
        .default_service(web::to(not_found));
}

/// Registers the metrics' route. For callers without access every method gets 404.
pub fn metrics(routes: &mut ServiceConfig) {
    let other_methods = web::to(|request: HttpRequest, state: web::Data<AppState>| {
        let access = state.metrics_access.check(&request, state.authenticator.had_keys());
        ready(access.and_then(|()| refuse_method("GET, HEAD")))
    });
    let metrics = web::resource("/metrics").route(get(metrics::show));
    routes.service(metrics.default_service(other_methods));
}

/// A path, with the response to methods that it does not support.
fn resource(path: &'static str, allow: &'static str) -> Resource {
    web::resource(path).default_service(web::to(move || ready(refuse_method(allow))))
}

fn refuse_method(allow: &'static str) -> Result<HttpResponse, Problem> {
    let problem = Problem::new(Kind::MethodNotAllowed);
    Err(problem.with_header(header::ALLOW, HeaderValue::from_static(allow)))
}

/// A route for GET and HEAD.
fn get<F, Args>(handler: F) -> actix_web::Route
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
{
    web::route().guard(guard::Any(guard::Get()).or(guard::Head())).to(handler)
}

/// The response to an unknown path.
pub fn not_found() -> Ready<Result<HttpResponse, Problem>> {
    ready(Err(Kind::NotFound.into()))
}
