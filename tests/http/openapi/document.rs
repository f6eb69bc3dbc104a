//! The OpenAPI description agrees with the routes and with real responses; the page at `/docs`.

use std::collections::{BTreeMap, BTreeSet};

use payonce::{http::problem::Kind, openapi::page::FILES};
use payonce_testing::{PAYMENT, REMAINING, TestServer, database::take_lock};
use reqwest::Method;
use serde_json::json;

use crate::openapi::checked::Description;

const EXPIRE: &str =
    "UPDATE idempotency_responses SET replayable_until = now() - interval '1 second'";

async fn described(server: &TestServer) -> Description {
    Description(server.get("/openapi.json").await.json())
}

#[tokio::test]
async fn the_description_in_the_repository_is_up_to_date() {
    let server = TestServer::start().await;
    let served = server.get("/openapi.json").await;
    assert_eq!((served.status, served.header("content-type")), (200, "application/json"));
    let kept = std::fs::read_to_string("docs/openapi.json").unwrap_or_default();
    assert!(
        served.body == kept,
        "start payonce, and remake it:  curl -s http://127.0.0.1:5000/openapi.json -o docs/openapi.json"
    );
}

#[tokio::test]
async fn the_description_contains_exactly_the_routes() {
    let server = TestServer::start().await;
    let description = described(&server).await;
    let mut said = BTreeMap::<&str, BTreeSet<String>>::new();
    for (path, method, _) in description.operations() {
        let methods = said.entry(path).or_default();
        methods.insert(method.to_uppercase());
        methods.extend((method == "get").then(|| "HEAD".to_owned()));
    }
    // Only readers of metrics learn its methods: tests/http/metrics/access.rs.
    let metrics = said.remove("/metrics").unwrap();
    assert_eq!(metrics, BTreeSet::from(["GET".to_owned(), "HEAD".to_owned()]));
    assert!(include_str!("../../../src/routes.rs").contains("web::resource(\"/metrics\")"));
    let routes = include_str!("../../../src/routes.rs").replace("web::resource(", "");
    let routes = routes.split("resource(").skip(1).filter_map(|call| {
        let mut texts = call.split('"').skip(1).step_by(2);
        call.trim_start().starts_with('"').then(|| (texts.next().unwrap(), texts.next().unwrap()))
    });
    let routes: BTreeMap<&str, BTreeSet<String>> = routes
        .map(|(path, allow)| (path, allow.split(", ").map(str::to_owned).collect()))
        .collect();
    assert_eq!(said, routes);
    for (path, methods) in said {
        let response = server.request(Method::PUT, &path.replace(['{', '}'], ""), &[], "").await;
        response.assert_problem(405, "method-not-allowed");
        let allowed: BTreeSet<String> =
            response.header("allow").split(", ").map(str::to_owned).collect();
        assert_eq!(allowed, methods, "{path}");
    }
}

#[tokio::test]
async fn every_problem_is_described_under_its_status() {
    let server = TestServer::start().await;
    let description = described(&server).await;
    let unrouted = &description.0["components"]["responses"]["MethodNotAllowed"];
    let mut said = vec![("405".to_owned(), unrouted)];
    for (_, _, operation) in description.operations() {
        let responses = operation["responses"].as_object().unwrap();
        said.extend(responses.iter().map(|(status, response)| (status.clone(), response)));
    }
    let mut codes = BTreeSet::new();
    for (status, response) in said {
        let problem = &response["content"]["application/problem+json"];
        for code in problem["examples"].as_object().into_iter().flat_map(|examples| examples.keys())
        {
            let kind = Kind::of_code(code).unwrap();
            assert_eq!(kind.entry().status.as_str(), status, "{code}");
            codes.insert(code.clone());
        }
    }
    assert_eq!(codes, Kind::ALL.iter().map(|kind| kind.entry().code.to_owned()).collect());
}

