//! Giving back, all or a part, never more than was paid.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::json;

use crate::support::{PAYMENT, REMAINING, TestServer, client::Answer};

const NO_SUCH_PAYMENT: &str = "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b0";

/// Asserts that this refund was refused for good, with so much left.
#[track_caller]
fn assert_refused(answer: &Answer, refundable: i64) {
    answer.assert_problem(402, "refund-refused");
    assert_eq!(answer.member("refundable"), refundable.to_string());
    assert_eq!(answer.header("location"), "");
}

async fn refunded(server: &TestServer, payment: &str) -> i64 {
    server.get(&format!("/payment/{payment}")).await.json()["refunded"].as_i64().unwrap()
}

#[tokio::test]
async fn a_part_of_a_payment_is_given_back() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let answer = server.refund(&payment, "refund", r#"{"amount": 40}"#).await;
    let id = answer.member("refund_id");
    let expected = format!(
        r#"{{"status":"success","refund_id":"{id}","transaction_id":"{payment}","amount":40}}"#
    );
    assert_eq!((answer.status, answer.body.as_str()), (201, expected.as_str()));
    assert_eq!(id.parse::<uuid::Uuid>().unwrap().get_version_num(), 7);
    assert_eq!(answer.header("location"), format!("/payment/{payment}"));
    assert_eq!(answer.header("content-type"), "application/json");
    assert_eq!(answer.header("cache-control"), "no-store");
    assert_eq!(answer.header("idempotency-key"), "refund");
    assert_eq!(answer.header("idempotent-replayed"), "false");
    let named = format!(
        "SELECT count(*) FROM refunds JOIN idempotency_keys ON execution_id = refund_id
         WHERE refund_id = '{id}' AND key = 'refund' AND operation = 'refund'"
    );
    assert_eq!(server.database.number(&named).await, 1);
}

#[tokio::test]
async fn a_refund_is_replayed_as_it_was_and_gives_back_nothing_more() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let first = server.refund(&payment, "refund", r#"{"amount": 40}"#).await;
    for body in [r#"{"amount": 40}"#, " {\"\\u0061mount\" : 40}\n"] {
        let replay = server.refund(&payment, "refund", body).await;
        assert_eq!((replay.status, &replay.body), (200, &first.body));
        assert_eq!(replay.header("idempotent-replayed"), "true");
        assert_eq!(replay.header("location"), first.header("location"));
    }
    let upper = payment.to_uppercase();
    assert_eq!(server.refund(&upper, "refund", r#"{"amount": 40}"#).await.body, first.body);
    assert_eq!(refunded(&server, &payment).await, 40);
}

#[tokio::test]
async fn remaining_refunds_everything_that_is_left() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "part", r#"{"amount": 30}"#).await;
    let refund = server.refund(&payment, "rest", REMAINING).await;
    assert_eq!((refund.status, refund.member("amount").as_str()), (201, "70"));
    let replay = server.refund(&payment, "rest", " {\"remaining\":true}\n").await;
    assert_eq!((replay.status, replay.body), (200, refund.body));
}

#[tokio::test]
async fn a_body_without_amount_and_remaining_refunds_nothing_and_uses_no_key() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let path = format!("/payment/{payment}/refund");
    let json = [("content-type", "application/json"), ("idempotency-key", "k")];
    for (headers, body) in
        [(&json[..], "{}"), (&json[..], " { } "), (&json[..], ""), (&json[1..], "")]
    {
        let answer = server.request(Method::POST, &path, headers, body).await;
        answer.assert_problem(400, "invalid-refund");
        assert_eq!(answer.pointers(), [""], "{body}");
    }
    let mut wire = server.wire().await;
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n\
         Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\n\r\n"
    );
    wire.send(&head).await;
    let (head, body) = wire.answer().await.unwrap();
    assert!(head.starts_with("http/1.1 400") && body.contains("invalid-refund"), "{head}{body}");
    assert_eq!(refunded(&server, &payment).await, 0);
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn the_remaining_amount_and_the_same_amount_named_are_two_requests() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
    let named = server.refund(&payment, "k", r#"{"amount": 100}"#).await;
    named.assert_problem(422, "idempotency-key-reused");
    assert_eq!(named.member("members"), r#"["amount","remaining"]"#);
}

#[tokio::test]
async fn a_post_with_query_parameters_is_refused_and_uses_no_key() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let headers = [("content-type", "application/json"), ("idempotency-key", "k")];
    for (path, body) in [
        (format!("/payment/{payment}/refund"), REMAINING),
        ("/payment".to_owned(), PAYMENT),
        ("/idempotency-key/void".to_owned(), "{}"),
    ] {
        for query in ["amount=30", "amount", "=", "%ff"] {
            let path = format!("{path}?{query}");
            let answer = server.request(Method::POST, &path, &headers, body).await;
            answer.assert_problem(400, "invalid-query");
            assert_eq!(answer.header("idempotency-key"), "k", "{path}");
        }
    }
    assert_eq!(server.get("/payment").await.json()["payments"].as_array().unwrap().len(), 1);
    // Nothing after the question mark is no parameter.
    let path = format!("/payment/{payment}/refund?");
    assert_eq!(server.request(Method::POST, &path, &headers, REMAINING).await.status, 201);
}

