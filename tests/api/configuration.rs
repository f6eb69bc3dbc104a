//! Settings that cannot be read: the program says what is wrong, and never a secret.

use std::fs;

use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions, raw_sql};

use crate::support::{
    TestDatabase,
    binary::{Folder, Serve, payonce, run, url},
    client::Wire,
    pooler,
    server::settings,
};

/// `payonce config` with this `DATABASE_URL`.
fn config(url: &str) -> (i32, String, String) {
    run(payonce(&["config"]).env("DATABASE_URL", url))
}

#[test]
fn a_line_of_dot_env_that_cannot_be_parsed_is_reported_by_its_number_alone() {
    let folder = Folder::new("dot-env-lines");
    for (content, line) in [
        ("DATABASE_URL: postgres://u:se-cret@host/x\n", 1),
        ("# a comment\n\nPORT=5001\npostgres://u:se-cret@host/x", 4),
        ("PORT=5001\nse-cret SE_CRET=1\nPORT=5002\n", 2),
        ("PORT=5001\nA='a\nb'\nDATABASE_URL='se-cret\nMAX_BATCH=1\n", 4),
        ("PORT=5001\r\nTOKEN = \"se-cret\r\nse-cret\" se-cret\r\n", 2),
    ] {
        fs::write(folder.0.join(".env"), content).unwrap();
        for command in ["serve", "config"] {
            let (code, stdout, stderr) = run(payonce(&[command]).current_dir(&folder.0));
            let expected = format!("payonce: .env can't be read: line {line} is not NAME=value\n");
            assert_eq!((code, stdout.as_str(), stderr.as_str()), (2, "", expected.as_str()));
        }
    }
}

#[test]
fn a_dot_env_in_another_encoding_is_reported_by_its_line() {
    let folder = Folder::new("dot-env-encoding");
    fs::write(folder.0.join(".env"), b"PORT=5001\nDATABASE_URL=se-cret\xe9\n").unwrap();
    let (code, _, stderr) = run(payonce(&["config"]).current_dir(&folder.0));
    assert!(code == 2 && stderr.contains("line 2") && !stderr.contains("se-cret"), "{stderr}");
}

#[test]
fn a_database_url_says_which_part_is_wrong_and_nothing_of_its_content() {
    for (url, reason) in [
        ("postgres://u:se/cret@host/x", "Write / as %2F"),
        ("postgres://u:12/se-cret@host:5432/x?sslmode=disable", "Write / as %2F"),
        ("postgres://u:12#se-cret@host/x", "# as %23"),
        ("postgres://u:se-cret@host/x#y", "write it as %23"),
        ("postgres://u:se-cret@host/x?sslmode=disable#y", "write it as %23"),
        ("postgres://u:se-cret@one,two/x", "several hosts"),
        ("postgres://u:se-cret@one:5432,two:5432/x", "several hosts"),
        ("postgres:///x?password=se-cret&host=one,two", "several hosts"),
        ("postgres:///x?password=se-cret&host=one%2Ctwo", "several hosts"),
        ("postgres://u:se-cret@/x?host=/run/postgresql", "postgres:///database?host=/var/run"),
        ("postgres://u:se-cret@host/x?sslmode=requird", "value of the parameter sslmode"),
        ("postgres://u:se-cret@host/x?port=70000", "value of the parameter port"),
        ("mysql://u:se-cret@host/x", "write it as postgres://"),
    ] {
        let (code, stdout, stderr) = config(url);
        let said = stderr.starts_with("payonce: DATABASE_URL can't be read: ");
        assert!(code == 2 && said && stderr.contains(reason), "{url}: {stderr}");
        assert!(!stderr.contains("cret") && !stdout.contains("cret"), "{stdout}{stderr}");
    }
}

