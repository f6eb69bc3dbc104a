//! Requests with an API key: authentication and its errors.

use std::collections::BTreeMap;

use payonce::accounts::ApiKey;
use payonce_testing::{
    PAYMENT, TestDatabase, TestServer,
    binary::Serve,
    client::{Response, Wire},
};
use reqwest::Method;

use crate::accounts::revocation::wait_until_refused;

/// Status, headers and body of a problem, without what differs in each one.
fn apart_from_instance(response: &Response) -> (u16, BTreeMap<String, String>, String) {
    let headers = response.headers.iter().filter(|(name, _)| *name != "date");
    let headers =
        headers.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    (response.status, headers.collect(), response.body.replace(&response.field("instance"), ""))
}

pub(crate) fn assert_unauthorized(response: &Response, challenge: &str) {
    response.assert_problem(401, "unauthorized");
    assert_eq!(response.header("www-authenticate"), challenge);
}

const INVALID: &str = "Bearer error=\"invalid_token\"";

#[tokio::test]
async fn a_payment_belongs_to_the_account_of_its_api_key() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let taken = ada.pay("k", PAYMENT).await;
    assert_eq!(taken.status, 201);
    assert_eq!(ada.get(taken.header("location")).await.status, 200);
    let of_ada = format!("SELECT count(*) FROM payments WHERE account_id = '{}'", ada.id);
    assert_eq!(server.database.number(&of_ada).await, 1);
}

#[tokio::test]
async fn an_api_key_works_as_soon_as_it_is_shown() {
    let server = TestServer::start().await;
    let other = server.another().await;
    for name in ["one", "two", "three"] {
        server.database.operate(&["account", "create", name, "--json"]);
        let key = server.database.create_api_key(name);
        let key = format!("Bearer {}", key["api_key"].as_str().unwrap());
        for server in [&server, &other] {
            assert_eq!(server.showing(&key).get("/payment/x").await.status, 404);
        }
    }
}

#[tokio::test]
async fn the_authorization_scheme_is_case_insensitive() {
    let server = TestServer::start().await;
    let key = server.account("ada").await.api_key.clone();
    for scheme in ["Bearer", "bearer", "BEARER", "Bearer  "] {
        let response = server.showing(&format!("{scheme} {key}")).get("/payment/x").await;
        assert_eq!(response.status, 404, "{scheme}");
    }
}

#[tokio::test]
async fn unknown_malformed_and_revoked_keys_get_the_same_response() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let revoked = ada.api_key.clone();
    server.database.revoke(&ada.api_key_id);
    wait_until_refused(&ada).await;
    let unknown = ApiKey::generate().unwrap();
    let unknown = unknown.reveal();
    let mut responses = Vec::new();
    for key in [
        unknown,
        &revoked,
        &revoked[..79],
        &format!("{revoked}0"),
        "payonce_",
        "secret",
        "a b",
        "caf\u{e9}",
    ] {
        let client = server.showing(&format!("Bearer {key}"));
        for response in [client.pay("k", PAYMENT).await, client.get("/payment/x").await] {
            assert_unauthorized(&response, INVALID);
            assert!(!response.body.contains(key), "{}", response.body);
        }
        responses.push(client.get("/payment/x").await);
    }
    for response in &responses {
        assert_eq!(apart_from_instance(response), apart_from_instance(&responses[0]));
    }
    let mut wire = server.wire().await;
    wire.send(format!(
        "GET /payment/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {unknown}\r\n\
         Authorization: Bearer {unknown}\r\n\r\n"
    ))
    .await;
    let (head, _) = wire.response().await.unwrap();
    assert!(head.starts_with("http/1.1 401") && head.contains("invalid_token"), "{head}");
}

#[tokio::test]
async fn a_request_without_an_api_key_is_told_how_to_send_one() {
    let server = TestServer::start().await;
    server.account("ada").await;
    let basic = server.showing("Basic YTpi");
    let nothing = server.showing("Bearer");
    let responses = [
        server.get("/payment/x").await,
        basic.get("/payment/x").await,
        nothing.get("/payment/x").await,
    ];
    for response in responses {
        // RFC 6750 §3.1: no error code where no token was sent.
        assert_unauthorized(&response, "Bearer");
        assert!(response.field("detail").contains("Authorization: Bearer"), "{}", response.body);
    }
}

#[tokio::test]
async fn authentication_comes_after_routing_and_before_everything_else() {
    let server = TestServer::start().await;
    server.account("ada").await;
    let wrong = server.showing("Bearer wrong");
    for client in [&wrong, &server.showing("Basic YTpi")] {
        client.get("/nowhere").await.assert_problem(404, "not-found");
        let response = client.request(Method::DELETE, "/payment", &[], "").await;
        response.assert_problem(405, "method-not-allowed");
        for (headers, body) in [
            (&[("content-type", "text/plain")][..], PAYMENT),
            (&[("content-type", "application/json")], PAYMENT),
            (&[("content-type", "application/json"), ("idempotency-key", "a b")], PAYMENT),
            (&[("content-type", "application/json"), ("idempotency-key", "k")], "{"),
            (
                &[("content-type", "application/json"), ("idempotency-key", "k")],
                &" ".repeat(20_000),
            ),
        ] {
            let response = client.request(Method::POST, "/payment", headers, body).await;
            response.assert_problem(401, "unauthorized");
        }
    }
    assert_eq!(wrong.pay("\"order-7\"", PAYMENT).await.header("idempotency-key"), "\"order-7\"");
}

#[tokio::test]
async fn public_routes_need_no_api_key() {
    let server = TestServer::start().await;
    server.account("ada").await;
    for client in [server.showing("Bearer wrong"), server.showing("Basic YTpi")] {
        for path in ["/health/live", "/health/ready", "/problems/unauthorized"] {
            assert_eq!((client.get(path).await.status, server.get(path).await.status), (200, 200));
        }
    }
}

#[tokio::test]
async fn an_unauthorized_request_leaves_its_connection_usable() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let mut wire = server.wire().await;
    let json = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    for wrong in ["wrong", ApiKey::generate().unwrap().reveal()] {
        let head = format!("Authorization: Bearer {wrong}\r\n{json}");
        wire.send_payment(&head, &" ".repeat(16_000)).await;
        assert_eq!(wire.status().await, 401);
    }
    wire.send_payment(&format!("Authorization: Bearer {}\r\n{json}", ada.api_key), PAYMENT).await;
    assert_eq!(wire.status().await, 201);
}

#[tokio::test]
async fn no_log_contains_an_api_key() {
    let database = TestDatabase::create().await;
    let variables = [("RUST_LOG", "trace,sqlx=warn,mio=warn,actix_http=warn")];
    let mut serve = Serve::start(&database.options, &variables);
    let key = database.create_api_key("default");
    let key = key["api_key"].as_str().unwrap();
    let unknown = ApiKey::generate().unwrap();
    let mut wire = Wire::connect(serve.address).await;
    for (key, status) in [(key, 201), (unknown.reveal(), 401), ("payonce_malformed", 401)] {
        let head = format!(
            "Authorization: Bearer {key}\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n"
        );
        wire.send_payment(&head, PAYMENT).await;
        assert_eq!(wire.status().await, status);
    }
    let log = serve.wait_for("unauthorized method=POST route=/payment");
    for secret in [&key[8..30], &unknown.reveal()[8..30], "malformed"] {
        assert!(!log.contains(secret), "{log}");
    }
}
