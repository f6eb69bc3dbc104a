//! Accounts with API keys, created with the command line, and clients that use them.

use std::{ops::Deref, process::Command};

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use serde_json::Value;

use super::{
    TestDatabase, TestServer,
    binary::{payonce, run, url},
    client::{Client, http_client},
};

/// A client with the API key of an account.
pub struct Account {
    /// The account's id.
    pub id: String,
    /// Its API key and the id of that key.
    pub api_key: String,
    pub api_key_id: String,
    client: Client,
}

impl Deref for Account {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl Account {
    /// A client of the same account at another server.
    pub fn at(&self, server: &TestServer) -> Client {
        Client { address: server.address, http: self.client.http.clone() }
    }
}

impl TestServer {
    /// Creates an account with an API key, and returns a client that sends it. The server knows the key by
    /// then, and anonymous access has ended.
    pub async fn account(&self, name: &str) -> Account {
        let id =
            self.database.operate(&["account", "create", name, "--json"])["account_id"].clone();
        let id = id.as_str().unwrap().to_owned();
        let key = self.database.create_api_key(&id);
        let api_key = key["api_key"].as_str().unwrap().to_owned();
        let api_key_id = key["api_key_id"].as_str().unwrap().to_owned();
        let client = self.showing(&format!("Bearer {api_key}"));
        assert_eq!(client.get("/payment/x").await.status, 404);
        Account { id, api_key, api_key_id, client }
    }

    /// A client that sends this `Authorization` header.
    pub fn showing(&self, authorization: &str) -> Client {
        let headers =
            HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(authorization).unwrap())]);
        Client { address: self.address, http: http_client(headers) }
    }
}

impl TestDatabase {
    /// `payonce` with these arguments on this database. It logs warnings only.
    pub fn payonce(&self, arguments: &[&str]) -> Command {
        let mut command = payonce(arguments);
        command.env("DATABASE_URL", url(&self.options)).env("RUST_LOG", "warn");
        command
    }

    /// Runs `payonce` with these arguments: its exit code, standard output and standard error.
    pub fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        run(&mut self.payonce(arguments))
    }

    /// Runs `payonce` with these arguments, asserts its success, and returns the JSON that it printed.
    #[track_caller]
    pub fn operate(&self, arguments: &[&str]) -> Value {
        let (code, stdout, stderr) = self.run(arguments);
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}"))
    }

    /// Creates an API key for an account, given its name or id. The result has the fields `api_key` and
    /// `api_key_id`. No anonymous request may be repeated afterwards.
    pub fn create_api_key(&self, account: &str) -> Value {
        let create = ["api-key", "create", "--account", account, "--name", "test", "--json"];
        self.operate(&[&create[..], &["--abandon-anonymous-retries"]].concat())
    }

    /// Revokes an API key.
    pub fn revoke(&self, api_key_id: &str) {
        self.operate(&["api-key", "revoke", api_key_id, "--json"]);
    }
}
