//! Help, usage and completions.

use std::process::Stdio;

use clap::{Args, Command};
use payonce::config::Settings;
use payonce_testing::binary::{payonce, run};

#[test]
fn the_help_lists_every_setting() {
    let (code, stdout, _) = run(&mut payonce(&["--help"]));
    assert_eq!(code, 0);
    for argument in Settings::augment_args(Command::new("settings")).get_arguments() {
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert!(stdout.contains(&format!("[env: {variable}]")), "{variable}");
    }
    // The short help lists the commands.
    for text in ["DATABASE_URL", "RUST_LOG", "Exit codes"] {
        assert!(stdout.contains(text), "{text}");
    }
    // Everybody on the machine can read the arguments of a process.
    for secret in ["--database-url", "--metrics-token"] {
        assert!(!stdout.contains(secret), "{secret}");
    }
}

#[test]
fn the_short_help_is_one_page_and_names_every_command() {
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
        "events",
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
fn the_help_of_a_command_lists_only_its_own_settings() {
    let all: Vec<String> = Settings::augment_args(clap::Command::new("settings"))
        .get_arguments()
        .map(|setting| setting.get_env().unwrap().to_str().unwrap().to_owned())
        .collect();
    let lifetimes = ["IDEMPOTENCY_RESPONSE_TTL", "IDEMPOTENCY_KEY_TTL"];
    for (command, settings) in [
        ("migrate", &["LOG_FORMAT"][..]),
        ("sweep", &[&lifetimes[..], &["EVENT_TTL"]].concat()),
        ("healthcheck", &["HOST", "PORT", "REQUEST_DEADLINE"]),
        ("account", &[]),
        ("account create", &[]),
        ("account list", &[]),
        ("api-key create", &["IDEMPOTENCY_KEY_TTL", "REQUEST_DEADLINE"]),
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
        // Settings that are not listed are accepted: one environment serves all commands.
        let (_, _, stderr) = run(payonce(&arguments).env("MAX_BATCH", "3"));
        assert_eq!(stderr, "", "{command}");
    }
}

#[test]
fn a_usage_line_does_not_depend_on_the_environment() {
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

#[test]
fn completions_contain_every_command() {
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
fn a_closed_standard_output_is_no_error() {
    let mut command = payonce(&["completions", "bash"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
