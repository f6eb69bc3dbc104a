//! The program: how it starts, what it says, how it stops.

use std::{
    fs,
    time::{Duration, Instant},
};

use clap::{Args, Command};
use payonce::config::Settings;
use sqlx::{ConnectOptions, Connection, raw_sql};

use crate::support::{
    PAYMENT, TestDatabase,
    binary::{Folder, Process, Serve, payonce, run, url},
    client::Wire,
    proxy::Proxy,
    server::settings,
    wait::until,
};

const SECOND: Duration = Duration::from_secs(1);

/// Sends a payment and returns the connection, before its answer.
async fn begin_payment(serve: &Serve, key: &str) -> Wire {
    let mut wire = Wire::connect(serve.address).await;
    wire.send_payment(
        &format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n"),
        PAYMENT,
    )
    .await;
    wire
}

#[test]
fn without_a_database_it_says_how_to_get_one() {
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
fn a_database_that_cannot_be_reached_is_said_plainly() {
    let url = "postgres://payonce:se-cret@127.0.0.1:1/payonce";
    for command in ["serve", "migrate", "sweep"] {
        let (code, _, stderr) = run(payonce(&[command]).env("DATABASE_URL", url));
        assert_eq!(code, 1, "{stderr}");
        let told = stderr.contains("127.0.0.1:1: Connection refused");
        assert!(told && !stderr.contains("se-cret"), "{stderr}");
    }
}

#[test]
fn a_database_that_says_nothing_is_given_up() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://payonce@{}/payonce", silent.local_addr().unwrap());
    let (code, _, stderr) = run(payonce(&["migrate"]).env("DATABASE_URL", url));
    assert_eq!(code, 1, "{stderr}");
    assert!(stderr.contains("didn't answer in time"), "{stderr}");
}

