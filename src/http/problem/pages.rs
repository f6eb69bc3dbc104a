//! Pages about problems, for people: a list, and one for each problem's `type`.

use actix_web::{
    HttpResponse,
    http::header::{self, ContentType},
    web,
};

use serde_json::json;

use super::{Entry, Kind, Problem};

/// `GET /problems`: the list.
pub async fn list() -> HttpResponse {
    let rows: Vec<String> = Kind::ALL
        .into_iter()
        .map(|kind| {
            let Entry { code, status, title, .. } = kind.entry();
            let status = status.as_u16();
            format!("<li><a href=\"problems/{code}\">{title}</a> <code>{status} {code}</code>\n")
        })
        .collect();
    page("Problems", "", &format!("<ul>\n{}</ul>\n", rows.concat()))
}

/// `GET /problems/{code}`: what a problem means and what to do.
///
/// # Errors
/// `not-found` for a code that doesn't exist.
pub async fn show(code: web::Path<String>) -> Result<HttpResponse, Problem> {
    let Entry { code, status, title, retry, advice } =
        Kind::of_code(&code).ok_or(Kind::NotFound)?.entry();
    let content = format!(
        "<p><code>{status} {code}</code>, <code>\"retry\": {retry}</code></p>\n<p>{advice}</p>\n\
         <p><a href=\"../problems\">All problems</a></p>\n",
        status = status.as_u16(),
        retry = json!(retry),
    );
    Ok(page(title, "../", &content))
}

/// A page; `root` is the way from it to `/`.
fn page(title: &str, root: &str, content: &str) -> HttpResponse {
    HttpResponse::Ok()
        .insert_header(ContentType::html())
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .insert_header((
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; style-src 'unsafe-inline'",
        ))
        .body(format!(
            "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <style>body{{font:1.1rem/1.5 system-ui;max-width:38rem;margin:3rem auto;padding:0 1rem}}code{{color:#555}}</style>\n\
             <h1>{title}</h1>\n{content}<p><a href=\"{root}docs\">API documentation</a></p>\n</html>\n"
        ))
}
