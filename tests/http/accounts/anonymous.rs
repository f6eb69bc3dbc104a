//! Requests without an API key, which are accepted only from this machine.

use payonce_testing::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    binary::Serve,
    client::{Response, Wire},
};
use reqwest::Method;

async fn get(server: &TestServer, headers: &[(&str, &str)]) -> Response {
    server.request(Method::GET, "/payment/x", headers, "").await
}

/// Asserts that the request was refused because it was anonymous, with this reason.
#[track_caller]
pub(crate) fn assert_refused(response: &Response, why: &str) {
    response.assert_problem(401, "unauthorized");
    assert_eq!(response.header("www-authenticate"), "Bearer");
    let detail = response.field("detail");
    assert!(detail.contains(why) && detail.contains("payonce api-key create"), "{detail}");
}

#[tokio::test]
async fn anonymous_requests_act_for_the_default_account() {
    let server = TestServer::start().await;
    let taken = server.pay("k", PAYMENT).await;
    assert_eq!(taken.status, 201);
    let key = server.database.create_api_key("default");
    let client = server.showing(&format!("Bearer {}", key["api_key"].as_str().unwrap()));
    assert_eq!(client.pay("k", PAYMENT).await.body, taken.body);
    assert_eq!(client.get(taken.header("location")).await.status, 200);
}

#[tokio::test]
async fn an_anonymous_request_has_a_loopback_host() {
    let server = TestServer::start().await;
    for host in
        ["localhost", "localhost:5000", "LOCALHOST", "127.0.0.1", "127.9.9.9:1", "[::1]:5000"]
    {
        assert_eq!(get(&server, &[("host", host)]).await.status, 404, "{host}");
    }
    for host in ["example.org", "localhost.example.org:5000", "10.0.0.1", "0.0.0.0", "[::2]", ""] {
        let response = get(&server, &[("host", host)]).await;
        assert_refused(&response, "the Host header names something else");
    }
    for head in [
        "GET /payment/x HTTP/1.0\r\n",
        "GET http://example.org/payment/x HTTP/1.1\r\nHost: localhost\r\n",
        "GET /payment/x HTTP/1.1\r\nHost: localhost\r\nHost: example.org\r\n",
    ] {
        let mut wire = server.wire().await;
        wire.send(format!("{head}\r\n")).await;
        let status = wire.status().await;
        assert!([400, 401].contains(&status), "{head}: {status}");
    }
    assert_refused(
        &server
            .request(
                Method::POST,
                "/payment",
                &[
                    ("host", "example.org"),
                    ("content-type", "application/json"),
                    ("idempotency-key", "k"),
                ],
                PAYMENT,
            )
            .await,
        "the Host header",
    );
    assert_eq!(server.database.payments().await, 0);
}

#[tokio::test]
async fn an_anonymous_request_has_no_proxy_headers() {
    let server = TestServer::start().await;
    for header in [
        "forwarded",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "X-Forwarded-Anything",
        "via",
        "x-real-ip",
        "cf-connecting-ip",
        "True-Client-IP",
        "x-envoy-external-address",
    ] {
        assert_refused(&get(&server, &[(header, "127.0.0.1")]).await, "must not pass a proxy");
    }
}

#[tokio::test]
async fn a_request_through_nginx_with_its_default_configuration_is_not_anonymous() {
    let server = TestServer::start().await;
    let mut wire = server.wire().await;
    wire.send(format!(
        "POST /payment HTTP/1.0\r\nHost: 127.0.0.1:5000\r\nConnection: close\r\nContent-Length: {}\r\n\
         Content-Type: application/json\r\nIdempotency-Key: k\r\n\r\n{PAYMENT}",
        PAYMENT.len()
    ))
    .await;
    let (head, body) = wire.response().await.unwrap();
    assert!(head.contains(" 401 ") && head.contains("www-authenticate: bearer"), "{head}");
    assert!(body.contains("came by HTTP/1.0") && body.contains("payonce api-key create"), "{body}");
    assert_eq!(server.database.payments().await, 0);
    // With an API key a proxy is allowed.
    let key = server.database.create_api_key("default");
    let mut wire = server.wire().await;
    let key = key["api_key"].as_str().unwrap();
    wire.send(format!(
        "GET /payment/x HTTP/1.0\r\nHost: 127.0.0.1:5000\r\nAuthorization: Bearer {key}\r\n\r\n"
    ))
    .await;
    assert_eq!(wire.status().await, 404);
}

