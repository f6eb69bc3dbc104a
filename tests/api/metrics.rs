//! What is counted, and who may read it.

use std::{collections::BTreeMap, process::Stdio, sync::Arc};

use reqwest::Method;

use crate::support::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    binary::Serve,
    client::Client,
    proxy::{Fault, Proxy, Step},
    wait::until,
};

/// The metrics as they are served, by name and labels.
pub struct Sample(BTreeMap<String, f64>);

impl Sample {
    pub async fn of(client: &Client) -> Self {
        Self::read(&text(client).await)
    }

    fn read(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let samples = lines.map(|line| line.rsplit_once(' ').unwrap());
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// What stands there; 0 where there is nothing.
    pub fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    #[track_caller]
    pub fn assert(&self, name: &str, value: u32) {
        assert!((self.get(name) - f64::from(value)).abs() < f64::EPSILON, "{name}: {:#?}", self.0);
    }

    /// How often a batch has come to this step.
    pub fn batch_steps(&self, step: &str) -> u64 {
        let name = format!("payonce_batch_step_duration_seconds_count{{step=\"{step}\"}}");
        format!("{:.0}", self.get(&name)).parse().unwrap()
    }

    pub fn outcome(&self, operation: &str, outcome: &str) -> f64 {
        self.get(&format!(
            "payonce_keyed_requests_total{{operation=\"{operation}\",outcome=\"{outcome}\"}}"
        ))
    }
}

/// Waits until a metric is at least this.
pub async fn reaches(client: &Client, name: &str, value: u32) {
    becomes(client, name, |current| current >= f64::from(value)).await;
}

/// Waits until a metric is as it should be.
pub async fn becomes(client: &Client, name: &str, right: impl Fn(f64) -> bool) {
    until(name, async || right(Sample::of(client).await.get(name))).await;
}

async fn text(client: &Client) -> String {
    let answer = client.get("/metrics").await;
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "text/plain; version=0.0.4");
    answer.body
}

