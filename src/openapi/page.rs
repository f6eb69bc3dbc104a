//! `GET /docs`: Swagger UI, from inside the program, on the description. It brings all that it needs, and its
//! Content-Security-Policy allows nothing else.

use std::{borrow::Cow, sync::Arc};

use actix_web::{
    HttpResponse,
    http::header::{self, ContentEncoding, ContentType},
    web::{self, Bytes},
};
use utoipa_swagger_ui::{Config, SwaggerFile};

use crate::http::problem::{Kind, Problem};

/// The files of the page.
pub const FILES: [&str; 4] = ["start.js", "style.css", "swagger-ui-bundle.js", "swagger-ui.css"];

/// Itself alone, and pictures that stand in its style.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// `GET /docs`: the page.
pub async fn show() -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::html())
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .body(include_str!("page.html"))
}

/// `GET /docs/{file}`: what it consists of.
///
/// # Errors
/// `not-found` for anything else.
pub async fn file(name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let mut answer = HttpResponse::Ok();
    answer
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"));
    match name.as_str() {
        "start.js" => Ok(answer.content_type("text/javascript").body(include_str!("start.js"))),
        "style.css" => Ok(answer.content_type("text/css").body(include_str!("style.css"))),
        name if FILES.contains(&name) => {
            let SwaggerFile { bytes, content_type, gzpipped, .. } = of_swagger_ui(name)?;
            if gzpipped {
                answer.insert_header(ContentEncoding::Gzip);
            }
            Ok(answer.content_type(content_type).body(match bytes {
                Cow::Borrowed(bytes) => Bytes::from_static(bytes),
                Cow::Owned(bytes) => bytes.into(),
            }))
        }
        _ => Err(Kind::NotFound.into()),
    }
}

fn of_swagger_ui(name: &str) -> Result<SwaggerFile<'static>, Problem> {
    utoipa_swagger_ui::serve(name, Arc::new(Config::default()))
        .map_err(|error| Problem::new(Kind::Internal).caused_by(error))?
        .ok_or(Kind::NotFound.into())
}
