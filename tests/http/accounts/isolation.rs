//! No endpoint shows one account what belongs to another.

use payonce::{
    db::sweep::{self, Pace},
    idempotency::Sweeper,
};
use payonce_testing::{Account, PAYMENT, REMAINING, TestServer, client::Response};
use reqwest::Method;
use serde_json::json;

const OTHER_PAYMENT: &str = r#"{"user_id": "user_2", "amount": 200}"#;

/// A body without the instance, which differs in each problem.
fn apart_from_instance(response: &Response) -> String {
    response.body.replace(&response.field("instance"), "")
}

/// The headers that do not differ between any two requests.
fn headers(response: &Response) -> Vec<(String, String)> {
    let headers = response
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()));
    headers.filter(|(name, _)| !["date", "idempotency-key"].contains(&name.as_str())).collect()
}

/// Two accounts at one server.
async fn two_accounts() -> (TestServer, [Account; 2]) {
    let server = TestServer::start().await;
    let accounts = [server.account("ada").await, server.account("bob").await];
    (server, accounts)
}

#[tokio::test]
async fn the_same_key_of_two_accounts_is_two_keys() {
    let (server, [ada, bob]) = two_accounts().await;
    let (of_ada, of_bob) = tokio::join!(ada.pay("k", PAYMENT), bob.pay("k", PAYMENT));
    assert_eq!((of_ada.status, of_bob.status), (201, 201));
    assert_ne!(of_ada.field("transaction_id"), of_bob.field("transaction_id"));
    for (account, first) in [(&ada, &of_ada), (&bob, &of_bob)] {
        let again = account.pay("k", PAYMENT).await;
        assert_eq!((again.status, &again.body), (200, &first.body));
    }
    assert_eq!(server.database.payments().await, 2);
}

#[tokio::test]
async fn another_accounts_use_of_a_key_does_not_make_it_reused() {
    let (_server, [ada, bob]) = two_accounts().await;
    assert_eq!(ada.pay("k", PAYMENT).await.status, 201);
    assert_eq!(bob.pay("k", OTHER_PAYMENT).await.status, 201);
    ada.pay("k", OTHER_PAYMENT).await.assert_problem(422, "idempotency-key-reused");
    bob.pay("k", PAYMENT).await.assert_problem(422, "idempotency-key-reused");
}

