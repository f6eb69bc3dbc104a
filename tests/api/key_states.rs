//! What became of a request, asked by its key; and keys that are used up on purpose.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::support::{PAYMENT, REMAINING, TestServer, client::Answer, database::take_lock};

const OTHER_PAYMENT: &str = r#"{"user_id": "user_2", "amount": 200}"#;

/// What an answer says, apart from times and words, which must be there where they should.
#[track_caller]
fn said(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    let mut said: Value = serde_json::from_str(&answer.body).unwrap();
    let members = said.as_object_mut().unwrap();
    let detail = members.remove("detail").unwrap();
    assert!(detail.as_str().unwrap().ends_with(['.', ')']), "{detail}");
    let used = members["state"] != "unknown";
    assert_eq!(members.remove("first_used_at").unwrap().is_string(), used);
    let replayable = members["state"] == "completed";
    assert_eq!(members.remove("replayable_until").unwrap().is_string(), replayable);
    said
}

fn nothing_but(state: &str) -> Value {
    json!({ "state": state, "operation": null, "execution_id": null, "resource": null, "status": null })
}

/// What the key of this payment stands for.
fn paid(state: &str, id: &str) -> Value {
    json!({
        "state": state, "operation": "pay", "execution_id": id,
        "resource": format!("/payment/{id}"), "status": 201,
    })
}

