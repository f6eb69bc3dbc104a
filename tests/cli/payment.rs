//! `payonce payment`: operators list and show payments.

use payonce_testing::{PAYMENT, TestDatabase, TestServer};
use serde_json::json;

#[tokio::test]
async fn keys_and_payments_are_those_of_the_named_account() {
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
            database.run(&["payment", "show", &payment, "--account", account]);
        assert_eq!((code, stdout.as_str()), (1, ""));
        assert!(stderr.contains("\"ada\" has no payment") && stderr.contains(&payment), "{stderr}");
    }
    database.operate(&["key", "void", "k", "--account", "ada", "--json"]);
    let of_default = ["key", "show", "k", "--account", "default", "--json"];
    assert_eq!(database.operate(&of_default)["state"], "completed");
    for arguments in
        [&["key", "show", "k"][..], &["payment", "list"], &["payment", "show", &payment]]
    {
        let (code, _, stderr) = database.run(&[arguments, &["--account", "nobody"]].concat());
        assert!(code == 1 && stderr.contains("no account \"nobody\""), "{stderr}");
    }
}

#[tokio::test]
async fn the_account_is_required_if_there_are_several() {
    let server = TestServer::start().await;
    let ada = server.account("ada").await;
    let payment = ada.paid("k", 100).await;
    for arguments in [
        &["payment", "list"][..],
        &["payment", "show", &payment],
        &["api-key", "create", "--name", "another"],
    ] {
        let (code, stdout, stderr) = server.database.run(arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains("name one with --account"), "{stderr}");
    }
    for command in ["show", "void"] {
        let (code, stdout, stderr) = server.database.run(&["key", command, "k"]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("--account"), "{stderr}");
        // The hash as it is logged.
        let named = ["key", command, "k", "--account", &ada.id];
        let (code, stdout, stderr) = server.database.run(&named);
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

    let (_, table, _) = database.run(&["payment", "list", "--limit", "2"]);
    let lines: Vec<&str> = table.lines().collect();
    assert!(
        lines[0].starts_with("ID ")
            && lines[2].ends_with("7       0         JPY       somebody else"),
        "{table}"
    );
    assert!(lines[1].ends_with("1.00    0.00      USD       user_1"), "{table}");
    assert!(lines.last().unwrap().ends_with(&format!("--cursor {cursor}")), "{table}");
    let (_, all, _) = database.run(&["payment", "list"]);
    assert_eq!(all.lines().count(), 4, "{all}");
    let (_, shown, _) = database.run(&["payment", "show", &payment]);
    assert!(shown.contains("1.00 USD") && shown.contains("0.40 USD"), "{shown}");
    assert!(shown.contains("REFUND ") && shown.trim_end().ends_with(" 0.40"), "{shown}");
}

#[tokio::test]
async fn invalid_arguments_are_refused_before_anything_is_done() {
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
        assert_eq!(database.run(arguments).0, 2, "{arguments:?}");
    }
    for command in ["show", "void"] {
        let (code, stdout, stderr) = database.run(&["key", command, "se cret"]);
        assert_eq!((code, stdout.as_str()), (2, ""));
        assert!(stderr.contains("a bare key") && !stderr.contains("se cret"), "{stderr}");
    }
    let older = TestDatabase::create_of_version(2).await;
    let (code, _, stderr) = older.run(&["sweep"]);
    assert!(code == 1 && stderr.contains("lacks 5 migrations: run payonce migrate"), "{stderr}");
    let empty = TestDatabase::create_empty().await;
    for arguments in [&["key", "void", "k"][..], &["payment", "list"], &["sweep"]] {
        let (code, _, stderr) = empty.run(arguments);
        assert!(code == 1 && stderr.contains("run payonce migrate"), "{stderr}");
    }
}