#[test]
fn a_database_url_is_understood_in_each_form_that_one_host_has() {
    for (url, shown) in [
        ("postgres://u@[::1]:5432/db", "u@[::1]:5432/db"),
        ("postgres://u@[2001:db8::1]/db", "u@[2001:db8::1]:5432/db"),
        ("postgres:///db?host=[::1]&user=u", "u@[::1]:5432/db"),
        ("postgres:///db?host=/run/pg&user=u", "u@/run/pg:5432/db"),
        ("postgres://u@%2Frun%2Fpg/db", "u@/run/pg:5432/db"),
        ("postgres://u:%2F%23%3F%40%25@host/db", "u@host:5432/db"),
        ("postgresql://u:pass@host/db?user=me@corp", "me@corp@host:5432/db"),
        (" postgres://u:pass@host/db?sslmode=disable\n", "u@host:5432/db"),
    ] {
        let (code, stdout, stderr) = config(url);
        let line = stdout.lines().find(|line| line.starts_with("DATABASE_URL ")).unwrap();
        let value = line.split_whitespace().nth(1);
        assert_eq!((code, stderr.as_str(), value), (0, "", Some(shown)), "{url}");
    }
}

#[test]
fn a_metrics_token_that_no_header_can_carry_is_refused_without_being_shown() {
    let url = "postgres://u@127.0.0.1:1/x";
    for token in ["se-cret\nse-cret", "se-cret token", "se-crét"] {
        let mut serve = payonce(&["serve"]);
        let (code, _, stderr) = run(serve.env("DATABASE_URL", url).env("METRICS_TOKEN", token));
        assert!(code == 2 && stderr.contains("METRICS_TOKEN can't be sent"), "{stderr}");
        assert!(!stderr.contains("se-cr"), "{stderr}");
    }
}

#[test]
fn a_body_limit_is_written_in_bytes_or_with_a_unit() {
    for (text, bytes) in
        [("16384", 16_384), ("16k", 16_384), ("16K", 16_384), ("64KiB", 65_536), ("1m", 1_048_576)]
    {
        assert_eq!(settings(&["--body-limit", text]).body_limit, bytes, "{text}");
    }
}

#[test]
fn the_password_of_a_url_on_the_command_line_is_not_repeated() {
    for arguments in [
        &["postgres://u:se-cret@host/x"][..],
        &["storm", "--url", "http://u:se-cret@host"],
        &["migrate", "postgres://u:se-cret@host/x"],
    ] {
        let (code, stdout, stderr) = run(&mut payonce(arguments));
        assert!(code == 2 && stdout.is_empty() && stderr.contains("@host"), "{stderr}");
        assert!(!stderr.contains("se-cret"), "{stderr}");
    }
}

#[tokio::test]
async fn a_metrics_token_with_a_newline_at_its_end_lets_its_readers_in() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[("METRICS_TOKEN", "sesame\n")]);
    let mut wire = Wire::connect(serve.address).await;
    wire.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n\r\n")
        .await;
    assert_eq!(wire.status().await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_refused_before_anything_is_set_there() {
    let database = TestDatabase::create().await;
    let pooled = pooler::start(&database.options).await;
    let pooled = url(&pooled);
    for arguments in [
        &["serve"][..],
        &["serve", "--auto-migrate", "false"],
        &["migrate"],
        &["account", "list"],
        &["key", "show", "k"],
        &["sweep"],
    ] {
        let (code, stdout, stderr) = run(payonce(arguments).env("DATABASE_URL", &pooled));
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains("pool_mode = session"), "{arguments:?}: {stderr}");
    }
    let options: PgConnectOptions = pooled.parse().unwrap();
    let mut other = PgConnection::connect_with(&options).await.unwrap();
    let settings =
        raw_sql("SELECT current_setting('statement_timeout'), current_setting('lock_timeout')");
    let row = settings.fetch_one(&mut other).await.unwrap();
    assert_eq!((row.get::<&str, _>(0), row.get::<&str, _>(1)), ("0", "0"));
}
