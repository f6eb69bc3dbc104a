//! What operators do with accounts and API keys, on the command line.

use sqlx::Connection;

use crate::support::{
    TestDatabase, TestServer,
    binary::{payonce, run, url},
};

/// The program's exit code and what it printed.
fn operate(database: &TestDatabase, arguments: &[&str]) -> (i32, String, String) {
    run(payonce(arguments).env("DATABASE_URL", url(&database.options)).env("RUST_LOG", "warn"))
}

/// The id of the only API key.
fn only_key(database: &TestDatabase) -> String {
    let keys = database.operate(&["api-key", "list", "--json"]);
    assert_eq!(keys.as_array().unwrap().len(), 1);
    keys[0]["api_key_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn accounts_are_created_and_listed() {
    let database = TestDatabase::create().await;
    let (code, stdout, stderr) = operate(&database, &["account", "create", "Ada's shop"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (code, list, _) = operate(&database, &["account", "list"]);
    let lines: Vec<&str> = list.lines().collect();
    assert!(code == 0 && lines.len() == 3 && lines[0].starts_with("ID "), "{list}");
    assert!(lines[1].contains("00000000-0000-0000-0000-000000000000  default"), "{list}");
    let id = lines[2].split(' ').next().unwrap();
    assert!(lines[2].contains("Ada's shop") && stdout.contains(id), "{list}{stdout}");

    let json = database.operate(&["account", "list", "--json"]);
    assert_eq!(json[1]["account_id"], id);
    assert_eq!(json[1]["name"], "Ada's shop");
    assert_eq!(json[1]["created_at"].as_str().unwrap().len(), "2026-11-24T09:00:00.000Z".len());
    let created = database.operate(&["account", "create", "bob", "--json"]);
    assert_eq!(created["name"], "bob");
}

#[tokio::test]
async fn a_name_is_one_accounts_alone_and_not_like_an_id() {
    let database = TestDatabase::create().await;
    let (code, stdout, stderr) = operate(&database, &["account", "create", "default"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("there is an account \"default\" already"), "{stderr}");
    for name in ["", " a", "a\nb", &"a".repeat(101), "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0"] {
        let (code, _, stderr) = operate(&database, &["account", "create", name]);
        assert!(code == 2 && stderr.contains("a name "), "{stderr}");
        let key = ["api-key", "create", "--name", name];
        assert_eq!(operate(&database, &key).0, 2);
    }
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_stored_as_its_hash() {
    let database = TestDatabase::create().await;
    operate(&database, &["account", "create", "ada"]);
    let create = ["api-key", "create", "--account", "ada", "--name", "web shop"];
    let (code, stdout, stderr) = operate(&database, &create);
    assert_eq!(code, 0, "{stderr}");
    let key = stdout.lines().find(|line| line.starts_with("payonce_")).unwrap();
    assert!(stdout.contains(&format!("Authorization: Bearer {key}")), "{stdout}");
    assert!(stderr.contains("anonymous calls end with it"), "{stderr}");

    let mut conn = database.connect().await;
    let stored: String =
        sqlx::query_scalar("SELECT k::text FROM api_keys AS k").fetch_one(&mut conn).await.unwrap();
    let hash: bool =
        sqlx::query_scalar("SELECT hash = sha256(convert_to($1, 'UTF8')) FROM api_keys")
            .bind(key)
            .fetch_one(&mut conn)
            .await
            .unwrap();
    conn.close().await.unwrap();
    assert!(hash && !stored.contains(&key[8..40]), "{stored}");

    let (_, list, _) = operate(&database, &["api-key", "list"]);
    let line = list.lines().nth(1).unwrap();
    let ending = format!("…{}", &key[76..]);
    assert!(line.contains("ada") && line.contains("web shop") && line.contains(&ending), "{list}");
    assert!(!list.contains(&key[8..40]), "{list}");

    let (_, _, stderr) = operate(&database, &create);
    assert_eq!(stderr, "", "anonymous calls have ended already");
}

#[tokio::test]
async fn a_created_key_can_be_read_by_programs_and_used() {
    let server = TestServer::start().await;
    let key = server.database.create_api_key("default");
    for (member, value) in [
        ("account_id", "00000000-0000-0000-0000-000000000000"),
        ("account", "default"),
        ("name", "test"),
    ] {
        assert_eq!(key[member], value);
    }
    assert!(key["last_used_at"].is_null() && key["revoked_at"].is_null());
    let client = server.showing(&format!("Bearer {}", key["api_key"].as_str().unwrap()));
    assert_eq!(client.get("/payment/x").await.status, 404);
}

#[tokio::test]
async fn api_keys_are_listed_for_an_account_or_for_all() {
    let database = TestDatabase::create().await;
    let ada = database.operate(&["account", "create", "ada", "--json"]);
    let ada = ada["account_id"].as_str().unwrap();
    let first = database.create_api_key("ada");
    let second = database.create_api_key(ada);
    database.create_api_key("default");
    let count = |arguments: &[&str]| database.operate(arguments).as_array().unwrap().len();
    assert_eq!(count(&["api-key", "list", "--json"]), 3);
    assert_eq!(count(&["api-key", "list", "--account", "ada", "--json"]), 2);
    let of_ada = database.operate(&["api-key", "list", "--account", ada, "--json"]);
    assert_eq!(of_ada[0]["api_key_id"], first["api_key_id"]);
    assert_eq!(of_ada[1]["api_key_id"], second["api_key_id"]);
    assert!(of_ada[0].get("api_key").is_none() && of_ada[0].get("hash").is_none());
}

#[tokio::test]
async fn revoking_a_key_again_changes_nothing() {
    let database = TestDatabase::create().await;
    database.create_api_key("default");
    let id = only_key(&database);
    let (code, stdout, _) = operate(&database, &["api-key", "revoke", &id]);
    assert!(code == 0 && stdout.contains("within 5 seconds"), "{stdout}");
    let first = database.operate(&["api-key", "list", "--json"]);
    let again = database.operate(&["api-key", "revoke", &id, "--json"]);
    assert!(again["revoked_at"].is_string());
    assert_eq!(again["revoked_at"], first[0]["revoked_at"]);
}

#[tokio::test]
async fn what_is_not_there_is_named_on_stderr() {
    let database = TestDatabase::create().await;
    let nobody = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    for (arguments, message) in [
        (&["api-key", "create", "--account", "nobody", "--name", "n"][..], "no account \"nobody\""),
        (&["api-key", "list", "--account", nobody], "there is no account"),
        (&["api-key", "revoke", nobody], "no API key with the id"),
    ] {
        let (code, stdout, stderr) = operate(&database, arguments);
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(stderr.contains(message), "{stderr}");
    }
    for arguments in [&["api-key", "revoke", "x"][..], &["api-key", "create"], &["account"]] {
        assert_eq!(operate(&database, arguments).0, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn accounts_need_a_database_that_is_migrated() {
    let database = TestDatabase::create_empty().await;
    for arguments in [&["account", "list"][..], &["api-key", "create", "--name", "n"]] {
        let (code, _, stderr) = operate(&database, arguments);
        assert!(code == 1 && stderr.contains("run payonce migrate"), "{stderr}");
    }
}
