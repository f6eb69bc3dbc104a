//! `payonce config`: the settings in force and their sources.

use std::fs;

use payonce_testing::binary::{Folder, payonce, run};
use serde_json::{Value, json};

/// Value and source of a setting in `payonce config --json`.
fn setting(all: &Value, name: &str) -> (Value, Value) {
    let found = all.as_array().unwrap().iter().find(|setting| setting["name"] == name).unwrap();
    (found["value"].clone(), found["source"].clone())
}

#[test]
fn config_shows_each_value_and_its_source() {
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
fn config_also_shows_invalid_settings_and_a_missing_database() {
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