#[test]
fn a_database_url_that_is_none_is_refused_without_being_shown() {
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
fn a_parameter_of_the_database_url_that_is_not_known_is_refused_without_its_value() {
    let server = "postgres://payonce@127.0.0.1:1/payonce";
    for (query, named) in [
        ("sslmod=se-cret", "parameter \"sslmod\""),
        ("sslmode=disable&pasword=se-cret", "parameter \"pasword\""),
        ("SSLMODE=se-cret", "parameter \"SSLMODE\""),
        ("%73slmod=se-cret", "parameter \"sslmod\""),
        ("options[lock_timeout=se-cret", "parameter \"options[lock_timeout\""),
        // Passwords that should have been escaped.
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
fn every_parameter_of_the_database_url_that_is_taken_is_understood() {
    let query = "sslmode=disable&ssl-mode=disable&sslrootcert=a&ssl-root-cert=a&ssl-ca=a&sslcert=a&ssl-cert=a\
                 &sslkey=a&ssl-key=a&statement-cache-capacity=9&host=a&hostaddr=127.0.0.1&port=9&dbname=d&user=u\
                 &password=p&application_name=a&options=-c%20x%3Dy&options[lock_timeout]=1s&%6Fptions%5Bx%5D=y";
    let url = format!("postgres://payonce@127.0.0.1:1/payonce?{query}");
    let (code, stdout, stderr) = run(payonce(&["config"]).env("DATABASE_URL", url));
    // sqlx warns of what it ignores.
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.contains(" u@127.0.0.1:9/d "), "{stdout}");
}

#[test]
fn settings_that_contradict_each_other_are_refused() {
    for (flags, message) in [
        (
            ["--idempotency-key-ttl=1h", "--idempotency-response-ttl=2h"],
            "IDEMPOTENCY_KEY_TTL (1h) must be at least",
        ),
        (
            ["--idempotency-key-ttl=2h", "--idempotency-response-ttl=never"],
            "IDEMPOTENCY_KEY_TTL (2h) must be at least",
        ),
        (
            ["--idempotency-response-ttl=5s", "--port=0"],
            "IDEMPOTENCY_RESPONSE_TTL (5s) must be more than REQUEST_DEADLINE",
        ),
        (
            ["--in-flight-wait=10s", "--port=0"],
            "REQUEST_DEADLINE (10s) must be more than IN_FLIGHT_WAIT (10s)",
        ),
        (
            ["--request-deadline=400ms", "--in-flight-wait=1ms"],
            "REQUEST_DEADLINE (400ms) must be at least",
        ),
        (["--idempotency-response-ttl=200years", "--port=0"], "must be never, or at most"),
        (["--request-deadline=11m", "--port=0"], "REQUEST_DEADLINE (11m) must be at most"),
        (["--in-flight-wait=0s", "--port=0"], "IN_FLIGHT_WAIT (0s) must be at least"),
        (["--sweep-interval=0s", "--port=0"], "SWEEP_INTERVAL (0s) must be at least"),
        (["--keep-alive=25h", "--port=0"], "KEEP_ALIVE (1day 1h) must be at most"),
        (["--header-timeout=99ms", "--port=0"], "HEADER_TIMEOUT (99ms) must be at least"),
        (["--body-timeout=11m", "--port=0"], "BODY_TIMEOUT (11m) must be at most"),
        (["--shutdown-delay=11m", "--port=0"], "SHUTDOWN_DELAY (11m) must be at most"),
        (
            ["--account-queue-limit=2001", "--queue-limit=2000"],
            "ACCOUNT_QUEUE_LIMIT (2001) must be at most QUEUE_LIMIT (2000)",
        ),
        (
            ["--metrics-address=127.0.0.1:5000", "--port=5000"],
            "METRICS_ADDRESS (127.0.0.1:5000) must differ from the address of HOST (127.0.0.1) and PORT (5000)",
        ),
        (["--metrics-address=0.0.0.0:5000", "--port=5000"], "METRICS_ADDRESS (0.0.0.0:5000) must"),
        (["--metrics-address=[::]:5000", "--port=5000"], "METRICS_ADDRESS ([::]:5000) must"),
        (["--metrics-address=[::1]:5000", "--host=[::]"], "of HOST (::) and PORT (5000)"),
    ] {
        let (code, _, stderr) = run(payonce(&flags).env("DATABASE_URL", "postgres://localhost/x"));
        assert!(code == 2 && stderr.contains(message), "{flags:?}: {stderr}");
    }
}

#[test]
fn metrics_are_served_at_any_other_address() {
    for (metrics, host, port) in [
        ("127.0.0.1:5001", "127.0.0.1", 5000),
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("127.0.0.2:5000", "127.0.0.1", 5000),
        ("0.0.0.0:5000", "::1", 5000),
    ] {
        let settings =
            Settings { port, ..settings(&["--metrics-address", metrics, "--host", host]) };
        assert!(settings.validate().is_ok(), "{metrics} {host}");
    }
}

#[test]
fn an_account_has_three_quarters_of_the_queue_where_nothing_else_is_said() {
    for (queue, share) in [("4096", 3072), ("2000", 1500), ("3", 3), ("1", 1)] {
        assert_eq!(settings(&["--queue-limit", queue]).account_queue_limit(), share, "{queue}");
    }
    let all = settings(&["--queue-limit", "2000", "--account-queue-limit", "2000"]);
    assert_eq!(all.account_queue_limit(), 2000);
    assert!(all.validate().is_ok());
}

#[test]
fn a_setting_that_is_empty_counts_as_not_set() {
    let (code, _, stderr) = run(payonce(&[]).env("PORT", "").env("IDEMPOTENCY_KEY_TTL", ""));
    assert!(code == 2 && stderr.contains("DATABASE_URL is not set"), "{stderr}");
}

#[tokio::test]
async fn an_empty_log_filter_counts_as_not_set() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[("RUST_LOG", "")]);
    assert!(serve.log().contains("INFO"), "{}", serve.log());
}

#[test]
fn a_setting_that_cannot_be_read_is_named() {
    for (variable, value) in [
        ("PORT", "70000"),
        ("IN_FLIGHT_WAIT", "2"),
        ("MAX_BATCH", "0"),
        ("IDEMPOTENCY_REPLAY_STATUS", "200"),
        ("AUTO_MIGRATE", "perhaps"),
        ("READ_CONNECTIONS", "0"),
        ("BODY_LIMIT", "4095"),
        ("BODY_LIMIT", "1048577"),
        ("BODY_LIMIT", "16q"),
        ("METRICS_ADDRESS", "9100"),
        ("ACCOUNT_QUEUE_LIMIT", "0"),
        ("CONNECTION_LIMIT", "0"),
        ("DEFAULT_CURRENCY", "usd"),
        ("DEFAULT_CURRENCY", "XXX"),
    ] {
        let (code, _, stderr) = run(payonce(&[]).env(variable, value));
        let said = format!("payonce: {variable}={value} can't be read: ");
        assert!(code == 2 && stderr.starts_with(&said), "{variable}: {stderr}");
        assert!(stderr.contains(&format!(". For example {variable}=")), "{stderr}");
        // A flag is named as a flag, whatever the environment says.
        let flag = format!("--{}", variable.to_lowercase().replace('_', "-"));
        let mut command = payonce(&[&format!("{flag}={value}")]);
        let (code, _, stderr) = run(command.env(variable, value));
        assert!(
            code == 2 && stderr.contains(&flag) && !stderr.contains("can't be read"),
            "{stderr}"
        );
    }
}

