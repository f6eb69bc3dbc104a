//! What all responses have in common: problems, their pages, request ids.

use payonce::http::problem::Kind;
use payonce_testing::{PAYMENT, TestServer};
use reqwest::Method;

#[tokio::test]
async fn an_unknown_path_is_not_found() {
    let server = TestServer::start().await;
    for path in ["/", "/payments", "/payment/", "/payment/1/2", "/PAYMENT", "/health", "/%ff"] {
        server.get(path).await.assert_problem(404, "not-found");
        server.request(Method::POST, path, &[], PAYMENT).await.assert_problem(404, "not-found");
    }
}

#[tokio::test]
async fn an_unsupported_method_is_refused_with_the_supported_ones() {
    let server = TestServer::start().await;
    let id = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    for (path, allow) in [
        ("/payment", "GET, HEAD, POST"),
        (&format!("/payment/{id}"), "GET, HEAD"),
        (&format!("/payment/{id}/refund"), "POST"),
        ("/problems", "GET, HEAD"),
        ("/problems/internal", "GET, HEAD"),
        ("/health/live", "GET, HEAD"),
        ("/health/ready", "GET, HEAD"),
    ] {
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW"] {
            let response = server.request(method.parse().unwrap(), path, &[], "").await;
            let allowed = allow.split(", ").any(|allowed| allowed == method);
            assert_eq!(response.status == 405, !allowed, "{method} {path}: {}", response.status);
            if !allowed {
                if method != "HEAD" {
                    response.assert_problem(405, "method-not-allowed");
                }
                assert_eq!(response.header("allow"), allow);
            }
        }
    }
}

#[tokio::test]
async fn every_problem_type_has_a_page_and_a_list_links_them() {
    let server = TestServer::start().await;
    for kind in Kind::ALL {
        let entry = kind.entry();
        let page = server.get(&format!("/problems/{}", entry.code)).await;
        assert_eq!((page.status, page.header("content-type")), (200, "text/html; charset=utf-8"));
        let retry = format!("\"retry\": {}", serde_json::json!(entry.retry));
        let code = format!("<code>{} {}</code>", entry.status.as_u16(), entry.code);
        for text in [&code, entry.advice, &retry] {
            assert_eq!(page.body.matches(text).count(), 1, "{text} in {}", page.body);
        }
        assert!(page.body.contains(&format!("<h1>{}</h1>", entry.title)));
        assert!(!page.body.contains('`'), "{}", page.body);
        for (link, path) in [("../problems", "/problems"), ("../docs", "/docs")] {
            assert!(page.body.contains(&format!("href=\"{link}\"")), "{link}");
            assert_eq!(server.get(path).await.status, 200);
        }
    }
    let list = server.get("/problems").await;
    assert_eq!((list.status, list.header("content-type")), (200, "text/html; charset=utf-8"));
    for kind in Kind::ALL {
        let link = format!("<a href=\"problems/{}\">{}</a>", kind.entry().code, kind.entry().title);
        assert!(list.body.contains(&link), "{link}");
    }
    server.get("/problems/no-such-problem").await.assert_problem(404, "not-found");
}

#[test]
fn every_problem_type_has_a_unique_code_an_error_status_and_complete_texts() {
    let mut codes: Vec<_> = Kind::ALL.iter().map(|kind| kind.entry().code).collect();
    codes.sort_unstable();
    codes.dedup();
    assert_eq!(codes.len(), Kind::ALL.len());
    // Client libraries repeat requests after 409, and never after 422.
    for (status, only) in [(409, Kind::KeyInFlight), (422, Kind::KeyReused)] {
        let kinds = Kind::ALL.into_iter().filter(|kind| kind.entry().status.as_u16() == status);
        assert_eq!(kinds.collect::<Vec<_>>(), [only]);
    }
    for kind in Kind::ALL {
        let entry = kind.entry();
        assert!(entry.status.is_client_error() || entry.status.is_server_error());
        assert_eq!(Kind::of_code(entry.code), Some(kind));
        assert!(entry.advice.ends_with('.') && !entry.title.ends_with('.'), "{}", entry.code);
        for text in [entry.title, entry.advice] {
            assert!(!text.contains("  ") && !text.contains('\n'), "{text}");
        }
    }
}

#[tokio::test]
async fn a_valid_request_id_is_returned_and_an_invalid_one_is_not() {
    let server = TestServer::start().await;
    let longest = "a".repeat(64);
    let too_long = "a".repeat(65);
    for (id, echoed) in [
        ("req-1.A_b", true),
        (longest.as_str(), true),
        (&too_long, false),
        ("a b", false),
        ("", false),
    ] {
        for path in ["/health/live", "/nowhere"] {
            let response = server.request(Method::GET, path, &[("x-request-id", id)], "").await;
            let echo = response.headers.get("x-request-id").map(|echo| echo.to_str().unwrap());
            assert_eq!(echo, echoed.then_some(id));
        }
    }
}

#[tokio::test]
async fn a_refused_request_leaves_its_connection_usable() {
    let server = TestServer::start().await;
    let json = "Content-Type: application/json\r\n";
    let mut wire = server.wire().await;
    for (head, status) in [
        (json, 400),
        ("", 415),
        ("Content-Type: text/plain\r\nIdempotency-Key: k\r\n", 415),
        ("Content-Type: application/json\r\nIdempotency-Key: a b\r\n", 400),
    ] {
        wire.send_payment(head, &" ".repeat(16_000)).await;
        assert_eq!(wire.status().await, status);
    }
    wire.send(format!(
        "POST /nowhere HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n{}",
        "x".repeat(9000)
    ))
    .await;
    assert_eq!(wire.status().await, 404);
    wire.send(format!(
        "PUT /payment HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n{}",
        "x".repeat(9000)
    ))
    .await;
    assert_eq!(wire.status().await, 405);
    wire.send(format!(
        "GET /health/live HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9000\r\n\r\n{}",
        "x".repeat(9000)
    ))
    .await;
    assert_eq!(wire.status().await, 200);
    wire.send_payment(&format!("{json}Idempotency-Key: k\r\n"), PAYMENT).await;
    assert_eq!(wire.status().await, 201);
}

#[tokio::test]
async fn no_response_has_cors_headers() {
    let server = TestServer::start().await;
    let headers = [("origin", "https://example.org"), ("access-control-request-method", "POST")];
    for (method, path) in [(Method::OPTIONS, "/payment"), (Method::GET, "/health/live")] {
        let response = server.request(method, path, &headers, "").await;
        assert!(response.headers.keys().all(|name| !name.as_str().starts_with("access-control")));
    }
}
