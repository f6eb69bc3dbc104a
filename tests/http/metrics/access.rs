//! Who may read `/metrics`.

use payonce_testing::{
    TestDatabase, TestServer, binary::Serve, client::Client, metrics::Sample, wait::until,
};
use reqwest::Method;

#[tokio::test]
async fn only_programs_on_this_machine_can_read_metrics_by_default() {
    let server = TestServer::start().await;
    let unseen = server.get("/nothing").await;
    let address = server.address.to_string();
    for (header, value) in [
        ("x-forwarded-for", "10.0.0.1"),
        ("cf-connecting-ip", "10.0.0.1"),
        ("via", "1.1 proxy"),
        ("host", "payonce.example"),
    ] {
        let response = server.request(Method::GET, "/metrics", &[(header, value)], "").await;
        response.assert_problem(404, "not-found");
        assert_eq!(response.field("detail"), unseen.field("detail"));
        let response = server.request(Method::POST, "/metrics", &[(header, value)], "").await;
        response.assert_problem(404, "not-found");
        assert_eq!(response.header("allow"), "");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let response = server.request(method.parse().unwrap(), "/metrics", &[], "").await;
        response.assert_problem(405, "method-not-allowed");
        assert_eq!(response.header("allow"), "GET, HEAD");
    }
    let head = server.request(Method::HEAD, "/metrics", &[("host", &address)], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn nobody_can_read_metrics_by_default_once_there_are_api_keys() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/metrics").await.status, 200);
    server.database.create_api_key("default");
    until("/metrics is closed", async || server.get("/metrics").await.status != 200).await;
    let response = server.get("/metrics").await;
    response.assert_problem(404, "not-found");
    assert!(response.field("detail").contains("METRICS_TOKEN"), "{}", response.body);
    server.request(Method::POST, "/metrics", &[], "").await.assert_problem(404, "not-found");

    let start = |variables| Serve::start(&server.database.options, variables);
    start(&[]).wait_for("/metrics is not served");
    let serve = start(&[("METRICS_TOKEN", "sesame")]);
    let shown = [("authorization", "Bearer sesame")];
    let response = client(serve.address).request(Method::GET, "/metrics", &shown, "").await;
    assert_eq!(response.status, 200);
}

#[tokio::test]
async fn a_metrics_token_is_required_where_one_is_set() {
    let database = TestDatabase::create().await;
    let variables = [("METRICS_TOKEN", "sesame"), ("RUST_LOG", "info,payonce=trace")];
    let mut serve = Serve::start(&database.options, &variables);
    let client = client(serve.address);
    let get =
        async |headers: &[(&str, &str)]| client.request(Method::GET, "/metrics", headers, "").await;
    for wrong in [&[][..], &[("authorization", "Bearer sesam")], &[("authorization", "sesame")]] {
        let response = get(wrong).await;
        response.assert_problem(401, "unauthorized");
        assert_eq!(response.header("www-authenticate"), "Bearer");
    }
    let through_a_proxy = [("authorization", "Bearer sesame"), ("via", "1.1 proxy")];
    assert_eq!(get(&through_a_proxy).await.status, 200);
    for (headers, status) in [(&[][..], 401), (&through_a_proxy, 405)] {
        let response = client.request(Method::DELETE, "/metrics", headers, "").await;
        assert_eq!(response.status, status, "{}", response.body);
    }
    serve.signal("TERM");
    let (_, log) = serve.wait();
    assert!(log.contains("/metrics") && !log.contains("sesame"), "{log}");
}

#[tokio::test]
async fn metrics_with_an_address_of_their_own_are_served_only_there() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("METRICS_ADDRESS", "127.0.0.1:0")]);
    let log = serve.wait_for("/metrics is served at http://");
    let line = log.lines().find(|line| line.contains("/metrics is served at ")).unwrap();
    let second = client(line.rsplit("http://").next().unwrap().parse().unwrap());
    let through_a_proxy = [("via", "1.1 proxy"), ("host", "payonce.example")];
    let response = second.request(Method::GET, "/metrics", &through_a_proxy, "").await;
    assert_eq!(response.status, 200);
    second.get("/payment").await.assert_problem(404, "not-found");
    client(serve.address).get("/metrics").await.assert_problem(404, "not-found");
    let sample = Sample::of(&second).await;
    sample
        .assert("payonce_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\"}", 1);
}

fn client(address: std::net::SocketAddr) -> Client {
    Client { address, http: reqwest::Client::builder().no_proxy().build().unwrap() }
}