#[tokio::test]
async fn an_anonymous_request_arrives_at_a_loopback_address() {
    for host in ["0.0.0.0", "::"] {
        let server = TestServer::start_with(&["--host", host]).await;
        let address = format!("127.0.0.1:{}", server.address.port());
        let mut wire = Wire::connect(address.parse().unwrap()).await;
        wire.send("GET /payment/x HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        let (head, body) = wire.response().await.unwrap();
        assert!(head.starts_with("http/1.1 401"), "{host}: {head}");
        assert!(
            body.contains("HOST=127.0.0.1") && body.contains("ANONYMOUS_ACCESS=true"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn anonymous_access_can_be_opened_to_everybody() {
    let server = TestServer::start_with(&["--host", "0.0.0.0", "--anonymous-access", "true"]).await;
    let mut wire =
        Wire::connect(format!("127.0.0.1:{}", server.address.port()).parse().unwrap()).await;
    wire.send_payment(
        "X-Forwarded-For: 192.0.2.1\r\nVia: 1.1 proxy\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n",
        PAYMENT,
    )
    .await;
    assert_eq!(wire.status().await, 201);
    wire.send("GET /payment/x HTTP/1.1\r\nHost: example.org\r\n\r\n").await;
    assert_eq!(wire.status().await, 404);
}

#[tokio::test]
async fn a_web_page_of_another_origin_has_no_anonymous_access() {
    for access in ["loopback", "true"] {
        let server = TestServer::start_with(&["--anonymous-access", access]).await;
        let port = server.address.port();
        let own = format!("127.0.0.1:{port}");
        let pay = async |host: &str, origins: &[&str]| {
            let headers =
                [("host", host), ("content-type", "application/json"), ("idempotency-key", "k")];
            let origins = origins.iter().map(|origin| ("origin", *origin));
            let headers: Vec<_> = headers.into_iter().chain(origins).collect();
            server.request(Method::POST, "/payment", &headers, PAYMENT).await
        };
        let of_own = format!("http://{own}");
        for origins in [
            &["http://example.org"][..],
            &["null"],
            &[""],
            &["http://127.0.0.1"],
            &["http://localhost:3000"],
            &[&own],
            &[&of_own, "http://example.org"],
        ] {
            assert_refused(&pay(&own, origins).await, "Origin header");
        }
        if access == "true" {
            // A name that an attacker resolves to this server (DNS rebinding).
            let rebound = format!("example.org:{port}");
            let refused = pay(&rebound, &[&format!("http://{rebound}")]).await;
            assert_refused(&refused, "Origin header");
        }
        assert_eq!(server.database.payments().await, 0);
        // As /docs sends it.
        for host in [own, format!("localhost:{port}"), format!("[::1]:{port}")] {
            let response = pay(&host, &[&format!("http://{host}")]).await;
            assert!(response.status < 300, "{host}: {}", response.body);
        }
        assert_eq!(server.database.payments().await, 1);
    }
}

#[tokio::test]
async fn a_web_page_of_another_origin_may_use_an_api_key() {
    let server = TestServer::start().await;
    let key = server.database.create_api_key("default");
    let authorization = format!("Bearer {}", key["api_key"].as_str().unwrap());
    let headers = [("authorization", authorization.as_str()), ("origin", "http://example.org")];
    assert_eq!(get(&server, &headers).await.status, 404);
}

#[tokio::test]
async fn a_server_open_to_everybody_logs_a_warning() {
    let database = TestDatabase::create().await;
    let warning = "ANONYMOUS_ACCESS is true";
    Serve::start(&database.options, &[("ANONYMOUS_ACCESS", "true")]).wait_for(warning);
    let mut default = Serve::start(&database.options, &[]);
    default.wait_for("/docs");
    assert!(!default.log().contains(warning), "{}", default.log());
}

#[tokio::test]
async fn anonymous_access_can_be_switched_off() {
    let server = TestServer::start_with(&["--anonymous-access", "false"]).await;
    assert_refused(&get(&server, &[]).await, "ANONYMOUS_ACCESS=false");
    assert_refused(&server.pay("k", PAYMENT).await, "ANONYMOUS_ACCESS=false");
    assert_refused(&server.refund("x", "k", REMAINING).await, "ANONYMOUS_ACCESS=false");
    assert_eq!(server.get("/health/ready").await.status, 200);
}

#[tokio::test]
async fn an_invalid_authorization_is_refused_where_anonymous_access_is_open() {
    for access in ["loopback", "true"] {
        let server = TestServer::start_with(&["--anonymous-access", access]).await;
        for authorization in [
            "Bearer payonce_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f6c86c6aa",
            "Bearer wrong",
            "Bearer",
            "Basic YTpi",
            "",
        ] {
            let response = get(&server, &[("authorization", authorization)]).await;
            response.assert_problem(401, "unauthorized");
        }
        assert_eq!(get(&server, &[]).await.status, 404);
    }
}
