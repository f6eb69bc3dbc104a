//! `payonce api-key`: API keys are created, listed and revoked.

use payonce_testing::{TestDatabase, TestServer};
use sqlx::Connection;

/// The id of the only API key.
fn only_key(database: &TestDatabase) -> String {
    let keys = database.operate(&["api-key", "list", "--json"]);
    assert_eq!(keys.as_array().unwrap().len(), 1);
    keys[0]["api_key_id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_api_key_is_shown_once_and_stored_as_its_hash() {
    let database = TestDatabase::create().await;
    database.run(&["account", "create", "ada"]);
    let create = ["api-key", "create", "--account", "ada", "--name", "web shop"];
    let (code, stdout, stderr) = database.run(&create);
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

    let (_, list, _) = database.run(&["api-key", "list"]);
    let line = list.lines().nth(1).unwrap();
    let ending = format!("…{}", &key[76..]);
    assert!(line.contains("ada") && line.contains("web shop") && line.contains(&ending), "{list}");
    assert!(!list.contains(&key[8..40]), "{list}");

    let (_, _, stderr) = database.run(&create);
    assert_eq!(stderr, "", "anonymous calls have ended already");
}

#[tokio::test]
async fn a_created_key_can_be_printed_as_json_and_used() {
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
    let (code, stdout, _) = database.run(&["api-key", "revoke", &id]);
    assert!(code == 0 && stdout.contains("within 5 seconds"), "{stdout}");
    let first = database.operate(&["api-key", "list", "--json"]);
    let again = database.operate(&["api-key", "revoke", &id, "--json"]);
    assert!(again["revoked_at"].is_string());
    assert_eq!(again["revoked_at"], first[0]["revoked_at"]);
}

#[tokio::test]
async fn an_api_key_that_could_not_be_printed_is_reported() {
    let database = TestDatabase::create().await;
    // The reader closes its end before the key is written.
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = database.payonce(&["api-key", "create", "--name", "unread"]);
    let output = command.stdout(writer).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    let id = database.value::<String>("SELECT api_key_id::text FROM api_keys").await;
    assert!(said.contains(&format!("payonce api-key revoke {id}")), "{said}");
}
