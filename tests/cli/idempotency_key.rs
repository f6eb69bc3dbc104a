//! `payonce key`: operators read and void keys.

use std::{
    io::Write,
    process::{Command, Output, Stdio},
};

use payonce_testing::{PAYMENT, REMAINING, TestServer, database::take_lock};
use reqwest::Method;
use serde_json::Value;
use sqlx::{AssertSqlSafe, raw_sql};

/// The default account.
const DEFAULT: &str = "00000000-0000-0000-0000-000000000000";

/// Runs the program with this standard input.
fn reading(mut command: Command, given: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

#[tokio::test]
async fn the_state_of_a_key_is_the_same_as_over_http() {
    let server = TestServer::start().await;
    let database = &server.database;
    server.pay("k", PAYMENT).await;
    server.refund("01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "no", REMAINING).await;
    for (key, state) in [("k", "completed"), ("no", "refused"), ("new", "unknown")] {
        let response = server
            .request(Method::GET, "/idempotency-key", &[("Idempotency-Key", key)], "")
            .await
            .json();
        let mut shown = database.operate(&["key", "show", key, "--json"]);
        let mut besides = |name| shown.as_object_mut().unwrap().remove(name).unwrap();
        let hash = besides("key_hash");
        assert_eq!(besides("account"), "default");
        assert_eq!(besides("account_id"), DEFAULT);
        // Operators void it with this command, not over HTTP.
        let mut expected = response;
        let detail = expected["detail"].as_str().unwrap();
        let detail = detail.replace("POST /idempotency-key/void", "payonce key void");
        expected["detail"] = detail.as_str().into();
        assert_eq!((&shown, hash.as_str().unwrap().len()), (&expected, 16), "{key}");
        let (code, stdout, stderr) = database.run(&["key", "show", key]);
        assert_eq!((code, stderr.as_str()), (0, ""));
        let account = format!("default ({DEFAULT})");
        assert!(stdout.starts_with("account ") && stdout.contains(&account), "{stdout}");
        assert!(stdout.contains("\nstate ") && stdout.contains(state), "{stdout}");
        assert!(stdout.contains(hash.as_str().unwrap()), "{stdout}");
        assert!(stdout.ends_with(&format!("\n\n{detail}\n")), "{stdout}");
        assert_eq!(detail.contains("payonce key void"), state == "unknown", "{detail}");
    }
    let quoted = database.operate(&["key", "show", "\"k\"", "--json"]);
    assert_eq!(quoted, database.operate(&["key", "show", "k", "--json"]));
}

#[tokio::test]
async fn a_key_can_be_read_from_standard_input() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    for given in ["k", "k\n", "k\r\n"] {
        let output = reading(server.database.payonce(&["key", "show", "-", "--json"]), given);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["state"], "completed", "{given:?}");
    }
}

#[tokio::test]
async fn several_keys_on_standard_input_are_refused() {
    let server = TestServer::start().await;
    let output = reading(server.database.payonce(&["key", "void", "-"]), "first\nsecond\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{said}");
    assert!(said.contains("more than one line") && !said.contains("first"), "{said}");
    for key in ["first", "second"] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    }
}

#[tokio::test]
async fn a_key_voided_by_an_operator_never_executes() {
    let server = TestServer::start().await;
    let database = &server.database;
    assert_eq!(database.operate(&["key", "void", "late", "--json"])["state"], "voided");
    server.pay("late", PAYMENT).await.assert_problem(410, "idempotency-key-voided");
    assert_eq!(database.payments().await, 0);

    server.pay("k", PAYMENT).await;
    let (code, stdout, _) = database.run(&["key", "void", "k"]);
    assert!(code == 0 && stdout.contains("completed"), "{stdout}");
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn a_key_in_flight_is_not_reported_as_voided() {
    let server = TestServer::start().await;
    let mut holder = server.database.connect().await;
    let lock = format!("BEGIN; {}", take_lock("k"));
    raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let (code, stdout, stderr) =
        server.database.run(&["key", "void", "k", "--in-flight-wait", "100ms"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("right now"), "{stderr}");
}
