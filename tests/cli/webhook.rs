//! `payonce webhook`.

use payonce_testing::{TestDatabase, server::WEBHOOK_SECRET};
use serde_json::{Value, json};

const CREATE: [&str; 4] = ["webhook", "create", "--url", "http://127.0.0.1:9/hook"];

/// Runs `payonce webhook` with the settings of a server: exit code, standard output and standard error.
fn run(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    let mut command = database.payonce(arguments);
    command.env("WEBHOOK_SECRET", WEBHOOK_SECRET).env("WEBHOOK_ALLOWED_NETWORKS", "127.0.0.0/8");
    payonce_testing::binary::run(&mut command)
}

#[track_caller]
fn operate(database: &TestDatabase, arguments: &[&str]) -> Value {
    let (code, stdout, stderr) = run(database, &[arguments, &["--json"]].concat());
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[tokio::test]
async fn a_secret_is_shown_by_creation_and_rotation_alone() {
    let database = TestDatabase::create().await;
    let (code, text, stderr) = run(&database, &CREATE);
    assert_eq!(code, 0, "{stderr}");
    assert!(text.contains("shown only now:\n\nwhsec_"), "{text}");
    let secret = &text[text.find("whsec_").unwrap()..].trim();
    assert_eq!(secret.len(), 50);
    let list = operate(&database, &["webhook", "list"]);
    let id = list["webhook_endpoints"][0]["endpoint_id"].as_str().unwrap().to_owned();
    let (code, rotated, stderr) = run(&database, &["webhook", "rotate", &id]);
    assert!(code == 0 && rotated.contains("signs as well until 20"), "{rotated}{stderr}");
    assert!(rotated.contains("whsec_") && !rotated.contains(secret), "{rotated}");
    for command in ["show", "enable", "disable", "list"] {
        let arguments = ["webhook", command, &id];
        let arguments = if command == "list" { &arguments[..2] } else { &arguments[..] };
        let (code, table, stderr) = run(&database, arguments);
        assert_eq!(code, 0, "{command}: {stderr}");
        assert!(!table.contains("whsec_") && table.contains("http://127.0.0.1:9/hook"), "{table}");
        let shown = operate(&database, arguments).to_string();
        assert!(!shown.contains("whsec_") && shown.contains(&id), "{shown}");
    }
}

#[tokio::test]
async fn an_endpoint_has_the_fields_that_were_given() {
    let database = TestDatabase::create().await;
    let given = [
        "--event-type",
        "refund.created",
        "--event-type",
        "refund.created",
        "--description",
        "größe",
        "--disabled",
    ];
    let created = operate(&database, &[&CREATE[..], &given].concat());
    let id = created["endpoint_id"].as_str().unwrap();
    let show = |arguments: &[&str]| operate(&database, &[&["webhook"], arguments, &[id]].concat());
    let shown = show(&["show"]);
    for (name, value) in [
        ("event_types", json!(["refund.created"])),
        ("description", json!("größe")),
        ("enabled", json!(false)),
    ] {
        assert_eq!((&created[name], &shown[name]), (&value, &value), "{name}");
    }
    assert_eq!(show(&["enable"])["enabled"], true);
    assert_eq!(show(&["disable"])["enabled"], false);
    let (_, table, _) = run(&database, &["webhook", "show", id]);
    for line in
        ["events       refund.created", "state        disabled", "behind       0 events, 0 s"]
    {
        assert!(table.lines().any(|found| found == line), "{line}: {table}");
    }
    show(&["delete"]);
    let (code, _, stderr) = run(&database, &["webhook", "show", id]);
    assert!(code == 1 && stderr.contains("has no webhook endpoint"), "{stderr}");
}

#[tokio::test]
async fn events_are_sent_once_more_if_they_are_kept() {
    let database = TestDatabase::create().await;
    let created = operate(&database, &CREATE);
    let id = created["endpoint_id"].as_str().unwrap();
    let replay = |from: &'static str, to: &'static str| {
        run(&database, &["webhook", "replay", id, "--from", from, "--to", to])
    };
    let (code, _, stderr) = replay("1", "2");
    assert!(
        code == 2
            && stderr.contains("--to: expected the position of an event, and there is none yet"),
        "{stderr}"
    );
    let run_of_two = "
        INSERT INTO payments (transaction_id, account_id, user_id, amount, currency)
        SELECT ('00000000-0000-7000-8000-00000000000' || number)::uuid, account_id, 'u', 1, 'USD'
        FROM accounts, generate_series(1, 2) AS number;
        INSERT INTO event_runs (account_id, first_position, version, types, subjects, at)
        SELECT account_id, 1, 1, '{1}', array_agg(transaction_id), now() FROM payments GROUP BY account_id";
    database.execute(run_of_two).await;
    let (code, text, stderr) = replay("1", "2");
    assert!(code == 0 && text.contains("from 1 to 2"), "{text}{stderr}");
    assert_eq!(
        operate(&database, &["webhook", "show", id])["replay"],
        json!({ "from": 1, "to": 2 })
    );
    for (from, to, error) in
        [("1", "3", "--to: expected at most 2"), ("2", "1", "--from: expected at most --to")]
    {
        let (code, _, stderr) = replay(from, to);
        assert!(code == 2 && stderr.contains(error), "{stderr}");
    }
}

#[tokio::test]
async fn an_error_says_what_to_do() {
    let database = TestDatabase::create().await;
    let (code, _, stderr) = database.run(&CREATE);
    assert!(code == 2 && stderr.contains("openssl rand -base64 32"), "{stderr}");
    for (arguments, text) in [
        (
            ["create", "--url", "http://10.0.0.1/"],
            "--url: the host has an address that is not public",
        ),
        (["create", "--url", "ftp://example.com/"], "expected an https:// URL"),
        (["create", "--event-type", "x"], "expected one of payment.created"),
        (["create", "--description", "a\u{7}"], "at most 500 characters"),
        (["show", "--account", "default"], "<ENDPOINT_ID>"),
    ] {
        let (code, _, stderr) = run(&database, &[&["webhook"][..], &arguments].concat());
        assert!(code == 2 && stderr.contains(text), "{arguments:?}: {stderr}");
    }
    let unknown = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    for command in ["show", "enable", "rotate", "delete"] {
        let (code, _, stderr) = run(&database, &["webhook", command, unknown]);
        assert!(code == 1 && stderr.contains("payonce webhook list shows all"), "{stderr}");
    }
    for number in 0..50 {
        let insert = format!(
            "INSERT INTO webhook_endpoints (account_id, endpoint_id, url, event_types, description, key_id, secret, after_position)
             SELECT account_id, ('00000000-0000-7000-8000-0000000000' || {})::uuid, 'https://a/', '{{}}', '', '', '', 0 FROM accounts",
            number + 10
        );
        database.execute(&insert).await;
    }
    let (code, _, stderr) = run(&database, &CREATE);
    assert!(code == 1 && stderr.contains("can't have more: delete one"), "{stderr}");
}
