//! `POST /payment` with a used key: the stored response is replayed.

use futures_util::future::join_all;
use payonce_testing::{PAYMENT, TestServer, metrics::Sample};

#[tokio::test]
async fn a_replay_has_the_same_bytes_and_a_header_that_says_so() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(first.header("idempotent-replayed"), "false");
    assert_eq!(first.header("location"), format!("/payment/{}", first.field("transaction_id")));
    for _ in 0..3 {
        let replay = server.pay("k", PAYMENT).await;
        assert_eq!((replay.status, &replay.body), (200, &first.body));
        assert_eq!(replay.header("idempotent-replayed"), "true");
        for name in
            ["location", "content-type", "cache-control", "content-length", "idempotency-key"]
        {
            assert_eq!(replay.header(name), first.header(name), "{name}");
        }
    }
    assert_eq!(first.header("content-type"), "application/json");
    assert_eq!(first.header("cache-control"), "no-store");
}

#[tokio::test]
async fn a_replay_can_have_the_original_status() {
    let server = TestServer::start_with(&["--idempotency-replay-status", "original"]).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.header("idempotent-replayed")), (201, "true"));
}

#[tokio::test]
async fn the_same_json_value_in_another_notation_is_the_same_request() {
    let server = TestServer::start().await;
    let first = server.pay("k", r#"{"user_id":"café/1","amount":100}"#).await;
    assert_eq!(first.status, 201);
    for body in [
        r#"{"amount":100,"user_id":"café/1"}"#,
        "\n{ \"user_id\" :\t\"café/1\" , \"amount\" : 100 }\r\n",
        r#"{"user_id":"caf\u00e9\/1","\u0061mount":100}"#,
    ] {
        let replay = server.pay("k", body).await;
        assert_eq!((replay.status, &replay.body), (200, &first.body), "{body}");
    }
}

#[tokio::test]
async fn a_different_request_with_a_used_key_is_refused_and_changes_nothing() {
    let server = TestServer::start().await;
    let stored = r#"{"user_id": "user_1", "amount": 987654321}"#;
    let first = server.pay("k", stored).await;
    for (body, members) in [
        (r#"{"user_id": "user_1", "amount": 101}"#, r#"["amount"]"#),
        (r#"{"user_id": "user_2", "amount": 987654321}"#, r#"["user_id"]"#),
        (r#"{"user_id": "user_2", "amount": 101}"#, r#"["user_id","amount"]"#),
        (r#"{"user_id": "user_1 ", "amount": 987654321}"#, r#"["user_id"]"#),
    ] {
        let response = server.pay("k", body).await;
        response.assert_problem(422, "idempotency-key-reused");
        assert_eq!(response.field("members"), members);
        assert!(
            !response.body.contains("user_1") && !response.body.contains("987654321"),
            "no stored value: {}",
            response.body
        );
    }
    assert_eq!(server.pay("k", stored).await.body, first.body);
    assert_eq!(server.database.payments().await, 1);
}

#[tokio::test]
async fn a_replay_survives_a_restart() {
    let mut server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    server.stop();
    let server = server.another().await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.body), (200, first.body));
}

#[tokio::test]
async fn the_stored_response_is_replayed_and_not_built_again() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    // The replay is the stored response, not a new one.
    server
        .database
        .execute("UPDATE idempotency_responses SET body = '{\"as\": \"stored\"}', headers = ''")
        .await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.body.as_str()), (200, "{\"as\": \"stored\"}"));
    assert_eq!(replay.header("location"), "");
}

#[tokio::test]
async fn keys_are_looked_up_before_they_are_claimed_where_most_of_them_are_used() {
    let one_committer = ["--committers", "1"];
    let mut server = TestServer::start_with(&one_committer).await;
    let first = server.pay("k", PAYMENT).await;
    for key in ["a", "b", "c"] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    }
    server.stop();
    // It has executed no new keys.
    let server = TestServer::start_on(&server.database, &one_committer).await;
    let counts = async || {
        let sample = Sample::of(&server).await;
        ["look_up", "one_statement"].map(|step| sample.batch_steps(step))
    };
    for key in ["a", "b"] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 200);
    }
    let [looks, statements] = counts().await;
    assert_eq!(server.pay("c", PAYMENT).await.status, 200);
    assert_eq!(counts().await, [looks + 1, statements]);

    let other = PAYMENT.replace("100", "101");
    let responses = join_all([
        server.pay("k", PAYMENT),
        server.pay("new-1", PAYMENT),
        server.pay("k", &other),
        server.pay("new-2", &other),
    ])
    .await;
    let statuses: Vec<u16> = responses.iter().map(|response| response.status).collect();
    assert_eq!(statuses, [200, 201, 422, 201]);
    assert_eq!(responses[0].body, first.body);
    assert_eq!(server.database.payments().await, 6);
}

#[tokio::test]
async fn a_deleted_key_is_unused_immediately() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(server.pay("k", PAYMENT).await.body, first.body);
    let delete = "DELETE FROM idempotency_responses; DELETE FROM idempotency_keys";
    server.database.execute(delete).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

#[tokio::test]
async fn a_stored_refusal_is_replayed_as_it_was() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    server
        .database
        .execute(
            "UPDATE idempotency_responses SET status = 402, headers = E'content-type: application/problem+json\\n'",
        )
        .await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.header("content-type")), (402, "application/problem+json"));
    assert_eq!(replay.header("idempotent-replayed"), "true");
}
