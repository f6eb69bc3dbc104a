//! What belongs to one account isn't there for another, from both sides, at every endpoint.

use reqwest::Method;

use crate::support::{Account, PAYMENT, TestServer, client::Answer};

const OTHER_PAYMENT: &str = r#"{"user_id": "user_2", "amount": 200}"#;

/// A body without what is new in each problem.
fn apart_from_instance(answer: &Answer) -> String {
    answer.body.replace(&answer.member("instance"), "")
}

/// Two accounts at one server, each seen from the other.
async fn two_accounts() -> (TestServer, [Account; 2]) {
    let server = TestServer::start().await;
    let accounts = [server.account("ada").await, server.account("bob").await];
    (server, accounts)
}

#[tokio::test]
async fn one_key_of_two_accounts_is_two_keys() {
    let (server, [ada, bob]) = two_accounts().await;
    let (of_ada, of_bob) = tokio::join!(ada.pay("k", PAYMENT), bob.pay("k", PAYMENT));
    assert_eq!((of_ada.status, of_bob.status), (201, 201));
    assert_ne!(of_ada.member("transaction_id"), of_bob.member("transaction_id"));
    for (account, first) in [(&ada, &of_ada), (&bob, &of_bob)] {
        let again = account.pay("k", PAYMENT).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    assert_eq!(server.database.payments().await, 2);
}

#[tokio::test]
async fn a_key_is_not_reused_because_another_account_sent_another_request_with_it() {
    let (_server, [ada, bob]) = two_accounts().await;
    assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
    assert_eq!(bob.pay("k", OTHER_PAYMENT).await.status, 201);
    ada.pay("k", OTHER_PAYMENT).await.assert_problem(422, "idempotency-key-reused");
    bob.pay("k", PAYMENT).await.assert_problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn the_payment_of_another_account_is_not_there() {
    let (_server, [ada, bob]) = two_accounts().await;
    for (one, other) in [(&ada, &bob), (&bob, &ada)] {
        let location = one.pay("k", PAYMENT).await.header("location").to_owned();
        assert_eq!(one.get(&location).await.status, 200);
        let (foreign, missing) = (
            other.get(&location).await,
            other.get("/payment/01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0").await,
        );
        foreign.assert_problem(404, "not-found");
        assert_eq!(apart_from_instance(&foreign), apart_from_instance(&missing));
        assert_eq!(foreign.header("content-length"), missing.header("content-length"));
        let head = other.request(Method::HEAD, &location, &[], "").await;
        assert_eq!(head.status, 404);
    }
}

#[tokio::test]
async fn what_anonymous_calls_left_behind_is_the_default_accounts_alone() {
    let server = TestServer::start().await;
    let before = server.pay("k", PAYMENT).await;
    let ada = server.account("ada").await;
    ada.get(before.header("location")).await.assert_problem(404, "not-found");
    assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
    let key = server.database.create_api_key("default");
    let default = server.showing(&format!("Bearer {}", key["api_key"].as_str().unwrap()));
    let replay = default.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.body), (200, before.body));
}