#[tokio::test]
async fn a_key_that_nobody_used_is_unknown_which_is_said_to_be_no_promise() {
    let server = TestServer::start().await;
    let answer = server.state("k").await;
    assert_eq!(said(&answer), nothing_but("unknown"));
    assert!(answer.member("detail").contains("no promise"), "{}", answer.body);
    assert!(answer.member("detail").contains("/idempotency-key/void"), "{}", answer.body);
    assert_eq!(answer.header("idempotency-key"), "k");
    // Asking uses nothing up.
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn a_payment_that_was_taken_is_completed_and_expires() {
    let server = TestServer::start().await;
    let id = server.pay("k", PAYMENT).await.member("transaction_id");
    let first = server.state("\"k\"").await;
    assert_eq!(said(&first), paid("completed", &id));
    let stored =
        "SELECT to_char(replayable_until AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
                  FROM idempotency_responses";
    let until: String = server.database.value(stored).await;
    assert_eq!(first.member("replayable_until"), until);
    let used = "SELECT to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')
                FROM idempotency_keys";
    let used: String = server.database.value(used).await;
    assert_eq!(first.member("first_used_at"), used);

    server.database.execute("UPDATE idempotency_responses SET replayable_until = now()").await;
    assert_eq!(said(&server.state("k").await), paid("expired", &id));
    // The same once the answer is gone: what was made is read from where it was made.
    server.database.execute("DELETE FROM idempotency_responses").await;
    assert_eq!(said(&server.state("k").await), paid("expired", &id));
}

#[tokio::test]
async fn a_refund_names_the_payment_and_a_refusal_nothing() {
    let server = TestServer::start().await;
    let payment = server.paid("paid", 100).await;
    let refund = server.refund(&payment, "half", r#"{"amount": 50}"#).await.member("refund_id");
    let made = |state: &str| {
        json!({
            "state": state, "operation": "refund", "execution_id": refund,
            "resource": format!("/payment/{payment}"), "status": 201,
        })
    };
    assert_eq!(said(&server.state("half").await), made("completed"));
    assert_eq!(server.refund(&payment, "more", r#"{"amount": 51}"#).await.status, 402);
    let refused = said(&server.state("more").await);
    assert_eq!((&refused["state"], &refused["status"]), (&json!("refused"), &json!(402)));
    assert_eq!((&refused["operation"], &refused["resource"]), (&json!("refund"), &Value::Null));

    server
        .database
        .execute("DELETE FROM idempotency_responses WHERE replayable_until IS NOT NULL")
        .await;
    assert_eq!(said(&server.state("half").await), made("expired"));
    assert_eq!(said(&server.state("more").await), refused);
}

#[tokio::test]
async fn a_voided_key_never_executes_and_voiding_it_again_changes_nothing() {
    let before = TestServer::start().await;
    let first = before.void("k").await;
    assert_eq!(said(&first), nothing_but("voided"));
    assert_eq!(first.header("idempotency-key"), "k");
    for purged in [false, true] {
        // Another, to which nothing is known of the key.
        let server = before.another().await;
        if purged {
            server.database.execute("DELETE FROM idempotency_responses").await;
        }
        assert_eq!(server.void("k").await.body, first.body);
        assert_eq!(server.state("k").await.body, first.body);
        let late = server.pay("k", PAYMENT).await;
        late.assert_problem(410, "idempotency-key-voided");
        assert_eq!(late.header("idempotency-key"), "k");
        let payment = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";
        server.refund(payment, "k", REMAINING).await.assert_problem(410, "idempotency-key-voided");
    }
    assert_eq!(before.database.payments().await, 0);
}

#[tokio::test]
async fn voiding_a_key_that_was_used_says_what_it_did() {
    let server = TestServer::start().await;
    let payment = server.pay("k", PAYMENT).await;
    let id = payment.member("transaction_id");
    assert_eq!(said(&server.void("k").await), paid("completed", &id));
    assert_eq!(server.pay("k", PAYMENT).await.body, payment.body);
    server.database.execute("DELETE FROM idempotency_responses").await;
    assert_eq!(said(&server.void("k").await), paid("expired", &id));
}

#[tokio::test]
async fn exactly_one_of_executing_and_voiding_happens() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let (mut executed, mut voided) = (0, 0);
    let outcomes = join_all((0..100).map(async |number| {
        let key = format!("key-{number}");
        let (paying, voiding) = if number % 2 == 0 { (&server, &other) } else { (&other, &server) };
        let voiding = voiding.anonymous.clone();
        // Neither always first.
        if number % 3 == 0 {
            let (void, pay) = tokio::join!(voiding.void(&key), paying.pay(&key, PAYMENT));
            (key, pay, void)
        } else {
            let (pay, void) = tokio::join!(paying.pay(&key, PAYMENT), voiding.void(&key));
            (key, pay, void)
        }
    }))
    .await;
    for (key, pay, void) in outcomes {
        match pay.status {
            201 => {
                executed += 1;
                assert_eq!(said(&void), paid("completed", &pay.member("transaction_id")), "{key}");
            }
            410 => {
                voided += 1;
                pay.assert_problem(410, "idempotency-key-voided");
                assert_eq!(said(&void), nothing_but("voided"), "{key}");
            }
            status => panic!("{key}: {status}"),
        }
        for server in [&server, &other] {
            assert_eq!(server.state(&key).await.body, void.body, "{key}");
        }
    }
    assert_eq!(server.database.payments().await, executed);
    assert!(executed > 0 && voided > 0, "a race that always ends alike: {executed}, {voided}");
}

#[tokio::test]
async fn a_key_that_is_in_flight_elsewhere_can_not_be_voided_yet() {
    let server = TestServer::start_with(&["--in-flight-wait", "200ms"]).await;
    let mut holder = server.database.connect().await;
    sqlx::raw_sql(sqlx::AssertSqlSafe(format!("BEGIN; {}", take_lock("k"))))
        .execute(&mut holder)
        .await
        .unwrap();
    server.void("k").await.assert_problem(409, "idempotency-key-in-flight");
    sqlx::raw_sql("COMMIT").execute(&mut holder).await.unwrap();
    assert_eq!(said(&server.void("k").await), nothing_but("voided"));
}

#[tokio::test]
async fn what_can_not_be_read_is_never_said_not_to_have_been() {
    let server = TestServer::start_with(&[
        "--read-connections",
        "1",
        "--request-deadline",
        "6s",
        "--in-flight-wait",
        "1s",
    ])
    .await;
    let id = server.paid("paid", 100).await;
    // The only connection that reads waits for this table, which voiding doesn't touch.
    let mut holder = server.database.connect().await;
    let lock = "BEGIN; LOCK TABLE payments IN ACCESS EXCLUSIVE MODE";
    sqlx::raw_sql(lock).execute(&mut holder).await.unwrap();
    let (client, payment) = (server.anonymous.clone(), format!("/payment/{id}"));
    let after = async |moment: u64| sleep(Duration::from_millis(moment)).await;
    let (_, _, state, void) = tokio::join!(
        client.get(&payment),
        // Whatever becomes of the first, this one has the connection next, until the others give up.
        async { (after(300).await, client.get(&payment).await) },
        async { (after(600).await, client.state("paid").await).1 },
        async { (after(600).await, client.void("paid").await).1 },
    );
    state.assert_problem(503, "database-unavailable");
    void.assert_problem(503, "outcome-unknown");
    for answer in [state, void] {
        let detail = answer.member("detail");
        assert!(
            !detail.contains("Nothing was") && detail.contains("could not be read"),
            "{detail}"
        );
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
    let told = client.void("paid").await;
    assert_eq!(said(&told), paid("completed", &id));
}

#[tokio::test]
async fn a_key_past_its_ttl_is_unknown_even_if_it_was_voided() {
    let server = TestServer::start_with(&["--idempotency-key-ttl", "24h"]).await;
    let voided = server.void("k").await;
    assert!(voided.member("detail").contains("kept for 1day"), "{}", voided.body);
    server
        .database
        .execute("UPDATE idempotency_keys SET created_at = created_at - interval '25 hours'")
        .await;
    let past = server.state("k").await;
    assert_eq!(said(&past), nothing_but("unknown"));
    let detail = past.member("detail");
    assert!(
        detail.starts_with("Nothing was committed with this key in the last 1day."),
        "{detail}"
    );
    assert!(detail.ends_with("(Keys are kept for 1day here, and are new after that.)"), "{detail}");
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn asking_and_voiding_need_a_valid_key() {
    let server = TestServer::start().await;
    for (method, path) in
        [(Method::GET, "/idempotency-key"), (Method::POST, "/idempotency-key/void")]
    {
        let missing = server.request(method.clone(), path, &[], "").await;
        missing.assert_problem(400, "idempotency-key-missing");
        // A new one would say nothing of any request.
        let detail = missing.member("detail");
        assert!(detail.contains("or to void its key, send that key"), "{detail}");
        let two = server.request(method, path, &[("idempotency-key", "a, b")], "").await;
        two.assert_problem(400, "idempotency-key-invalid");
    }
}

#[tokio::test]
async fn voiding_takes_no_body_and_no_members() {
    let server = TestServer::start().await;
    let void = async |body: &str| {
        let headers = [("idempotency-key", "k"), ("content-type", "application/json")];
        server.request(Method::POST, "/idempotency-key/void", &headers, body).await
    };
    void("[]").await.assert_problem(400, "malformed-json");
    void(r#"{"amount": 1}"#).await.assert_problem(400, "malformed-json");
    assert_eq!(said(&server.state("k").await), nothing_but("unknown"));
    assert_eq!(said(&void("{}").await), nothing_but("voided"));
}

#[tokio::test]
async fn methods_and_head() {
    let server = TestServer::start().await;
    let wrong =
        server.request(Method::POST, "/idempotency-key", &[("idempotency-key", "k")], "").await;
    wrong.assert_problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "GET, HEAD");
    let wrong = server.get("/idempotency-key/void").await;
    wrong.assert_problem(405, "method-not-allowed");
    assert_eq!(wrong.header("allow"), "POST");
    let head =
        server.request(Method::HEAD, "/idempotency-key", &[("idempotency-key", "k")], "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    // A GET has no body whose type could be wrong.
    let headers = [("idempotency-key", "k"), ("content-type", "text/plain")];
    assert_eq!(server.request(Method::GET, "/idempotency-key", &headers, "").await.status, 200);
}

#[tokio::test]
async fn a_key_of_another_account_is_unknown_and_voiding_it_voids_one_s_own() {
    let server = TestServer::start().await;
    let accounts = [server.account("ada").await, server.account("bob").await];
    for (one, other, key) in [(&accounts[0], &accounts[1], "a"), (&accounts[1], &accounts[0], "b")]
    {
        let payment = one.pay(key, PAYMENT).await;
        let id = payment.member("transaction_id");
        assert_eq!(said(&other.state(key).await), nothing_but("unknown"));
        assert_eq!(said(&other.void(key).await), nothing_but("voided"));
        assert_eq!(said(&one.state(key).await), paid("completed", &id));
        assert_eq!(one.pay(key, PAYMENT).await.body, payment.body);
        other.pay(key, OTHER_PAYMENT).await.assert_problem(410, "idempotency-key-voided");
    }
    server.state("a").await.assert_problem(401, "unauthorized");
    server.void("a").await.assert_problem(401, "unauthorized");
}

#[tokio::test]
async fn answers_say_until_when_they_can_be_replayed() {
    let server = TestServer::start().await;
    let stored = "SELECT to_char(date_trunc('second', replayable_until) AT TIME ZONE 'UTC', 'Dy, DD Mon YYYY HH24:MI:SS \"GMT\"')
                  FROM idempotency_responses";
    let first = server.pay("k", PAYMENT).await;
    let until: String = server.database.value(stored).await;
    assert_eq!(first.header("idempotency-key-expires"), until);
    assert_eq!(server.pay("k", PAYMENT).await.header("idempotency-key-expires"), until);
    // A refusal is kept as long as its key.
    let refused = server.refund("01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0", "r", REMAINING).await;
    assert_eq!((refused.status, refused.headers.get("idempotency-key-expires")), (404, None));
}

#[tokio::test]
async fn answers_that_are_kept_for_ever_say_nothing_of_an_end() {
    let server = TestServer::start_with(&["--idempotency-response-ttl", "never"]).await;
    for _ in 0..2 {
        let answer = server.pay("k", PAYMENT).await;
        assert!(answer.status < 300 && answer.headers.get("idempotency-key-expires").is_none());
    }
}