#[test]
fn a_log_filter_that_would_silence_it_is_refused() {
    for filter in ["infoo", "verbose", "foo=bar=baz", "infoo,payonce::request=debug", "sqlx=debug"]
    {
        for command in ["serve", "config"] {
            let mut command = payonce(&[command]);
            let (code, stdout, stderr) = run(command.env("RUST_LOG", filter));
            assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
            let said = format!("payonce: RUST_LOG={filter:?} can't be read: ");
            assert!(stderr.starts_with(&said) && stderr.contains("debug, trace"), "{stderr}");
        }
    }
    for filter in ["off", " ", "error,sqlx=off"] {
        assert_eq!(run(payonce(&["config"]).env("RUST_LOG", filter)).0, 0, "{filter}");
    }
}

#[test]
fn the_help_lists_every_setting() {
    let (code, stdout, _) = run(&mut payonce(&["--help"]));
    assert_eq!(code, 0);
    for argument in Settings::augment_args(Command::new("settings")).get_arguments() {
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert!(stdout.contains(&format!("[env: {variable}]")), "{variable}");
    }
    // Commands: tests/api/command_line.rs.
    for text in ["DATABASE_URL", "RUST_LOG", "Exit codes"] {
        assert!(stdout.contains(text), "{text}");
    }
    // Whoever lists processes would read them.
    for secret in ["--database-url", "--metrics-token"] {
        assert!(!stdout.contains(secret), "{secret}");
    }
}

#[test]
fn the_example_environment_has_every_setting_with_its_default() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    let mut lines: Vec<&str> =
        example.lines().filter(|line| line.contains('=') && !line.contains(' ')).collect();
    for argument in Settings::augment_args(Command::new("settings")).get_arguments() {
        let variable = argument.get_env().unwrap().to_str().unwrap();
        let default = match (argument.get_default_values().first(), variable) {
            (Some(default), _) => default.to_str().unwrap(),
            // As it follows from another setting's default.
            (None, "ACCOUNT_QUEUE_LIMIT") => "3072",
            (None, _) => "",
        };
        let line = format!("#{variable}={default}");
        let place = lines
            .iter()
            .position(|found| *found == line)
            .unwrap_or_else(|| panic!("{line} is missing"));
        lines.remove(place);
    }
    let secret_or_log = ["DATABASE_URL=", "#METRICS_TOKEN=", "#RUST_LOG=info"];
    lines.retain(|line| !secret_or_log.iter().any(|begin| line.starts_with(begin)));
    assert!(lines.is_empty(), "not known: {lines:?}");
}

#[tokio::test]
async fn settings_are_read_from_flags_then_the_environment_then_dot_env() {
    let database = TestDatabase::create().await;
    let folder = Folder::new("precedence");
    let dot_env =
        format!("DATABASE_URL={}\nMAX_BATCH=3\nQUEUE_LIMIT=33\nPORT=0\n", url(&database.options));
    fs::write(folder.0.join(".env"), dot_env).unwrap();
    let mut command = payonce(&["--committers", "2", "--queue-limit", "35"]);
    command
        .current_dir(&folder.0)
        .env("QUEUE_LIMIT", "34")
        .env("COMMITTERS", "7")
        .env("IN_FLIGHT_WAIT", "1s");
    let mut serve = Serve::spawn(&mut command);
    let log = serve.wait_for("/docs");
    assert!(log.contains("committers 2, payments per transaction 3, queue 35"), "{log}");
    assert!(log.contains("in-flight wait 1s"), "{log}");
}