#[tokio::test]
async fn more_than_is_left_is_refused_and_the_refusal_is_kept() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "first", r#"{"amount": 40}"#).await;
    let refusal = server.refund(&payment, "too-much", r#"{"amount": 61}"#).await;
    assert_refused(&refusal, 60);
    assert!(refusal.member("detail").contains("60"), "{}", refusal.body);
    assert_eq!(refusal.header("idempotent-replayed"), "false");
    assert_eq!(refusal.header("idempotency-key"), "too-much");
    let replay = server.refund(&payment, "too-much", r#"{"amount": 61}"#).await;
    assert_eq!((replay.status, &replay.body), (402, &refusal.body));
    assert_eq!(replay.header("content-type"), "application/problem+json");
    assert_eq!(replay.header("cache-control"), "no-store");
    assert_eq!(replay.header("idempotent-replayed"), "true");
    server
        .refund(&payment, "too-much", r#"{"amount": 60}"#)
        .await
        .assert_problem(422, "idempotency-key-reused");
    assert_eq!(server.refund(&payment, "rest", r#"{"amount": 60}"#).await.status, 201);
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn where_nothing_is_left_nothing_is_given_back() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "all", REMAINING).await.status, 201);
    for (key, body) in [("again", REMAINING), ("least", r#"{"amount": 1}"#)] {
        assert_refused(&server.refund(&payment, key, body).await, 0);
    }
    assert_eq!(server.refund(&payment, "all", REMAINING).await.status, 200);
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn a_refusal_stays_one_when_what_was_refused_becomes_possible() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let refusal = server.refund(&payment, "k", r#"{"amount": 150}"#).await;
    assert_refused(&refusal, 100);
    server.database.execute("UPDATE payments SET amount = 200").await;
    // Nor does it expire, as the answer to a success would.
    server.database.execute("UPDATE idempotency_responses SET replayable_until = now() WHERE replayable_until IS NOT NULL").await;
    assert_eq!(server.refund(&payment, "k", r#"{"amount": 150}"#).await.body, refusal.body);
    assert_eq!(refunded(&server, &payment).await, 0);
}

#[tokio::test]
async fn a_payment_that_is_not_there_is_not_found_and_stays_so_for_this_key() {
    let server = TestServer::start().await;
    let refusal = server.refund(NO_SUCH_PAYMENT, "k", REMAINING).await;
    refusal.assert_problem(404, "not-found");
    assert_eq!(refusal.header("idempotent-replayed"), "false");
    assert_eq!(refusal.member("retry"), "new_key");
    assert!(refusal.member("detail").contains("with a new key"), "{}", refusal.body);
    let payment = server.paid("pay", 100).await;
    server
        .database
        .execute(&format!("UPDATE payments SET transaction_id = '{NO_SUCH_PAYMENT}' WHERE transaction_id = '{payment}'"))
        .await;
    let replay = server.refund(NO_SUCH_PAYMENT, "k", REMAINING).await;
    assert_eq!((replay.status, &replay.body), (404, &refusal.body));
    assert_eq!(replay.header("idempotent-replayed"), "true");
    assert_eq!(replay.header("content-type"), "application/problem+json");
    assert_eq!(server.refund(NO_SUCH_PAYMENT, "other", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_payment_of_another_account_is_not_found() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.database.execute(&format!("UPDATE payments SET account_id = '{NO_SUCH_PAYMENT}'")).await;
    let foreign = server.refund(&payment, "foreign", REMAINING).await;
    foreign.assert_problem(404, "not-found");
    // Nothing tells it from one that isn't there.
    let mut absent = server.refund(NO_SUCH_PAYMENT, "absent", REMAINING).await.json();
    absent["instance"] = foreign.json()["instance"].clone();
    assert_eq!(foreign.json(), absent);
    assert_eq!(server.database.number("SELECT sum(refunded)::bigint FROM payments").await, 0);
}

#[tokio::test]
async fn an_id_that_is_not_a_uuid_is_not_found_and_uses_no_key_up() {
    let server = TestServer::start().await;
    for id in ["1", "not-a-uuid", "%00", "01a20b8e-f5ef-76cd-ab8e-bedcccfd17b"] {
        let answer = server.refund(id, "k", REMAINING).await;
        answer.assert_problem(404, "not-found");
        assert_eq!(answer.header("idempotency-key"), "k");
        assert_eq!(answer.header("idempotent-replayed"), "");
        assert_eq!(answer.member("retry"), "corrected_request");
        assert!(answer.member("detail").contains("has not used the key"), "{}", answer.body);
    }
    let payment = server.paid("pay", 100).await;
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn what_is_no_refund_is_refused_and_uses_no_key_up() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    for amount in ["0", "-1", "1.0", "1e2", "\"40\"", "null", "9007199254740992", "[]"] {
        let answer = server.refund(&payment, "k", &format!(r#"{{"amount": {amount}}}"#)).await;
        answer.assert_problem(400, "invalid-refund");
        assert_eq!(answer.pointers(), ["/amount"], "{amount}");
    }
    for (body, pointer) in [
        (r#"{"amount": 1, "amount": 1}"#, "/amount"),
        (r#"{"amount": 1, "reason": "late"}"#, "/reason"),
        (r#"{"amount": 1, "remaining": true}"#, ""),
        (r#"{"remaining": false}"#, "/remaining"),
        (r#"{"amount": 1, "remaining": false}"#, "/remaining"),
        (r#"{"remaining": null}"#, "/remaining"),
        (r#"{"remaining": "true"}"#, "/remaining"),
        (r#"{"remaining": true, "remaining": true}"#, "/remaining"),
        ("[]", ""),
        ("40", ""),
    ] {
        let answer = server.refund(&payment, "k", body).await;
        answer.assert_problem(400, "invalid-refund");
        assert_eq!(answer.pointers(), [pointer], "{body}");
    }
    for body in [" ", "{", "amount=1"] {
        server.refund(&payment, "k", body).await.assert_problem(400, "malformed-json");
    }
    assert_eq!(server.refund(&payment, "k", REMAINING).await.status, 201);
}

#[tokio::test]
async fn a_refund_is_judged_in_the_order_of_the_contract() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let send = async |path: &str, headers: &[(&str, &str)], body: &str| {
        server.request(Method::POST, path, headers, body).await
    };
    let path = format!("/payment/{payment}/refund");
    let (text, json) = (("content-type", "text/plain"), ("content-type", "application/json"));
    let bad_key = ("idempotency-key", "a b");
    let large = " ".repeat(20_000);
    // A type that is there must be JSON, and a body that is there has a type.
    send(&path, &[text, bad_key], "").await.assert_problem(415, "unsupported-media-type");
    send(&path, &[bad_key], "{}").await.assert_problem(415, "unsupported-media-type");
    send(&path, &[bad_key, ("content-encoding", "gzip")], "")
        .await
        .assert_problem(415, "unsupported-media-type");
    send(&path, &[json, bad_key], &large).await.assert_problem(413, "body-too-large");
    send(&path, &[json, bad_key], "{").await.assert_problem(400, "idempotency-key-invalid");
    send(&path, &[], "").await.assert_problem(400, "idempotency-key-missing");
    send("/payment/1/refund", &[], "").await.assert_problem(400, "idempotency-key-missing");
    send(&path, &[json, ("idempotency-key", "pay")], "{")
        .await
        .assert_problem(400, "malformed-json");
    let answer = send(&path, &[json, ("idempotency-key", "pay")], REMAINING).await;
    answer.assert_problem(422, "idempotency-key-reused");
    assert_eq!(answer.member("members"), r#"["operation"]"#);
    // A payment needs a body, as ever.
    let key = ("idempotency-key", "k");
    send("/payment", &[key], "").await.assert_problem(400, "malformed-json");
}

#[tokio::test]
async fn a_key_of_one_refund_is_reused_by_that_of_another_payment() {
    let server = TestServer::start().await;
    let (one, two) = (server.paid("one", 100).await, server.paid("two", 100).await);
    assert_eq!(server.refund(&one, "k", r#"{"amount": 40}"#).await.status, 201);
    for (payment, body, members) in [
        (&two, r#"{"amount": 40}"#, r#"["transaction_id"]"#),
        (&one, r#"{"amount": 41}"#, r#"["amount"]"#),
        (&two, REMAINING, r#"["transaction_id","amount","remaining"]"#),
    ] {
        let answer = server.refund(payment, "k", body).await;
        answer.assert_problem(422, "idempotency-key-reused");
        assert_eq!(answer.member("members"), members);
    }
    server.pay("k", PAYMENT).await.assert_problem(422, "idempotency-key-reused");
    assert_eq!((refunded(&server, &one).await, refunded(&server, &two).await), (40, 0));
}

#[tokio::test]
async fn an_expired_answer_to_a_refund_names_its_payment() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    server.refund(&payment, "k", REMAINING).await;
    server.database.execute("DELETE FROM idempotency_responses").await;
    let answer = server.refund(&payment, "k", REMAINING).await;
    answer.assert_problem(410, "idempotency-key-expired");
    assert_eq!(answer.header("location"), format!("/payment/{payment}"));
    assert_eq!(refunded(&server, &payment).await, 100);
}

#[tokio::test]
async fn a_payment_shows_what_was_given_back_and_when() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 100).await;
    let mut expected = Vec::new();
    for (key, amount) in [("one", 40), ("two", 25)] {
        let answer = server.refund(&payment, key, &format!(r#"{{"amount": {amount}}}"#)).await;
        expected.push((answer.member("refund_id"), amount));
    }
    server.refund(&payment, "refused", r#"{"amount": 36}"#).await;
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    assert_eq!(shown["refunded"], 65);
    assert_eq!((&shown["amount"], &shown["status"]), (&json!(100), &json!("success")));
    let refunds = shown["refunds"].as_array().unwrap();
    assert_eq!(refunds.len(), 2);
    for (refund, (id, amount)) in refunds.iter().zip(&expected) {
        let created_at = refund["created_at"].as_str().unwrap();
        assert_eq!(*refund, json!({ "refund_id": id, "amount": amount, "created_at": created_at }));
        assert_eq!(created_at.len(), "2026-11-24T10:00:00.000Z".len());
        let age = Utc::now() - created_at.parse::<DateTime<Utc>>().unwrap();
        assert!(age.num_seconds().abs() < 60, "{created_at}");
    }
    let listed = server.get("/payment").await.json();
    assert_eq!(listed["payments"][0], shown);
}

#[tokio::test]
async fn a_payment_takes_a_hundred_refunds_the_last_of_them_of_all_that_is_left() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 1000).await;
    for number in 1..100 {
        let answer = server.refund(&payment, &format!("refund-{number}"), r#"{"amount": 1}"#).await;
        assert_eq!(answer.status, 201, "{number}");
    }
    let refusal = server.refund(&payment, "one-more", r#"{"amount": 900}"#).await;
    assert_refused(&refusal, 901);
    assert!(refusal.member("detail").contains("901"), "{}", refusal.body);
    let rest = server.refund(&payment, "rest", REMAINING).await;
    assert_eq!((rest.status, rest.member("amount").as_str()), (201, "901"));
    let shown = server.get(&format!("/payment/{payment}")).await.json();
    assert_eq!(
        (&shown["refunded"], shown["refunds"].as_array().unwrap().len()),
        (&json!(1000), 100)
    );
}

#[tokio::test]
async fn the_database_itself_refuses_to_give_back_more_than_was_paid() {
    let server = TestServer::start().await;
    server.paid("pay", 100).await;
    let mut conn = server.database.connect().await;
    for statement in [
        "UPDATE payments SET refunded = 101",
        "UPDATE payments SET refunded = -1",
        "UPDATE payments SET refund_count = 101",
    ] {
        let error = sqlx::raw_sql(statement).execute(&mut conn).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code().map(Into::into));
        assert_eq!(code, Some("23514".to_owned()), "{statement}");
    }
}

#[tokio::test]
async fn the_largest_payment_can_be_given_back() {
    let server = TestServer::start().await;
    let payment = server.paid("pay", 9_007_199_254_740_991).await;
    assert_eq!(server.refund(&payment, "one", r#"{"amount": 1}"#).await.status, 201);
    let refusal = server.refund(&payment, "two", r#"{"amount": 9007199254740991}"#).await;
    assert_refused(&refusal, 9_007_199_254_740_990);
    assert_eq!(
        server.refund(&payment, "three", REMAINING).await.member("amount"),
        "9007199254740990"
    );
}
