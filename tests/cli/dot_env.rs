//! The file `.env` of the working directory.

use std::fs;

use payonce_testing::{
    TestDatabase,
    binary::{Folder, Serve, payonce, run, url},
};

#[test]
fn an_invalid_line_of_dot_env_is_reported_by_its_number_only() {
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
fn only_the_dot_env_of_the_working_directory_is_read() {
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
fn an_invalid_dot_env_is_reported_without_its_content() {
    let folder = Folder::new("broken");
    fs::write(folder.0.join(".env"), "PORT=5001\nDATABASE_URL='postgres://user:se-cret@host/x\n")
        .unwrap();
    let (code, _, stderr) = run(payonce(&[]).current_dir(&folder.0));
    assert!(code == 2 && stderr.contains(".env can't be read"), "{stderr}");
    assert!(!stderr.contains("se-cret"), "{stderr}");
}