#[test]
fn dot_env_is_that_of_the_working_directory_alone() {
    let folder = Folder::new("above");
    let below = folder.0.join("below");
    fs::create_dir_all(below.join("a folder/.env")).unwrap();
    fs::write(folder.0.join(".env"), "MAX_BATCH=3\n").unwrap();
    for (directory, batch) in [(&folder.0, "3"), (&below, "512"), (&below.join("a folder"), "512")]
    {
        let (code, stdout, stderr) = run(payonce(&["config"]).current_dir(directory));
        let line = stdout.lines().find(|line| line.starts_with("MAX_BATCH ")).unwrap();
        assert!(code == 0 && line.split_whitespace().nth(1) == Some(batch), "{line}{stderr}");
    }
}

#[test]
fn a_broken_dot_env_is_reported_without_what_stands_in_it() {
    let folder = Folder::new("broken");
    fs::write(folder.0.join(".env"), "PORT=5001\nDATABASE_URL='postgres://user:se-cret@host/x\n")
        .unwrap();
    let (code, _, stderr) = run(payonce(&[]).current_dir(&folder.0));
    assert!(code == 2 && stderr.contains(".env can't be read"), "{stderr}");
    assert!(!stderr.contains("se-cret"), "{stderr}");
}

#[tokio::test]
async fn it_says_at_start_what_matters_and_nothing_secret() {
    let database = TestDatabase::create().await;
    let url = database.options.to_url_lossy();
    // Where no password is asked for, any will do.
    let password = url.password().unwrap_or("se-cret");
    let mut serve = Serve::start(&database.options.clone().password(password), &[]);
    let log = serve.wait_for("/docs");
    let name = database.options.get_database().unwrap();
    for text in
        [&format!("payonce {} listens on http://127.0.0.1:", env!("CARGO_PKG_VERSION")), name]
    {
        assert!(log.contains(text), "{text:?} in {log}");
    }
    assert!(!log.contains(&format!(":{password}@")), "{log}");
    let last = log.lines().last().unwrap();
    assert!(last.ends_with(&format!("open http://{}/docs", serve.address)), "{log}");
    let port = format!(":{}", serve.address.port());
    assert_eq!(log.matches(&port).count(), 2, "where it listens, and where to try it: {log}");
    let migrations = log.lines().filter(|line| line.contains("payonce::database")).count();
    assert_eq!((migrations, log.contains("actix")), (1, false), "{log}");
}

#[tokio::test]
async fn a_port_that_is_taken_is_reported_with_the_setting_that_chooses_another() {
    let database = TestDatabase::create().await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    for (variable, value) in
        [("PORT", address.port().to_string()), ("METRICS_ADDRESS", address.to_string())]
    {
        let mut serve = payonce(&["serve"]);
        serve.env("DATABASE_URL", url(&database.options)).env("PORT", "0").env(variable, value);
        let (code, _, stderr) = run(&mut serve);
        assert!(code == 1 && stderr.contains(&format!("can't listen on {address}")), "{stderr}");
        assert!(stderr.contains(&format!("choose a free port, as in {variable}=")), "{stderr}");
    }
}

#[tokio::test]
async fn a_replay_is_logged_and_no_key_body_or_path_is() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(
        &database.options,
        &[("RUST_LOG", "trace,sqlx=warn,mio=warn,actix_http=warn")],
    );
    for status in [201, 200] {
        assert_eq!(begin_payment(&serve, "se-cret-key").await.status().await, status);
    }
    let mut wire = Wire::connect(serve.address).await;
    wire.send(
        "GET /payment/se-cret-path?se=cret HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: my-id\r\n\r\n",
    )
    .await;
    let (_, problem) = wire.answer().await.unwrap();
    let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();

    let log = serve.wait_for(instance);
    assert!(log.contains("DEBUG payonce::http::idempotent] Cached response"), "{log}");
    assert!(
        log.contains("method=GET route=/payment/{transaction_id} status=404")
            && log.contains("client_request_id=my-id"),
        "{log}"
    );
    let answered = "answered method=POST route=/payment status=201";
    assert!(log.contains(answered), "a line for each request can be had: {log}");
    for secret in ["se-cret", "user_1", "se=cret"] {
        assert!(!log.contains(secret), "{secret:?} in {log}");
    }
}