/// A server that has answered something of most kinds.
async fn busy() -> TestServer {
    let server = TestServer::start().await;
    let payment = server.paid("a", 100).await;
    server.pay("a", r#"{"user_id": "user_1", "amount": 100}"#).await;
    server.pay("yen", r#"{"user_id": "user_1", "amount": 7, "currency": "JPY"}"#).await;
    server.pay("yen", r#"{"user_id": "user_1", "amount": 200}"#).await;
    server.refund(&payment, "b", r#"{"amount": 40}"#).await;
    server.refund(&payment, "c", r#"{"amount": 400}"#).await;
    server.refund(&payment, "c", r#"{"amount": 400}"#).await;
    let headers = [("idempotency-key", "d")];
    server.request(Method::POST, "/idempotency-key/void", &headers, "").await;
    server.pay("d", PAYMENT).await;
    server
}

#[tokio::test]
async fn each_outcome_counts_where_it_should() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    for (operation, outcome, count) in [
        ("pay", "new", 2),
        ("pay", "replayed", 1),
        ("pay", "reused", 1),
        ("pay", "voided", 1),
        ("pay", "refused", 0),
        ("refund", "new", 1),
        ("refund", "refused", 1),
        ("refund", "replayed", 1),
        ("void", "new", 1),
    ] {
        let counted = sample.outcome(operation, outcome);
        assert!((counted - f64::from(count)).abs() < 0.5, "{operation} {outcome}: {counted}");
    }
}

#[tokio::test]
async fn an_answer_that_is_kept_no_longer_counts_as_expired() {
    let server = TestServer::start().await;
    server.pay("a", PAYMENT).await;
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    assert_eq!(server.pay("a", PAYMENT).await.status, 410);
    assert!((Sample::of(&server).await.outcome("pay", "expired") - 1.0).abs() < 0.5);
}

#[tokio::test]
async fn money_is_counted_by_currency_and_a_replay_as_a_duplicate_avoided() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    for (name, value) in [
        ("payonce_payments_total{currency=\"USD\"}", 1),
        ("payonce_payments_total{currency=\"JPY\"}", 1),
        ("payonce_payments_amount_minor_units_total{currency=\"USD\"}", 100),
        ("payonce_payments_amount_minor_units_total{currency=\"JPY\"}", 7),
        ("payonce_duplicate_payments_avoided_total{currency=\"USD\"}", 1),
        ("payonce_duplicate_payments_avoided_amount_minor_units_total{currency=\"USD\"}", 100),
        ("payonce_duplicate_payments_avoided_total{currency=\"JPY\"}", 0),
        // The one that is refused counts among the refused alone.
        ("payonce_refunds_total{currency=\"USD\"}", 1),
        ("payonce_refunds_amount_minor_units_total{currency=\"USD\"}", 40),
        ("payonce_refunds_total{currency=\"JPY\"}", 0),
    ] {
        sample.assert(name, value);
    }
}

#[tokio::test]
async fn a_refund_counts_in_the_currency_of_its_payment_with_what_it_came_to() {
    let server = TestServer::start_with(&["--default-currency", "EUR"]).await;
    let euros = server.paid("a", 100).await;
    let yen = server.pay("yen", r#"{"user_id": "user_1", "amount": 7, "currency": "JPY"}"#).await;
    let yen = yen.member("transaction_id");
    server.refund(&euros, "b", r#"{"amount": 40}"#).await;
    // All that is left, which nobody names; and copies of it, which give back nothing.
    for _ in 0..2 {
        server.refund(&euros, "c", REMAINING).await;
        server.refund(&yen, "d", REMAINING).await;
    }
    let sample = Sample::of(&server).await;
    for (name, value) in [
        ("payonce_refunds_total{currency=\"EUR\"}", 2),
        ("payonce_refunds_amount_minor_units_total{currency=\"EUR\"}", 100),
        ("payonce_refunds_total{currency=\"JPY\"}", 1),
        ("payonce_refunds_amount_minor_units_total{currency=\"JPY\"}", 7),
    ] {
        sample.assert(name, value);
    }
}

#[tokio::test]
async fn a_refund_counts_once_though_its_batch_is_run_again_or_its_commit_found_out_later() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let server = TestServer::start_through(&database, &options, &[]).await;
    let payment = server.paid("a", 100).await;
    for (key, step) in [("b", Step::Remembered), ("c", Step::CommitSent), ("d", Step::Committed)] {
        proxy.arm(step, Fault::Cut);
        assert_eq!(server.refund(&payment, key, r#"{"amount": 10}"#).await.status, 201);
    }
    let sample = Sample::of(&server).await;
    sample.assert("payonce_batch_failures_total{remedy=\"reconnect\"}", 3);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"committed\"}", 1);
    sample.assert("payonce_refunds_total{currency=\"USD\"}", 3);
    sample.assert("payonce_refunds_amount_minor_units_total{currency=\"USD\"}", 30);
}

#[tokio::test]
async fn batches_are_counted_with_their_steps_and_their_wait() {
    let server = busy().await;
    let sample = Sample::of(&server).await;
    let commits = sample.get("payonce_commits_total");
    // Nine requests, one after the other.
    assert!((commits - 9.0).abs() < 0.5, "{commits}");
    sample.assert("payonce_batch_size_commands_count", 9);
    sample.assert("payonce_batch_size_commands_sum", 9);
    sample.assert("payonce_queue_wait_seconds_count", 9);
    // Payments come to one statement, refunds and voided keys to a transaction.
    let steps =
        ["one_statement", "commit", "claim", "execute"].map(|step| sample.batch_steps(step));
    assert_eq!(steps, [5, 4, 4, 3]);
    assert!(sample.get("payonce_connections_opened_total") >= 1.0);
    sample.assert("payonce_queue_keys", 0);
    sample.assert("payonce_queue_limit_keys", 4096);
}

#[tokio::test]
async fn a_full_queue_and_a_lost_connection_are_counted() {
    let server = TestServer::start_with(&[
        "--queue-limit",
        "1",
        "--account-queue-limit",
        "1",
        "--committers",
        "1",
    ])
    .await;
    let mut locked = server.database.lock_payments().await;
    let (first, second) = tokio::join!(server.pay("a", PAYMENT), async {
        reaches(&server, "payonce_queue_keys", 1).await;
        let second = server.pay("b", PAYMENT).await;
        reaches(&server, "payonce_batch_failures_total{remedy=\"quarantine\"}", 1).await;
        sqlx::query("ROLLBACK").execute(&mut locked).await.unwrap();
        second
    });
    assert_eq!((first.status, second.status), (201, 503));
    server
        .database
        .execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'payonce' AND datname = current_database()")
        .await;
    assert_eq!(server.pay("c", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    assert!((sample.outcome("pay", "overloaded") - 1.0).abs() < 0.5);
    assert!(sample.get("payonce_batch_failures_total{remedy=\"reconnect\"}") >= 1.0);
    assert!(sample.get("payonce_connections_opened_total") >= 2.0);
}

#[tokio::test]
async fn a_key_in_doubt_is_counted_and_so_is_what_became_of_it() {
    let database = Arc::new(TestDatabase::create().await);
    let proxy = Proxy::start(&database.options).await;
    let options = proxy.through(&database.options);
    let server = TestServer::start_through(&database, &options, &[]).await;
    proxy.arm(Step::StatementCommitted, Fault::Cut);
    assert_eq!(server.pay("a", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_keys_in_doubt_total", 1);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"committed\"}", 1);
    // Found out afterwards, and counted once all the same.
    sample.assert("payonce_payments_total{currency=\"USD\"}", 1);

    proxy.arm(Step::StatementSent, Fault::Cut);
    assert_eq!(server.pay("b", PAYMENT).await.status, 201);
    let sample = Sample::of(&server).await;
    sample.assert("payonce_keys_in_doubt_total", 2);
    sample.assert("payonce_keys_in_doubt_resolved_total{resolution=\"not_committed\"}", 1);
    sample.assert("payonce_payments_total{currency=\"USD\"}", 2);
}

#[tokio::test]
async fn a_request_without_an_outcome_counts_as_failed() {
    let server = TestServer::start().await;
    server.database.execute("ALTER TABLE payments RENAME TO elsewhere").await;
    assert_eq!(server.pay("a", PAYMENT).await.status, 500);
    let sample = Sample::of(&server).await;
    assert!((sample.outcome("pay", "failed") - 1.0).abs() < 0.5);
    sample.assert("payonce_batch_failures_total{remedy=\"isolate\"}", 1);
    sample.assert("payonce_commits_total", 0);
}

#[tokio::test]
async fn requests_are_counted_by_route_and_unknown_paths_and_methods_share_a_label() {
    let server = busy().await;
    for path in ["/x", "/y", "/payment/1/2"] {
        server.get(path).await;
    }
    server.request(Method::from_bytes(b"BREW").unwrap(), "/payment", &[], "").await;
    server.request(Method::from_bytes(b"STIR").unwrap(), "/payment", &[], "").await;
    let sample = Sample::of(&server).await;
    let requests = |labels| format!("payonce_http_requests_total{{{labels}}}");
    for (method, route, status, count) in [
        ("POST", "/payment", 201, 2),
        ("POST", "/payment", 200, 1),
        ("POST", "/payment/{transaction_id}/refund", 201, 1),
        ("GET", "other", 404, 3),
        ("other", "/payment", 405, 2),
    ] {
        let labels = format!("method=\"{method}\",route=\"{route}\",status=\"{status}\"");
        sample.assert(&requests(labels), count);
    }
    let shown = |text: &str| sample.0.keys().any(|name| name.contains(text));
    assert!(!shown("/x") && !shown("BREW"));
    sample.assert(
        "payonce_http_request_duration_seconds_count{method=\"POST\",route=\"/payment\"}",
        5,
    );
}

#[tokio::test]
async fn without_a_setting_only_programs_on_this_machine_read_them() {
    let server = TestServer::start().await;
    let unseen = server.get("/nothing").await;
    let address = server.address.to_string();
    for (header, value) in [
        ("x-forwarded-for", "10.0.0.1"),
        ("cf-connecting-ip", "10.0.0.1"),
        ("via", "1.1 proxy"),
        ("host", "payonce.example"),
    ] {
        let answer = server.request(Method::GET, "/metrics", &[(header, value)], "").await;
        answer.assert_problem(404, "not-found");
        assert_eq!(answer.member("detail"), unseen.member("detail"));
        let answer = server.request(Method::POST, "/metrics", &[(header, value)], "").await;
        answer.assert_problem(404, "not-found");
        assert_eq!(answer.header("allow"), "");
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = server.request(method.parse().unwrap(), "/metrics", &[], "").await;
        answer.assert_problem(405, "method-not-allowed");
        assert_eq!(answer.header("allow"), "GET, HEAD");
    }
    let head = server.request(Method::HEAD, "/metrics", &[("host", &address)], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test]
async fn without_a_setting_nobody_reads_them_once_there_are_api_keys() {
    let server = TestServer::start().await;
    assert_eq!(server.get("/metrics").await.status, 200);
    server.database.create_api_key("default");
    until("/metrics is closed", async || server.get("/metrics").await.status != 200).await;
    let answer = server.get("/metrics").await;
    answer.assert_problem(404, "not-found");
    assert!(answer.member("detail").contains("METRICS_TOKEN"), "{}", answer.body);
    server.request(Method::POST, "/metrics", &[], "").await.assert_problem(404, "not-found");

    let start = |variables| Serve::start(&server.database.options, variables);
    start(&[]).wait_for("/metrics is not served");
    let serve = start(&[("METRICS_TOKEN", "sesame")]);
    let shown = [("authorization", "Bearer sesame")];
    let answer = client(serve.address).request(Method::GET, "/metrics", &shown, "").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn a_token_opens_them_to_whoever_shows_it_and_to_nobody_else() {
    let database = TestDatabase::create().await;
    let variables = [("METRICS_TOKEN", "sesame"), ("RUST_LOG", "info,payonce=trace")];
    let mut serve = Serve::start(&database.options, &variables);
    let client = client(serve.address);
    let get =
        async |headers: &[(&str, &str)]| client.request(Method::GET, "/metrics", headers, "").await;
    for wrong in [&[][..], &[("authorization", "Bearer sesam")], &[("authorization", "sesame")]] {
        let answer = get(wrong).await;
        answer.assert_problem(401, "unauthorized");
        assert_eq!(answer.header("www-authenticate"), "Bearer");
    }
    let through_a_proxy = [("authorization", "Bearer sesame"), ("via", "1.1 proxy")];
    assert_eq!(get(&through_a_proxy).await.status, 200);
    for (headers, status) in [(&[][..], 401), (&through_a_proxy, 405)] {
        let answer = client.request(Method::DELETE, "/metrics", headers, "").await;
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    serve.signal("TERM");
    let (_, log) = serve.wait();
    assert!(log.contains("/metrics") && !log.contains("sesame"), "{log}");
}

#[tokio::test]
async fn with_an_address_of_their_own_they_are_served_there_alone() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("METRICS_ADDRESS", "127.0.0.1:0")]);
    let log = serve.wait_for("/metrics is served at http://");
    let line = log.lines().find(|line| line.contains("/metrics is served at ")).unwrap();
    let second = client(line.rsplit("http://").next().unwrap().parse().unwrap());
    let through_a_proxy = [("via", "1.1 proxy"), ("host", "payonce.example")];
    let answer = second.request(Method::GET, "/metrics", &through_a_proxy, "").await;
    assert_eq!(answer.status, 200);
    second.get("/payment").await.assert_problem(404, "not-found");
    client(serve.address).get("/metrics").await.assert_problem(404, "not-found");
    let sample = Sample::of(&second).await;
    sample
        .assert("payonce_http_requests_total{method=\"GET\",route=\"/metrics\",status=\"200\"}", 1);
}

#[tokio::test]
async fn the_process_and_its_version_are_shown() {
    let server = TestServer::start().await;
    let sample = Sample::of(&server).await;
    sample.assert(&format!("payonce_build_info{{version=\"{}\"}}", env!("CARGO_PKG_VERSION")), 1);
    if cfg!(target_os = "linux") {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let age = now.as_secs_f64() - sample.get("process_start_time_seconds");
        assert!((-2.0..3600.0).contains(&age), "{age}");
        assert!(sample.get("process_resident_memory_bytes") > 1_000_000.0);
        assert!(sample.get("process_cpu_seconds_total") < 3600.0);
        assert!(sample.get("process_open_fds") > 3.0);
    }
}

/// Names, types and help of what is served, in the order of their names.
fn families(text: &str) -> BTreeMap<&str, (&str, &str)> {
    let help = text.lines().filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '));
    let kinds: BTreeMap<_, _> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    help.map(|(name, help)| (name, (kinds[name], help))).collect()
}

#[tokio::test]
async fn names_units_and_helps_are_as_prometheus_wants_them() {
    let server = busy().await;
    let text = text(&server).await;
    for (name, (kind, help)) in families(&text) {
        assert!(name.starts_with("payonce_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
        assert!(help.ends_with('.'), "{name}: {help}");
        if kind == "histogram" {
            assert!(name.ends_with("_seconds") || name.ends_with("_commands"), "{name}");
        }
    }
    promtool(&["check", "metrics"], &text);
}

#[tokio::test]
async fn the_documentation_has_every_metric_that_is_served_and_no_other() {
    let server = busy().await;
    let text = text(&server).await;
    let page = repository("docs/reference/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `"));
    let cells = rows.map(|row| row.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    let documented: BTreeMap<_, _> =
        cells.map(|cells| (cells[0].trim_matches('`').to_owned(), cells)).collect();
    let served = families(&text);
    assert_eq!(
        documented.keys().map(String::as_str).collect::<Vec<_>>(),
        served.keys().copied().collect::<Vec<_>>()
    );
    for (name, cells) in &documented {
        assert_eq!(cells[1], served[name.as_str()].0, "{name}");
        let line = text.lines().find(|line| {
            let series = line.strip_prefix(name.as_str());
            series.is_some_and(|rest| rest.starts_with(['{', ' ', '_']))
        });
        let labels = line.unwrap().split_once('{').map_or("", |(_, labels)| labels);
        let mut labels: Vec<&str> =
            labels.split(',').filter_map(|label| Some(label.split_once('=')?.0)).collect();
        labels.retain(|label| *label != "le");
        let mut told: Vec<&str> =
            cells[2].split(", ").map(|label| label.trim_matches('`')).collect();
        told.retain(|label| !label.is_empty());
        told.sort_unstable();
        labels.sort_unstable();
        assert_eq!(told, labels, "{name}");
    }
}

#[tokio::test]
async fn alerts_and_dashboard_ask_for_what_is_served_and_each_alert_has_its_runbook() {
    let server = busy().await;
    let text = text(&server).await;
    let served = families(&text);
    let alerts = repository("deploy/prometheus/alerts.yml");
    let dashboard = repository("deploy/grafana/payonce.json");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    for word in alerts.split(|c| !is_word(c)).chain(dashboard.split(|c| !is_word(c))) {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| word.strip_suffix(end));
        let known = served.contains_key(word) || family.is_some_and(|it| served.contains_key(it));
        assert!(known || !(word.starts_with("payonce_") || word.starts_with("process_")), "{word}");
    }
    let runbooks = repository("docs/operations/runbooks.md");
    let named = alerts.lines().filter_map(|line| line.trim().strip_prefix("- alert: "));
    let named: Vec<&str> = named.collect();
    let sections: Vec<&str> =
        runbooks.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(named, sections);
    for alert in named {
        let url = format!(
            "runbook_url: \"{{{{ $externalURL }}}}/user/runbooks.md#{}\"",
            alert.to_lowercase()
        );
        assert!(alerts.contains(&url), "{url}");
    }
    for part in ["summary:", "description:", "runbook_url:"] {
        assert_eq!(alerts.matches(part).count(), sections.len(), "{part}");
    }
    promtool(&["check", "rules", "deploy/prometheus/alerts.yml"], "");
    promtool(&["check", "config", "deploy/prometheus/prometheus.yml"], "");
    promtool(&["test", "rules", "deploy/prometheus/alerts.test.yml"], "");
}

fn repository(path: &str) -> String {
    std::fs::read_to_string(format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Has `promtool` check something, where it is installed.
fn promtool(arguments: &[&str], input: &str) {
    let folder = env!("CARGO_MANIFEST_DIR");
    let child = std::process::Command::new("promtool")
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        eprintln!("not checked: promtool is not installed");
        return;
    };
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

fn client(address: std::net::SocketAddr) -> Client {
    Client { address, http: reqwest::Client::builder().no_proxy().build().unwrap() }
}