#[tokio::test]
async fn every_example_matches_its_schema() {
    let server = TestServer::start().await;
    let description = described(&server).await;
    let mut examples = 0;
    for (path, method, operation) in description.operations() {
        let responses = operation["responses"].as_object().unwrap().values();
        for said in responses.chain(operation.get("requestBody")) {
            for (_, content) in description.resolved(said)["content"].as_object().unwrap() {
                let several =
                    content["examples"].as_object().into_iter().flat_map(|all| all.values());
                let several = several.map(|example| &description.resolved(example)["value"]);
                for example in several.chain(content.get("example")) {
                    description.check(&content["schema"], example, &format!("{method} {path}"));
                    examples += 1;
                }
            }
        }
    }
    assert!(examples > 80, "{examples}");
}

#[tokio::test]
async fn responses_match_the_description() {
    let server = TestServer::start_with(&["--in-flight-wait", "200ms"]).await;
    let description = described(&server).await;
    let json = ("content-type", "application/json");
    let (pay, refund) = ("/payment", "/payment/{transaction_id}/refund");

    let first = server.pay("k", r#"{"user_id": "u", "amount": 100, "currency": "EUR"}"#).await;
    let id = first.field("transaction_id");
    let mut responses = vec![("post", pay, 201, first)];
    let again = server.pay("k", r#"{"user_id": "u", "amount": 100, "currency": "EUR"}"#).await;
    responses.push(("post", pay, 200, again));
    responses.push(("post", pay, 422, server.pay("k", PAYMENT).await));
    responses.push(("post", pay, 400, server.pay("a b", PAYMENT).await));
    responses.push(("post", pay, 400, server.pay("free", "{").await));
    responses.push(("post", pay, 400, server.pay("free", r#"{"user_id": "", "x": 1}"#).await));
    responses.push(("post", pay, 413, server.pay("free", &" ".repeat(16_385)).await));
    let untyped = server.request(Method::POST, pay, &[("idempotency-key", "free")], PAYMENT).await;
    responses.push(("post", pay, 415, untyped));
    let unnamed = server.request(Method::POST, pay, &[json], PAYMENT).await;
    responses.push(("post", pay, 400, unnamed));

    for (status, key, body) in [
        (201, "r", r#"{"amount": 40}"#),
        (200, "r", r#"{"amount": 40}"#),
        (402, "r2", r#"{"amount": 61}"#),
        (402, "r2", r#"{"amount": 61}"#),
        (422, "r", REMAINING),
        (400, "free", "{}"),
        (400, "free", r#"{"amount": 0}"#),
    ] {
        responses.push(("post", refund, status, server.refund(&id, key, body).await));
    }
    let nobody = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    responses.push(("post", refund, 404, server.refund(nobody, "r3", REMAINING).await));
    responses.push(("post", refund, 404, server.refund("x", "free", REMAINING).await));

    for (status, key) in [(200, "k"), (200, "r2"), (200, "free"), (400, "\"")] {
        let headers = [("idempotency-key", key), ("x-request-id", "a.B-1")];
        let path = "/idempotency-key";
        let shown = server.request(Method::GET, path, &headers, "").await;
        responses.push(("get", path, status, shown));
        let path = "/idempotency-key/void";
        let voided = server.request(Method::POST, path, &headers, "").await;
        responses.push(("post", path, status, voided));
    }
    responses.push(("post", pay, 410, server.pay("free", PAYMENT).await));
    responses.push(("post", pay, 201, server.pay("old", PAYMENT).await));
    server.database.execute(EXPIRE).await;
    responses.push(("post", pay, 410, server.pay("old", PAYMENT).await));

    for (status, template, path) in [
        (200, "/payment", "/payment?limit=1"),
        (400, "/payment", "/payment?limit=0"),
        (200, "/payment/{transaction_id}", &format!("/payment/{id}")),
        (404, "/payment/{transaction_id}", "/payment/x"),
        (200, "/idempotency-policy", "/idempotency-policy"),
        (200, "/problems", "/problems"),
        (200, "/problems/{code}", "/problems/internal"),
        (404, "/problems/{code}", "/problems/x"),
        (200, "/health/live", "/health/live"),
        (200, "/health/ready", "/health/ready"),
        (200, "/docs", "/docs"),
        (200, "/docs/{file}", "/docs/start.js"),
        (404, "/docs/{file}", "/docs/swagger-initializer.js"),
    ] {
        responses.push(("get", template, status, server.get(path).await));
    }
    let closed = server.showing("Bearer x");
    responses.push(("get", pay, 401, closed.get(pay).await));
    responses.push(("post", pay, 401, closed.pay("k", PAYMENT).await));
    let mut holder = server.database.connect().await;
    let hold = format!("BEGIN; {}", take_lock("held"));
    sqlx::raw_sql(sqlx::AssertSqlSafe(hold)).execute(&mut holder).await.unwrap();
    responses.push(("post", pay, 409, server.pay("held", PAYMENT).await));
    server.database.execute("ALTER TABLE payments RENAME TO elsewhere").await;
    responses.push(("post", pay, 500, server.pay("broken", PAYMENT).await));

    for (method, path, status, response) in &responses {
        assert_eq!(response.status, *status, "{method} {path}: {}", response.body);
        description.assert_says(method, path, response);
    }
}

#[tokio::test]
async fn the_policy_shows_the_running_configuration() {
    let server = TestServer::start().await;
    let policy = server.get("/idempotency-policy").await;
    let description = described(&server).await;
    let example = &description.0["paths"]["/idempotency-policy"]["get"]["responses"]["200"]["content"]
        ["application/json"]["example"];
    let mut expected = example.clone();
    expected["detail"] = policy.json()["detail"].clone();
    assert_eq!(policy.json(), expected, "the defaults");

    let flags =
        ["--idempotency-response-ttl=1h", "--idempotency-key-ttl=48h", "--in-flight-wait=500ms"];
    let more = ["--request-deadline=3s", "--idempotency-replay-status=original"];
    let server = TestServer::start_with(&[&flags[..], &more].concat()).await;
    let policy = server.get("/idempotency-policy").await.json();
    for (member, value) in [
        ("responses_replayable_seconds", json!(3600)),
        ("keys_kept_seconds", json!(172_800)),
        ("in_flight_wait_seconds", json!(0.5)),
        ("request_deadline_seconds", json!(3)),
        ("replay_status_of_201", json!(201)),
    ] {
        assert_eq!(policy[member], value, "{member}");
    }
    let detail = policy["detail"].as_str().unwrap();
    assert!(detail.contains("for 1h") && detail.contains("for 2days"), "{detail}");
}

#[tokio::test]
async fn the_description_needs_no_api_key_and_supports_head() {
    let server = TestServer::start_with(&["--anonymous-access", "false"]).await;
    server.get("/payment").await.assert_problem(401, "unauthorized");
    for path in ["/idempotency-policy", "/openapi.json", "/docs", "/docs/start.js"] {
        let (get, head) =
            (server.get(path).await, server.request(Method::HEAD, path, &[], "").await);
        assert_eq!((get.status, head.status, head.body.as_str()), (200, 200, ""), "{path}");
        assert_eq!(get.header("content-type"), head.header("content-type"));
    }
}

#[tokio::test]
async fn the_page_loads_nothing_from_elsewhere() {
    let server = TestServer::start().await;
    let page = server.get("/docs").await;
    assert_eq!(page.header("content-type"), "text/html; charset=utf-8");
    let policy: BTreeMap<&str, &str> = page
        .header("content-security-policy")
        .split("; ")
        .map(|directive| directive.split_once(' ').unwrap())
        .collect();
    assert_eq!(policy["default-src"], "'none'");
    for (directive, sources) in policy {
        assert!(["'none'", "'self'", "'self' data:"].contains(&sources), "{directive} {sources}");
    }
    let mut named: Vec<&str> =
        page.body.split("\"docs/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    named.sort_unstable();
    assert_eq!(named, FILES);
    assert!(!page.body.contains("//"), "{}", page.body);
    for file in FILES {
        let url = format!("http://{}/docs/{file}", server.address);
        let response = server.http.get(url).send().await.unwrap();
        let expected = if file.contains(".css") { "text/css" } else { "text/javascript" };
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-type"]),
            (200, &expected.parse().unwrap())
        );
        assert!(!response.bytes().await.unwrap().is_empty());
    }
}