#[tokio::test]
async fn a_failure_is_logged_with_its_cause_and_without_the_values_of_rows() {
    let database = TestDatabase::create().await;
    database
        .execute("ALTER TABLE payments ADD CONSTRAINT no_such_user CHECK (user_id <> 'user_1')")
        .await;
    let mut serve = Serve::start(&database.options, &[]);
    let (_, problem) = begin_payment(&serve, "k").await.answer().await.unwrap();
    let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();
    let log = serve.wait_for(instance);
    let line = log.lines().find(|line| line.contains(instance)).unwrap();
    assert!(
        line.contains("ERROR") && line.contains("no_such_user") && line.contains("SQLSTATE 23514"),
        "{line}"
    );
    assert!(!log.contains("user_1"), "{log}");
}

#[tokio::test]
async fn a_refusal_that_is_stored_is_logged_by_its_instance_whenever_it_is_answered() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    let refund = "POST /payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0/refund HTTP/1.1\r\nHost: localhost\r\n\
                  Content-Type: application/json\r\nIdempotency-Key: k\r\nContent-Length: 19\r\n\r\n\
                  {\"remaining\": true}";
    for answers in 1..=2 {
        let mut wire = Wire::connect(serve.address).await;
        wire.send(refund).await;
        let (_, problem) = wire.answer().await.unwrap();
        let instance = problem.split("urn:uuid:").nth(1).unwrap().split('"').next().unwrap();
        let logged = async || serve.log().matches(instance).count() >= answers;
        until("the refusal is logged", logged).await;
        let line = "not-found method=POST route=/payment/{transaction_id}/refund status=404";
        assert!(serve.log().contains(line), "{}", serve.log());
    }
}

#[tokio::test]
async fn serve_migrates_and_a_second_server_at_once_does_no_harm() {
    let database = TestDatabase::create_empty().await;
    let (one, two) = std::thread::scope(|scope| {
        let start = || Serve::start(&database.options, &[]);
        let (one, two) = (scope.spawn(start), scope.spawn(start));
        (one.join().unwrap(), two.join().unwrap())
    });
    assert_eq!(begin_payment(&one, "k").await.status().await, 201);
    assert_eq!(begin_payment(&two, "k").await.status().await, 200);
}

#[tokio::test]
async fn migrate_can_be_left_to_somebody_else() {
    let database = TestDatabase::create_empty().await;
    let database_url = url(&database.options);
    let serve =
        || run(payonce(&["serve"]).env("DATABASE_URL", &database_url).env("AUTO_MIGRATE", "false"));
    let (code, _, stderr) = serve();
    let migrations = fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).unwrap();
    let lacks = format!("lacks {} migrations", migrations.count());
    assert!(code == 1 && stderr.contains(&lacks) && stderr.contains("payonce migrate"), "{stderr}");
    for _ in 0..2 {
        assert_eq!(run(payonce(&["migrate"]).env("DATABASE_URL", &database_url)).0, 0);
    }
    let serve = Serve::start(&database.options, &[("AUTO_MIGRATE", "false")]);
    assert_eq!(begin_payment(&serve, "k").await.status().await, 201);
}

#[tokio::test]
async fn a_migration_does_not_wait_for_ever_for_a_table_in_use() {
    let database = TestDatabase::create_empty().await;
    let mut holder = database.connect().await;
    // The lock that every migration takes first.
    raw_sql("CREATE TABLE _sqlx_migrations (version bigint PRIMARY KEY, description text NOT NULL,
             installed_on timestamptz NOT NULL DEFAULT now(), success boolean NOT NULL, checksum bytea NOT NULL,
             execution_time bigint NOT NULL); BEGIN; LOCK TABLE _sqlx_migrations IN SHARE MODE")
        .execute(&mut holder)
        .await
        .unwrap();
    let mut migrate =
        Process::spawn(payonce(&["migrate"]).env("DATABASE_URL", url(&database.options)));
    migrate.wait_for("a migration waits for a lock");
    raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let (status, log) = migrate.wait();
    assert!(status.success(), "{log}");
}

