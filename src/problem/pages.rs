//! A page for each problem's `type`, for people.

use actix_web::{
    HttpResponse,
    http::header::{self, ContentType},
    web,
};

use super::{Entry, Kind, Problem, Retry};

/// `GET /problems/{code}`: what a problem means and what to do.
///
/// # Errors
/// `not-found` for a code that doesn't exist.
pub async fn show(code: web::Path<String>) -> Result<HttpResponse, Problem> {
    let kind = Kind::of_code(&code).ok_or(Kind::NotFound)?;
    Ok(HttpResponse::Ok()
        .insert_header(ContentType::html())
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ))
        .body(page(kind.entry())))
}

fn page(Entry { code, status, title, retry, advice }: Entry) -> String {
    let next = match retry {
        Retry::SameRequest => "Send the very same request again, with the same key if it has one.",
        Retry::CorrectedRequest => {
            "Correct the request and send it again with the same key. This request executed nothing."
        }
        Retry::NewKey => {
            "Nothing was made with this key, and nothing will be. Another request needs another key."
        }
        Retry::None => "Sending it again changes nothing.",
    };
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{code}</title>\
         <style>body{{font:1.1rem/1.5 system-ui;max-width:38rem;margin:3rem auto;padding:0 1rem}}code{{color:#555}}</style>\n\
         <h1>{title}</h1>\n<p><code>{status} · {code}</code></p>\n<p>{advice}</p>\n<p>{next}</p>\n</html>\n",
        status = status.as_u16(),
    )
}
