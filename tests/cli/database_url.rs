//! `DATABASE_URL`: the accepted forms, and errors without secrets.

use payonce_testing::{
    TestDatabase,
    binary::{payonce, run, url},
    pooler,
};
use sqlx::{Connection, PgConnection, Row, postgres::PgConnectOptions, raw_sql};

/// Runs `payonce config` with this `DATABASE_URL`.
fn config(url: &str) -> (i32, String, String) {
    run(payonce(&["config"]).env("DATABASE_URL", url))
}

#[test]
fn an_invalid_database_url_is_reported_by_its_part_and_without_its_content() {
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
fn a_database_url_is_accepted_in_every_form_of_a_host() {
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
fn a_password_on_the_command_line_is_not_repeated() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_in_transaction_mode_is_refused() {
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

#[test]
fn without_a_database_url_the_error_says_how_to_get_a_database() {
    let (code, stdout, stderr) = run(&mut payonce(&[]));
    assert_eq!((code, stdout.as_str()), (2, ""));
    for way in [
        "DATABASE_URL is not set",
        "docker compose up",
        "scripts/with-postgres cargo run",
        "postgres://",
    ] {
        assert!(stderr.contains(way), "{way:?} in {stderr}");
    }
    assert!(!stderr.contains("stack backtrace"), "{stderr}");
    assert_eq!(run(payonce(&[]).env("DATABASE_URL", "")).0, 2);
}

#[test]
fn an_unreachable_database_is_reported_with_its_address() {
    let url = "postgres://payonce:se-cret@127.0.0.1:1/payonce";
    for command in ["serve", "migrate", "sweep"] {
        let (code, _, stderr) = run(payonce(&[command]).env("DATABASE_URL", url));
        assert_eq!(code, 1, "{stderr}");
        let told = stderr.contains("127.0.0.1:1: Connection refused");
        assert!(told && !stderr.contains("se-cret"), "{stderr}");
    }
}

#[test]
fn connecting_to_a_silent_database_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://payonce@{}/payonce", silent.local_addr().unwrap());
    let (code, _, stderr) = run(payonce(&["migrate"]).env("DATABASE_URL", url));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("didn't answer in time"), "{stderr}");
}

#[test]
fn an_invalid_database_url_is_refused_without_being_shown() {
    for url in
        ["mysql://root:se-cret@localhost/x", "se-cret", "postgres://user:se-cret@host:notaport/x"]
    {
        let (code, _, stderr) = run(payonce(&[]).env("DATABASE_URL", url));
        assert_eq!(code, 2);
        assert!(
            stderr.contains("DATABASE_URL can't be read") && !stderr.contains("se-cret"),
            "{stderr}"
        );
    }
}

#[test]
fn an_unknown_parameter_of_the_database_url_is_refused_without_its_value() {
    let server = "postgres://payonce@127.0.0.1:1/payonce";
    for (query, named) in [
        ("sslmod=se-cret", "parameter \"sslmod\""),
        ("sslmode=disable&pasword=se-cret", "parameter \"pasword\""),
        ("SSLMODE=se-cret", "parameter \"SSLMODE\""),
        ("%73slmod=se-cret", "parameter \"sslmod\""),
        ("options[lock_timeout=se-cret", "parameter \"options[lock_timeout\""),
        // Passwords that are not escaped.
        ("password=12&se-cret", "a parameter is unknown"),
        ("se-cret@db.example/payonce=", "a parameter is unknown"),
        ("se=cret@db.example/payonce", "a parameter is unknown"),
    ] {
        for command in ["serve", "migrate", "sweep", "account list", "payment list", "config"] {
            let mut command = payonce(&command.split(' ').collect::<Vec<_>>());
            let (code, stdout, stderr) =
                run(command.env("DATABASE_URL", format!("{server}?{query}")));
            assert!(code == 2 && stderr.contains(named), "{query}: {stderr}");
            assert!(!stdout.contains("se-cret") && !stderr.contains("se-cret"), "{stdout}{stderr}");
        }
    }
}

#[test]
fn every_documented_parameter_of_the_database_url_is_accepted() {
    let query = "sslmode=disable&ssl-mode=disable&sslrootcert=a&ssl-root-cert=a&ssl-ca=a&sslcert=a&ssl-cert=a\
                 &sslkey=a&ssl-key=a&statement-cache-capacity=9&host=a&hostaddr=127.0.0.1&port=9&dbname=d&user=u\
                 &password=p&application_name=a&options=-c%20x%3Dy&options[lock_timeout]=1s&%6Fptions%5Bx%5D=y";
    let url = format!("postgres://payonce@127.0.0.1:1/payonce?{query}");
    let (code, stdout, stderr) = run(payonce(&["config"]).env("DATABASE_URL", url));
    // sqlx would warn of a parameter that it ignores.
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains(" u@127.0.0.1:9/d "), "{stdout}");
}