#[tokio::test]
async fn sweep_says_what_it_deleted() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    begin_payment(&serve, "k").await.status().await;
    database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    let (code, stdout, _) = run(payonce(&["sweep"]).env("DATABASE_URL", url(&database.options)));
    assert_eq!((code, stdout.as_str()), (0, "1 expired responses and 0 expired keys deleted\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn healthcheck_exits_by_whether_the_server_is_ready_and_says_why_not() {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(&database.options).await;
    // As the server counts: a half of it is what readiness takes where nobody answers.
    let mut serve = Serve::start(&proxy.through(&database.options), &[("REQUEST_DEADLINE", "8s")]);
    let port = serve.address.port().to_string();
    let check = |host: &str| {
        let settings = [("PORT", port.as_str()), ("HOST", host), ("REQUEST_DEADLINE", "8s")];
        run(payonce(&["healthcheck"]).envs(settings))
    };
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        assert_eq!(check(host).0, 0, "{host}");
    }
    let assert_not = |why: &str| {
        let (code, _, stderr) = check("127.0.0.1");
        assert!(code == 1 && stderr.contains(why), "{why}: {stderr}");
    };
    database.execute("UPDATE _sqlx_migrations SET success = false").await;
    assert_not("not ready: HTTP/1.1 503");
    database.execute("UPDATE _sqlx_migrations SET success = true").await;
    assert_eq!(check("127.0.0.1").0, 0);
    proxy.redirect(&database.options.clone().port(1)).await;
    proxy.cut_all();
    assert_not("not ready: HTTP/1.1 503");
    serve.signal("STOP");
    assert_not(&format!("no response from 127.0.0.1:{port} within 5s"));
    serve.signal("KILL");
    serve.wait();
    assert_not("can't reach 127.0.0.1");
}

#[tokio::test]
async fn a_signal_lets_what_was_accepted_be_answered() {
    for signal in ["TERM", "INT"] {
        let database = TestDatabase::create().await;
        let patient = [("IN_FLIGHT_WAIT", "1m"), ("REQUEST_DEADLINE", "2m")];
        let mut serve = Serve::start(&database.options, &patient);
        let mut idle = Wire::connect(serve.address).await;
        idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(idle.status().await, 200);
        let holder = database.lock_payments().await;
        let mut accepted = begin_payment(&serve, "k").await;
        database.until_locks_are_waited_for(1).await;
        serve.signal(signal);
        serve.wait_for("finishing accepted requests");
        // Long enough for a server that waits for nothing to end.
        tokio::time::sleep(SECOND / 5).await;
        holder.close().await.unwrap();
        assert_eq!(accepted.status().await, 201);
        drop(accepted);
        let (status, log) = serve.wait();
        assert!(status.success() && log.contains("stopped"), "{status}: {log}");
        assert_eq!(database.payments().await, 1);
    }
}

#[tokio::test]
async fn idle_clients_do_not_hold_up_a_stop() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("REQUEST_DEADLINE", "5m")]);
    let mut idle = Wire::connect(serve.address).await;
    idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.status().await, 200);
    let _silent = Wire::connect(serve.address).await;
    let begun = Instant::now();
    serve.signal("TERM");
    let (status, _) = serve.wait();
    assert!(status.success());
    assert!(begun.elapsed() < 30 * SECOND, "it waited for the deadline: {:?}", begun.elapsed());
}

#[tokio::test]
async fn an_idle_connection_is_kept_for_keep_alive_and_no_longer() {
    let database = TestDatabase::create().await;
    // Longer than the framework keeps it by default, and shorter than payonce does.
    let serve = Serve::start(&database.options, &[("KEEP_ALIVE", "6s")]);
    let mut idle = Wire::connect(serve.address).await;
    let begun = Instant::now();
    idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.status().await, 200);
    assert_eq!(idle.answer().await, None);
    assert!((11 * SECOND / 2..75 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[]);
    let _holder = database.lock_payments().await;
    let _accepted = begin_payment(&serve, "k").await;
    database.until_locks_are_waited_for(1).await;
    serve.signal("TERM");
    serve.wait_for("a second signal stops at once");
    serve.signal("TERM");
    let (status, _) = serve.wait();
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn stopping_is_bounded_when_the_database_is_stuck() {
    let database = TestDatabase::create().await;
    let mut serve =
        Serve::start(&database.options, &[("REQUEST_DEADLINE", "1s"), ("IN_FLIGHT_WAIT", "500ms")]);
    let _holder = database.lock_payments().await;
    let mut accepted = begin_payment(&serve, "k").await;
    database.until_locks_are_waited_for(1).await;
    serve.signal("TERM");
    let status = accepted.status().await;
    assert!([409, 503].contains(&status), "{status}");
    let (status, _) = serve.wait();
    assert!(status.success());
}
