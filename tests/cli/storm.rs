//! `payonce storm`: it sends duplicates to servers and checks that each payment was created once.

use std::{
    net::SocketAddr,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use payonce_testing::{
    TestDatabase, TestServer,
    binary::{Serve, payonce, run},
};
use serde_json::{Value, json};
use tokio::net::TcpSocket;

/// A storm on these servers, not started yet.
pub(crate) fn storm(servers: &[SocketAddr], arguments: &[&str]) -> Command {
    let mut command = payonce(&["storm"]);
    for server in servers {
        command.args(["--url", &format!("http://{server}")]);
    }
    command.args(arguments);
    command
}

/// Runs a storm: its exit code, report and standard error.
#[track_caller]
pub(crate) fn report(servers: &[SocketAddr], arguments: &[&str]) -> (i32, Value, String) {
    let (code, stdout, stderr) = run(storm(servers, arguments).arg("--json"));
    let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    (code, report, stderr)
}

#[tokio::test]
async fn a_storm_on_two_servers_creates_each_payment_once() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let servers = [server.address, other.address];
    let (code, report, stderr) = report(&servers, &["--payments", "200"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{report}");
    assert_eq!(server.database.payments().await, 200);
    for (member, value) in [
        ("exactly_once", json!(true)),
        ("intended", json!(200)),
        ("found", json!(200)),
        ("duplicates", json!(0)),
        ("lost", json!(0)),
        ("reuses_refused", json!(20)),
        ("unanswered", json!([])),
        ("broken", json!([])),
    ] {
        assert_eq!(report[member], value, "{member} of {report}");
    }
    // One in ten is sent five times, two in ten twice, one in four again later; one in ten is abandoned first.
    let count = |member: &str| report[member].as_u64().unwrap();
    let of_status = |status: &str| report["statuses"][status].as_u64().unwrap_or(0);
    assert_eq!(of_status("422"), 20);
    assert_eq!(
        of_status("200") + of_status("201"),
        200 + 20 * 4 + 40 + 50 + 20 - count("hang_ups")
    );
    assert_eq!(count("requests") - count("retries"), 200 + 20 * 4 + 40 + 50 + 20 + 20, "{report}");
    assert!(report["latency_ms"]["longest"].as_f64() >= report["latency_ms"]["p50"].as_f64());
}

#[tokio::test]
async fn the_report_is_a_table_with_a_verdict() {
    // A replay is recognised by its header, whatever its status.
    let server = TestServer::start_with(&["--idempotency-replay-status", "original"]).await;
    let (code, stdout, stderr) = run(&mut storm(&[server.address], &["--payments", "20"]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let row = |name: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {stdout}")).trim().to_owned()
    };
    assert_eq!(row("intended payments"), "20");
    assert_eq!(row("payments read back"), server.database.payments().await.to_string());
    assert_eq!(row("duplicates"), "0");
    assert!(stdout.ends_with("\nevery payment was made exactly once\n"), "{stdout}");
}

#[tokio::test]
async fn a_storm_on_a_server_that_is_killed_creates_each_payment_once() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[]);
    let address = serve.address;
    let mut storm = storm(&[address], &["--payments", "1500", "--clients", "16", "--json"]);
    let storm = storm.stdout(Stdio::piped()).spawn().unwrap();
    let mut paid = 0;
    for _ in 0..2 {
        // The server is killed while it creates payments.
        database.until("SELECT count(*) FROM payments", |payments| payments >= paid + 100).await;
        serve.signal("KILL");
        serve.child.wait().unwrap();
        serve = Serve::start(&database.options, &[("PORT", &address.port().to_string())]);
        paid = database.payments().await;
    }
    let output = storm.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!((&report["found"], &report["lost"]), (&json!(1500), &json!(0)), "{report}");
    assert!(report["retries"].as_u64() > Some(0), "{report}");
    assert_eq!(database.payments().await, 1500);
}

#[tokio::test]
async fn the_api_key_comes_from_the_environment() {
    let server = TestServer::start().await;
    let account = server.account("ada").await;
    let arguments = ["--payments", "10", "--json"];
    for key in ["", "payonce_wrong"] {
        let (code, stdout, stderr) =
            run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", key));
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("set PAYONCE_API_KEY"), "{stderr}");
    }
    let (code, stdout, stderr) =
        run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", "se\ncret"));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("PAYONCE_API_KEY") && !stderr.contains("cret"), "{stderr}");
    assert_eq!(server.database.payments().await, 0);
    let (code, stdout, stderr) =
        run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", &account.api_key));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(server.database.payments().await, 10);
}

#[tokio::test]
async fn without_a_url_host_and_port_are_used() {
    let server = TestServer::start().await;
    let port = server.address.port().to_string();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let mut storm = storm(&[], &["--payments", "1", "--clients", "1", "--json"]);
        let (code, stdout, stderr) = run(storm.env("HOST", host).env("PORT", &port));
        assert_eq!((code, stderr.as_str()), (0, ""), "{host}: {stdout}");
    }
    assert_eq!(server.database.payments().await, 3);
}

#[test]
fn an_unusable_url_is_refused_with_the_reason() {
    for (url, why) in [
        ("https://pay.example", "plain HTTP"),
        ("pay.example:5000", "write it as http://127.0.0.1:5000"),
        ("http://ada:secret@pay.example", "PAYONCE_API_KEY"),
    ] {
        let (code, stdout, stderr) = run(&mut payonce(&["storm", "--url", url]));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("--url") && stderr.contains(why), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
    for arguments in [["--payments", "0"], ["--clients", "0"], ["--patience", "5"]] {
        assert_eq!(run(payonce(&["storm"]).args(arguments)).0, 2, "{arguments:?}");
    }
}

#[test]
fn an_unreachable_server_is_tried_until_patience_ends() {
    // A port that is bound, so that no other test gets it, but not listened on.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = taken.local_addr().unwrap();
    let begun = Instant::now();
    let (code, stdout, stderr) = run(&mut storm(&[address], &["--patience", "1s"]));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains(&format!("http://{address} was not answered within 1s"))
            && stderr.contains("Connection refused"),
        "{stderr}"
    );
    // No pause exceeds the patience.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
}

#[test]
fn the_help_warns_that_payments_are_real() {
    let (code, stdout, _) = run(&mut payonce(&["storm", "--help"]));
    assert!(code == 0 && stdout.contains("REAL PAYMENTS"), "{stdout}");
    assert!(stdout.contains("PAYONCE_API_KEY") && !stdout.contains("--api-key"), "{stdout}");
}