#[tokio::test]
async fn a_payment_of_another_account_is_not_found() {
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
async fn a_payment_of_another_account_cannot_be_refunded_and_the_refusal_is_stored() {
    let (server, [ada, bob]) = two_accounts().await;
    for (one, other, missing) in [
        (&ada, &bob, "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0"),
        (&bob, &ada, "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b1"),
    ] {
        let payment = one.paid("k", 100).await;
        let foreign = other.refund(&payment, "foreign", REMAINING).await;
        let nowhere = other.refund(missing, "nowhere", REMAINING).await;
        foreign.assert_problem(404, "not-found");
        assert_eq!(apart_from_instance(&foreign), apart_from_instance(&nowhere));
        assert_eq!(headers(&foreign), headers(&nowhere));
        // Neither refund is executed again.
        for (id, key, first) in
            [(payment.as_str(), "foreign", foreign), (missing, "nowhere", nowhere)]
        {
            assert_eq!(first.header("idempotent-replayed"), "false");
            let again = other.refund(id, key, REMAINING).await;
            assert_eq!((again.status, &again.body), (404, &first.body));
            assert_eq!(again.header("idempotent-replayed"), "true");
        }
        let shown = one.get(&format!("/payment/{payment}")).await.json();
        assert_eq!((&shown["refunded"], &shown["refunds"]), (&json!(0), &json!([])));
        assert_eq!(one.refund(&payment, "own", REMAINING).await.status, 201);
    }
    assert_eq!(server.database.number("SELECT count(*) FROM refunds").await, 2);
}

/// The users of the listed payments, and the cursor of the next page.
fn listed(page: &Response) -> (Vec<String>, Option<String>) {
    assert_eq!(page.status, 200, "{}", page.body);
    let page = page.json();
    let payments = page["payments"].as_array().unwrap();
    let users = payments.iter().map(|payment| payment["user_id"].as_str().unwrap().to_owned());
    (users.collect(), page["next_cursor"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn no_list_contains_payments_of_another_account() {
    let (_server, [ada, bob]) = two_accounts().await;
    // In turns, so that each account has payments older and newer than the other's.
    for number in 0..3 {
        for (account, own) in [(&ada, "ada's"), (&bob, "bob's")] {
            for user in [own, "shared"] {
                let body = format!(r#"{{"user_id": "{user}", "amount": {}}}"#, number + 1);
                assert_eq!(account.pay(&format!("{user}-{number}"), &body).await.status, 201);
            }
        }
    }
    for (one, own, other, others) in
        [(&ada, "ada's", &bob, "bob's"), (&bob, "bob's", &ada, "ada's")]
    {
        assert_eq!(listed(&one.get("/payment").await).0, ["shared", own].repeat(3));
        let of_user =
            async |user: &str| listed(&one.get(&format!("/payment?user_id={user}")).await);
        assert_eq!(of_user("shared").await, (vec!["shared".to_owned(); 3], None));
        assert_eq!(of_user(own).await, (vec![own.to_owned(); 3], None));
        assert_eq!(of_user(others).await, (vec![], None));
        // A cursor of another account is accepted, but shows the caller's own payments only.
        for (query, limit) in [("", 1), ("", 3), ("user_id=shared&", 1)] {
            let theirs = other.get(&format!("/payment?{query}limit={limit}")).await;
            let cursor = listed(&theirs).1.expect("more pages");
            let page = one.get(&format!("/payment?{query}cursor={cursor}")).await;
            let all = one.get(&format!("/payment?{query}")).await.json();
            let page = page.json();
            let (page, all) =
                (page["payments"].as_array().unwrap(), all["payments"].as_array().unwrap());
            assert!(!page.is_empty() && all.ends_with(page), "{query}{limit}: {page:?}");
        }
    }
}

#[tokio::test]
async fn payments_of_anonymous_requests_belong_to_the_default_account_only() {
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

/// Ids are unique by chance, not by a constraint over all accounts: no statement may join rows by the id alone.
#[tokio::test]
async fn rows_of_two_accounts_with_the_same_id_never_mix() {
    let server = TestServer::start_with(&["--idempotency-key-ttl", "24h"]).await;
    let own = server.pay("k", PAYMENT).await;
    let id = own.field("transaction_id");
    let refund = server.refund(&id, "refund", r#"{"amount": 1}"#).await.field("refund_id");
    let copy_to_another_account = "
        INSERT INTO idempotency_keys
            SELECT gen_random_uuid(), key, execution_id, operation, fingerprint, created_at FROM idempotency_keys;
        INSERT INTO payments (account_id, transaction_id, user_id, amount, refunded, refund_count)
            SELECT k.account_id, transaction_id, 'other', 500, 2, 1
            FROM payments JOIN idempotency_keys AS k ON k.key = 'k' AND k.account_id <> payments.account_id;
        INSERT INTO refunds (account_id, refund_id, transaction_id, amount)
            SELECT p.account_id, refund_id, refunds.transaction_id, 2
            FROM refunds JOIN payments AS p ON p.user_id = 'other';
        INSERT INTO idempotency_responses (account_id, execution_id, status, headers, body)
            SELECT p.account_id, execution_id, 201, '', 'theirs'
            FROM idempotency_responses JOIN payments AS p ON p.user_id = 'other'";
    server.database.execute(copy_to_another_account).await;

    assert_eq!(server.pay("k", PAYMENT).await.body, own.body);
    let shown = server.get(&format!("/payment/{id}")).await.json();
    assert_eq!((&shown["user_id"], &shown["refunded"]), (&json!("user_1"), &json!(1)));
    assert_eq!(shown["refunds"].as_array().unwrap().len(), 1, "{shown}");
    assert_eq!(shown["refunds"][0]["refund_id"], refund);
    assert_eq!(shown["refunds"][0]["amount"], 1);
    assert_eq!(server.get("/payment").await.json()["payments"], json!([shown]));

    // The account's own response has expired, the other account's has not.
    server
        .database
        .execute("UPDATE idempotency_responses SET replayable_until = now() WHERE body <> 'theirs'")
        .await;
    server.pay("k", PAYMENT).await.assert_problem(410, "idempotency-key-expired");

    // An expired key is deleted with its own response only, both by reuse and by the sweeper.
    let theirs = "SELECT count(*) FROM idempotency_responses WHERE body = 'theirs'";
    let age = "UPDATE idempotency_keys SET created_at = now() - interval '30 hours'
               WHERE account_id = '00000000-0000-0000-0000-000000000000'";
    server.database.execute(age).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    assert_eq!(server.database.number(theirs).await, 2);
    let day = Some(std::time::Duration::from_hours(24));
    let mut sweeper = Sweeper::new(day, day);
    let swept =
        sweep::pass(&mut sweeper, &server.database.options, Pace::Full, |_, _| {}).await.unwrap();
    assert_eq!(swept, (1, 1));
    assert_eq!(server.database.number(theirs).await, 2);
}
