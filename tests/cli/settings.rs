//! Settings: their sources, their limits, and errors that name them.

use std::fs;

use clap::{Args, Command};
use payonce::config::Settings;
use payonce_testing::{
    TestDatabase,
    binary::{Serve, payonce, run},
    client::Wire,
    server::settings,
};

#[test]
fn a_metrics_token_that_no_header_can_carry_is_refused_without_being_shown() {
    let url = "postgres://u@127.0.0.1:1/x";
    for token in ["se-cret\nse-cret", "se-cret token", "se-crét"] {
        for command in ["serve", "config"] {
            let mut command = payonce(&[command]);
            let (code, stdout, stderr) =
                run(command.env("DATABASE_URL", url).env("METRICS_TOKEN", token));
            assert!(code == 2 && stderr.contains("METRICS_TOKEN can't be sent"), "{stderr}");
            assert!(!stderr.contains("se-cr") && !stdout.contains("se-cr"), "{stdout}{stderr}");
        }
    }
}

#[test]
fn a_webhook_secret_that_cannot_be_random_is_refused_without_being_shown() {
    let url = "postgres://u@127.0.0.1:1/x";
    let whole = "a-se-cret-of-thirty-two-characters";
    for list in ["se-cret", &format!("{whole},"), &format!("{whole},se-cret"), &"sé-cret".repeat(9)]
    {
        for command in ["serve", "config"] {
            let mut command = payonce(&[command]);
            let (code, stdout, stderr) =
                run(command.env("DATABASE_URL", url).env("WEBHOOK_SECRET", list));
            assert!(code == 2 && stderr.contains("WEBHOOK_SECRET can't be used"), "{stderr}");
            assert!(stderr.contains("openssl rand -base64 32"), "{stderr}");
            assert!(!stderr.contains("cret-of") && !stdout.contains("cret-of"), "{stdout}{stderr}");
        }
    }
    let (code, stdout, stderr) = run(payonce(&["config"]).env("WEBHOOK_SECRET", whole));
    assert!(
        code == 0 && stdout.contains("(secret)") && !stdout.contains(whole),
        "{stdout}{stderr}"
    );
}

#[test]
fn a_body_limit_may_have_a_unit() {
    for (text, bytes) in
        [("16384", 16_384), ("16k", 16_384), ("16K", 16_384), ("64KiB", 65_536), ("1m", 1_048_576)]
    {
        assert_eq!(settings(&["--body-limit", text]).body_limit, bytes, "{text}");
    }
}

#[tokio::test]
async fn a_trailing_newline_of_a_metrics_token_is_ignored() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[("METRICS_TOKEN", "sesame\n")]);
    let mut wire = Wire::connect(serve.address).await;
    wire.send("GET /metrics HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer sesame\r\n\r\n")
        .await;
    assert_eq!(wire.status().await, 200);
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
        (["--keep-alive=0s", "--port=0"], "KEEP_ALIVE (0s) must be at least"),
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
fn the_metrics_address_may_be_any_other_than_the_main_one() {
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
fn an_account_gets_three_quarters_of_the_queue_by_default() {
    for (queue, share) in [("4096", 3072), ("2000", 1500), ("3", 3), ("1", 1)] {
        assert_eq!(settings(&["--queue-limit", queue]).account_queue_limit(), share, "{queue}");
    }
    let all = settings(&["--queue-limit", "2000", "--account-queue-limit", "2000"]);
    assert_eq!(all.account_queue_limit(), 2000);
    assert!(all.validate().is_ok());
}

#[test]
fn an_empty_setting_counts_as_not_set() {
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
fn an_invalid_setting_is_reported_by_name() {
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
        ("WEBHOOK_ALLOWED_NETWORKS", "10.0.0.0/33"),
        ("ACCOUNT_QUEUE_LIMIT", "0"),
        ("CONNECTION_LIMIT", "0"),
        ("DEFAULT_CURRENCY", "usd"),
        ("DEFAULT_CURRENCY", "XXX"),
    ] {
        let (code, _, stderr) = run(payonce(&[]).env(variable, value));
        let said = format!("payonce: {variable}={value} can't be read: ");
        assert!(code == 2 && stderr.starts_with(&said), "{variable}: {stderr}");
        assert!(stderr.contains(&format!(". For example {variable}=")), "{stderr}");
        // A flag is reported as a flag, whatever the environment contains.
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
fn a_log_filter_that_would_silence_the_server_is_refused() {
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
fn the_example_environment_contains_every_setting_with_its_default() {
    let example = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.example")).unwrap();
    let mut lines: Vec<&str> =
        example.lines().filter(|line| line.contains('=') && !line.contains(' ')).collect();
    for argument in Settings::augment_args(Command::new("settings")).get_arguments() {
        let variable = argument.get_env().unwrap().to_str().unwrap();
        let default = match (argument.get_default_values().first(), variable) {
            (Some(default), _) => default.to_str().unwrap(),
            // It follows from the default of another setting.
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
    let secret_or_log = ["DATABASE_URL=", "#METRICS_TOKEN=", "#WEBHOOK_SECRET=", "#RUST_LOG=info"];
    lines.retain(|line| !secret_or_log.iter().any(|begin| line.starts_with(begin)));
    assert!(lines.is_empty(), "not known: {lines:?}");
}
