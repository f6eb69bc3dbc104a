//! `payonce account`: accounts are created and listed.

use payonce_testing::TestDatabase;

#[tokio::test]
async fn accounts_are_created_and_listed() {
    let database = TestDatabase::create().await;
    let (code, stdout, stderr) = database.run(&["account", "create", "Ada's shop"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let (code, list, _) = database.run(&["account", "list"]);
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
async fn a_name_is_unique_and_does_not_look_like_an_id() {
    let database = TestDatabase::create().await;
    let (code, stdout, stderr) = database.run(&["account", "create", "default"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    assert!(stderr.contains("there is an account \"default\" already"), "{stderr}");
    for name in ["", " a", "a\nb", &"a".repeat(101), "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0"] {
        let (code, _, stderr) = database.run(&["account", "create", name]);
        assert!(code == 2 && stderr.contains("a name "), "{stderr}");
        let key = ["api-key", "create", "--name", name];
        assert_eq!(database.run(&key).0, 2);
    }
}

#[tokio::test]
async fn unknown_accounts_and_keys_are_reported() {
    let database = TestDatabase::create().await;
    let nobody = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
    for (arguments, message) in [
        (&["api-key", "create", "--account", "nobody", "--name", "n"][..], "no account \"nobody\""),
        (&["api-key", "list", "--account", nobody], "there is no account"),
        (&["api-key", "revoke", nobody], "no API key with the id"),
    ] {
        let (code, stdout, stderr) = database.run(arguments);
        assert_eq!((code, stdout.as_str()), (1, ""), "{arguments:?}");
        assert!(stderr.contains(message), "{stderr}");
    }
    for arguments in [&["api-key", "revoke", "x"][..], &["api-key", "create"], &["account"]] {
        assert_eq!(database.run(arguments).0, 2, "{arguments:?}");
    }
}

#[tokio::test]
async fn accounts_need_a_database_that_is_migrated() {
    let database = TestDatabase::create_empty().await;
    for arguments in [&["account", "list"][..], &["api-key", "create", "--name", "n"]] {
        let (code, _, stderr) = database.run(arguments);
        assert!(code == 1 && stderr.contains("run payonce migrate"), "{stderr}");
    }
}
