//! What operators can do on the command line: the same as over HTTP, and to the database.

use std::{
    fs,
    io::Write,
    process::{Command, Output, Stdio},
};

use clap::Args;
use payonce::config::Settings;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, raw_sql};

use crate::support::{
    PAYMENT, REMAINING, TestDatabase, TestServer,
    binary::{Folder, payonce, run, url},
    database::take_lock,
};

/// The account that is there from the beginning.
const DEFAULT: &str = "00000000-0000-0000-0000-000000000000";

/// The program on this database, about to be run.
fn on(database: &TestDatabase, arguments: &[&str]) -> Command {
    let mut command = payonce(arguments);
    command.env("DATABASE_URL", url(&database.options)).env("RUST_LOG", "warn");
    command
}

/// The program's exit code and what it printed.
fn operate(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    run(&mut on(database, arguments))
}

/// What the program does that reads this from stdin.
fn reading(mut command: Command, given: &str) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(given.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// A setting as `payonce config --json` has it: its value, and where that is from.
fn setting(all: &Value, name: &str) -> (Value, Value) {
    let found = all.as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
    (found["value"].clone(), found["source"].clone())
}

#[test]
fn the_short_help_is_a_page_and_names_every_command() {
    let (_, short, _) = run(&mut payonce(&["-h"]));
    let (_, long, _) = run(&mut payonce(&["--help"]));
    for command in [
        "serve",
        "migrate",
        "sweep",
        "healthcheck",
        "account",
        "api-key",
        "key",
        "payment",
        "storm",
        "config",
        "completions",
    ] {
        let named = |line: &str| line.trim_start().split(' ').next() == Some(command);
        assert!(short.lines().any(named) && long.lines().any(named), "{command}: {short}");
    }
    assert!(short.lines().count() < 40 && !short.contains("--max-batch"), "{short}");
    assert!(short.contains("Exit codes") && long.contains("--max-batch"), "{short}{long}");
}

#[test]
fn the_help_of_a_command_lists_the_settings_that_concern_it_and_no_others() {
    let all: Vec<String> = Settings::augment_args(clap::Command::new("settings"))
        .get_arguments()
        .map(|setting| setting.get_env().unwrap().to_str().unwrap().to_owned())
        .collect();
    let lifetimes = ["IDEMPOTENCY_RESPONSE_TTL", "IDEMPOTENCY_KEY_TTL"];
    for (command, settings) in [
        ("migrate", &["LOG_FORMAT"][..]),
        ("sweep", &lifetimes),
        ("healthcheck", &["HOST", "PORT", "REQUEST_DEADLINE"]),
        ("account", &[]),
        ("account create", &[]),
        ("account list", &[]),
        ("api-key create", &lifetimes[1..]),
        ("api-key list", &[]),
        ("api-key revoke", &[]),
        ("key", &[]),
        ("key show", &lifetimes[1..]),
        (
            "key void",
            &[&lifetimes[..], &["IN_FLIGHT_WAIT", "REQUEST_DEADLINE", "ALLOW_ASYNCHRONOUS_COMMIT"]]
                .concat(),
        ),
        ("payment list", &["REQUEST_DEADLINE"]),
        ("payment show", &["REQUEST_DEADLINE"]),
        ("storm", &["HOST", "PORT"]),
        ("completions", &[]),
        ("serve", &all.iter().map(String::as_str).collect::<Vec<_>>()),
    ] {
        let arguments: Vec<&str> = command.split(' ').chain(["--help"]).collect();
        let (code, help, _) = run(&mut payonce(&arguments));
        let shown = help.lines().filter_map(|line| {
            line.trim().strip_prefix("[env: ").and_then(|line| line.strip_suffix(']'))
        });
        assert_eq!((code, shown.collect::<Vec<_>>()), (0, settings.to_vec()), "{command}");
        // What is not listed is accepted: one environment serves all commands.
        let (_, _, stderr) = run(payonce(&arguments).env("MAX_BATCH", "3"));
        assert_eq!(stderr, "", "{command}");
    }
}

#[test]
fn a_usage_has_only_what_the_command_needs_whatever_is_set_in_the_environment() {
    for (arguments, usage) in [
        (&["key", "show"][..], "Usage: payonce key show <KEY>\n"),
        (&["payment", "list", "--zzz"], "Usage: payonce payment list [OPTIONS]\n"),
        (&["nothing"], "Usage: payonce [OPTIONS] [COMMAND]\n"),
    ] {
        let mut command = payonce(arguments);
        let (code, _, stderr) =
            run(command.env("PORT", "7").env("HOST", "::1").env("DEFAULT_CURRENCY", "EUR"));
        assert!(code == 2 && stderr.contains(usage), "{stderr}");
    }
}

#[tokio::test]
async fn what_is_lacking_is_listed_before_it_is_applied() {
    let database = TestDatabase::create_empty().await;
    let migrations =
        fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap().count();
    for _ in 0..2 {
        let (code, stdout, stderr) = operate(&database, &["migrate", "--check"]);
        assert_eq!((code, stdout.lines().count()), (1, migrations + 1), "{stdout}");
        assert!(stdout.contains("0001") && stdout.contains("idempotency"), "{stdout}");
        assert!(stderr.contains(&format!("lacks {migrations} migrations")), "{stderr}");
    }
    let (code, stdout, _) = operate(&database, &["migrate", "--check", "--json"]);
    let list: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!((code, list.as_array().unwrap().len()), (1, migrations));
    assert_eq!(list[0], json!({ "version": 1, "description": "idempotency" }));

    assert_eq!(operate(&database, &["migrate"]).0, 0);
    let (code, stdout, stderr) = operate(&database, &["migrate", "--check"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(database.operate(&["migrate", "--check", "--json"]), json!([]));
}

#[tokio::test]
async fn a_sweep_says_what_it_deleted() {
    let server = TestServer::start().await;
    server.paid("k", 100).await;
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    let (code, stdout, stderr) = operate(&server.database, &["sweep"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "1 expired responses and 0 expired keys deleted\n");
    let swept = server.database.operate(&["sweep", "--json"]);
    assert_eq!(swept, json!({ "responses": 0, "keys": 0 }));
}

#[test]
fn config_says_what_is_in_force_and_where_it_comes_from() {
    let folder = Folder::new("config");
    let database_url = "postgres://payonce:se-cret@db.example:5433/payments";
    fs::write(
        folder.0.join(".env"),
        format!("DATABASE_URL={database_url}\nMAX_BATCH=3\nQUEUE_LIMIT=33\nCOMMITTERS=9\n"),
    )
    .unwrap();
    let mut command = payonce(&["config", "--json", "--queue-limit", "2000"]);
    command.current_dir(&folder.0).env("COMMITTERS", "2").env("PORT", "").env("RUST_LOG", "debug");
    let (code, stdout, stderr) = run(&mut command);
    assert_eq!((code, stderr.contains("payonce:")), (0, false), "{stderr}");
    let all: Value = serde_json::from_str(&stdout).unwrap();
    for (name, value, source) in [
        ("DATABASE_URL", "payonce@db.example:5433/payments", ".env"),
        ("RUST_LOG", "debug", "environment"),
        ("MAX_BATCH", "3", ".env"),
        ("COMMITTERS", "2", "environment"),
        ("QUEUE_LIMIT", "2000", "flag"),
        ("ACCOUNT_QUEUE_LIMIT", "1500", "default"),
        ("PORT", "5000", "default"),
        ("IDEMPOTENCY_KEY_TTL", "never", "default"),
    ] {
        assert_eq!(setting(&all, name), (json!(value), json!(source)), "{name}");
    }
    assert!(!stdout.contains("se-cret"), "{stdout}");
    let mut command = payonce(&["config"]);
    let (code, table, _) = run(command.current_dir(&folder.0));
    assert!(code == 0 && table.starts_with("SETTING ") && !table.contains("se-cret"), "{table}");
    let line = table.lines().find(|line| line.starts_with("MAX_BATCH ")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["MAX_BATCH", "3", ".env"]);
}

#[test]
fn config_shows_settings_that_contradict_each_other_and_a_database_that_is_not_set() {
    let (code, stdout, stderr) =
        run(&mut payonce(&["config", "--json", "--in-flight-wait", "10s"]));
    assert!(code == 2 && stderr.contains("REQUEST_DEADLINE (10s) must be more"), "{stderr}");
    let all: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(setting(&all, "IN_FLIGHT_WAIT"), (json!("10s"), json!("flag")));
    assert_eq!(setting(&all, "DATABASE_URL"), (Value::Null, json!("not set")));
    assert_eq!(setting(&all, "RUST_LOG"), (json!("info"), json!("default")));
    let (code, stdout, _) =
        run(payonce(&["config"]).env("DATABASE_URL", "mysql://root:se-cret@x/y"));
    assert_eq!(code, 2);
    assert!(stdout.contains("can't be read") && !stdout.contains("se-cret"), "{stdout}");
}

#[test]
fn shells_complete_every_command() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let (code, script, stderr) = run(&mut payonce(&["completions", shell]));
        assert_eq!((code, stderr.as_str()), (0, ""), "{shell}");
        for word in ["api-key", "healthcheck", "void", "max-batch"] {
            assert!(script.contains(word), "{word:?} for {shell}");
        }
    }
    assert_eq!(run(&mut payonce(&["completions", "sh"])).0, 2);
}

#[test]
fn that_nobody_reads_on_is_no_error() {
    let mut command = payonce(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}

#[tokio::test]
async fn what_became_of_a_key_is_said_as_over_http() {
    let server = TestServer::start().await;
    let database = &server.database;
    server.pay("k", PAYMENT).await;
    server.refund("01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "no", REMAINING).await;
    for (key, state) in [("k", "completed"), ("no", "refused"), ("new", "unknown")] {
        let answer = server
            .request(Method::GET, "/idempotency-key", &[("Idempotency-Key", key)], "")
            .await
            .json();
        let mut shown = database.operate(&["key", "show", key, "--json"]);
        let mut besides = |name| shown.as_object_mut().unwrap().remove(name).unwrap();
        let hash = besides("key_hash");
        assert_eq!(besides("account"), "default");
        assert_eq!(besides("account_id"), DEFAULT);
        // Operators void it here, and not over HTTP.
        let mut expected = answer;
        let detail = expected["detail"].as_str().unwrap();
        let detail = detail.replace("POST /idempotency-key/void", "payonce key void");
        expected["detail"] = detail.as_str().into();
        assert_eq!((&shown, hash.as_str().unwrap().len()), (&expected, 16), "{key}");
        let (code, stdout, stderr) = operate(database, &["key", "show", key]);
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
async fn a_key_is_read_from_stdin_where_it_should_not_be_seen() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    for given in ["k", "k\n", "k\r\n"] {
        let output = reading(on(&server.database, &["key", "show", "-", "--json"]), given);
        let shown: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(shown["state"], "completed", "{given:?}");
    }
}

#[tokio::test]
async fn of_several_keys_on_stdin_none_is_voided() {
    let server = TestServer::start().await;
    let output = reading(on(&server.database, &["key", "void", "-"]), "first\nsecond\n");
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(2), &b""[..]), "{said}");
    assert!(said.contains("more than one line") && !said.contains("first"), "{said}");
    for key in ["first", "second"] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    }
}

#[tokio::test]
async fn a_key_that_is_voided_by_an_operator_never_pays() {
    let server = TestServer::start().await;
    let database = &server.database;
    assert_eq!(database.operate(&["key", "void", "late", "--json"])["state"], "voided");
    server.pay("late", PAYMENT).await.assert_problem(410, "idempotency-key-voided");
    assert_eq!(database.payments().await, 0);

    server.pay("k", PAYMENT).await;
    let (code, stdout, _) = operate(database, &["key", "void", "k"]);
    assert!(code == 0 && stdout.contains("completed"), "{stdout}");
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn a_key_that_is_being_executed_is_not_said_to_be_voided() {
    let server = TestServer::start().await;
    let mut holder = server.database.connect().await;
    let lock = format!("BEGIN; {}", take_lock("k"));
    raw_sql(AssertSqlSafe(lock)).execute(&mut holder).await.unwrap();
    let (code, stdout, stderr) =
        operate(&server.database, &["key", "void", "k", "--in-flight-wait", "100ms"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("right now"), "{stderr}");
}

#[tokio::test]
async fn keys_and_payments_are_those_of_the_account_that_is_named() {
    let server = TestServer::start().await;
    let database = &server.database;
    let payment = server.paid("k", 100).await;
    let ada = database.operate(&["account", "create", "ada", "--json"]);
    for account in ["ada", ada["account_id"].as_str().unwrap()] {
        let of_ada = ["key", "show", "k", "--account", account, "--json"];
        assert_eq!(database.operate(&of_ada)["state"], "unknown");
        let of_ada = ["payment", "list", "--account", account, "--json"];
        assert_eq!(database.operate(&of_ada)["payments"], json!([]));
        let (code, stdout, stderr) =
            operate(database, &["payment", "show", &payment, "--account", account]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.contains("\"ada\" has no payment") && stderr.contains(&payment), "{stderr}");
    }
    database.operate(&["key", "void", "k", "--account", "ada", "--json"]);
    let of_default = ["key", "show", "k", "--account", "default", "--json"];
    assert_eq!(database.operate(&of_default)["state"], "completed");
    for arguments in
        [&["key", "show", "k"][..], &["payment", "list"], &["payment", "show", &payment]]
    {
        let (code, _, stderr) = operate(database, &[arguments, &["--account", "nobody"]].concat());
        assert!(code == 1 && stderr.contains("no account \"nobody\""), "{stderr}");
    }
}

#[tokio::test]
async fn the_account_must_be_named_where_there_are_several() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let payment = ada.paid("k", 100).await;
    for arguments in [
        &["payment", "list"][..],
        &["payment", "show", &payment],
        &["api-key", "create", "--name", "another"],
    ] {
        let (code, stdout, stderr) = operate(&server.database, arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains("name one with --account"), "{stderr}");
    }
    for command in ["show", "void"] {
        let (code, stdout, stderr) = operate(&server.database, &["key", command, "k"]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("--account"), "{stderr}");
        // As the log names it.
        let named = ["key", command, "k", "--account", &ada.id];
        let (code, stdout, stderr) = operate(&server.database, &named);
        assert!(code == 0 && stdout.contains(&format!("ada ({})", ada.id)), "{stdout}{stderr}");
        assert!(stdout.contains("completed"), "{stdout}");
    }
    assert_eq!(server.database.number("SELECT count(*) FROM idempotency_keys").await, 1);
}

#[tokio::test]
async fn payments_are_listed_and_shown_as_over_http() {
    let server = TestServer::start().await;
    let database = &server.database;
    let payment = server.paid("1", 100).await;
    server.refund(&payment, "r", r#"{"amount":40}"#).await;
    server.pay("2", r#"{"user_id":"somebody else","amount":7,"currency":"JPY"}"#).await;
    server.pay("3", PAYMENT).await;

    let page = database.operate(&["payment", "list", "--limit", "2", "--json"]);
    assert_eq!(page, server.get("/payment?limit=2").await.json());
    let cursor = page["next_cursor"].as_str().unwrap();
    let last = database.operate(&["payment", "list", "--cursor", cursor, "--json"]);
    assert_eq!(last, server.get(&format!("/payment?cursor={cursor}")).await.json());
    let of_user = database.operate(&["payment", "list", "--user", "somebody else", "--json"]);
    assert_eq!(of_user, server.get("/payment?user_id=somebody+else").await.json());
    let shown = database.operate(&["payment", "show", &payment, "--json"]);
    assert_eq!(shown, server.get(&format!("/payment/{payment}")).await.json());

    let (_, table, _) = operate(database, &["payment", "list", "--limit", "2"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("ID ")
            && lines[2].ends_with("7       0         JPY       somebody else"),
        "{table}"
    );
    assert!(lines[1].ends_with("1.00    0.00      USD       user_1"), "{table}");
    assert!(lines.last().unwrap().ends_with(&format!("--cursor {cursor}")), "{table}");
    let (_, all, _) = operate(database, &["payment", "list"]);
    assert_eq!(all.lines().count(), 4, "{all}");
    let (_, shown, _) = operate(database, &["payment", "show", &payment]);
    assert!(shown.contains("1.00 USD") && shown.contains("0.40 USD"), "{shown}");
    assert!(shown.contains("REFUND ") && shown.trim_end().ends_with(" 0.40"), "{shown}");
}

#[tokio::test]
async fn what_cannot_be_read_is_refused_before_anything_is_done() {
    let database = TestDatabase::create().await;
    for arguments in [
        &["payment", "list", "--limit", "0"][..],
        &["payment", "list", "--limit", "201"],
        &["payment", "list", "--cursor", "x"],
        &["payment", "list", "--user", " "],
        &["payment", "show", "x"],
        &["key", "show"],
        &["migrate", "--json"],
    ] {
        assert_eq!(operate(&database, arguments).0, 2, "{arguments:?}");
    }
    for command in ["show", "void"] {
        let (code, stdout, stderr) = operate(&database, &["key", command, "se cret"]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("a bare key") && !stderr.contains("se cret"), "{stderr}");
    }
    let older = TestDatabase::create_of_version(2).await;
    let (code, _, stderr) = operate(&older, &["sweep"]);
    assert!(code == 1 && stderr.contains("lacks 2 migrations: run payonce migrate"), "{stderr}");
    let empty = TestDatabase::create_empty().await;
    for arguments in [&["key", "void", "k"][..], &["payment", "list"], &["sweep"]] {
        let (code, _, stderr) = operate(&empty, arguments);
        assert!(code == 1 && stderr.contains("run payonce migrate"), "{stderr}");
    }
}

#[tokio::test]
async fn an_api_key_that_nobody_reads_is_told_of() {
    let database = TestDatabase::create().await;
    // What reads it is gone before it is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = on(&database, &["api-key", "create", "--name", "unread"]);
    let output = command.stdout(writer).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let id = database.value::<String>("SELECT api_key_id::text FROM api_keys").await;
    assert!(said.contains(&format!("payonce api-key revoke {id}")), "{said}");
}
