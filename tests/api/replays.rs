//! What comes back when a request comes again.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Method;
use tokio::time::sleep;

use crate::{
    metrics::Sample,
    support::{PAYMENT, TestServer},
};

#[tokio::test]
async fn a_replay_is_the_same_to_the_byte_and_says_that_it_is_one() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(first.header("idempotent-replayed"), "false");
    assert_eq!(first.header("location"), format!("/payment/{}", first.member("transaction_id")));
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
async fn the_same_request_may_be_written_in_another_way() {
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
async fn a_key_used_by_another_request_is_refused_and_stays_replayable() {
    let server = TestServer::start().await;
    let stored = r#"{"user_id": "user_1", "amount": 987654321}"#;
    let first = server.pay("k", stored).await;
    for (body, members) in [
        (r#"{"user_id": "user_1", "amount": 101}"#, r#"["amount"]"#),
        (r#"{"user_id": "user_2", "amount": 987654321}"#, r#"["user_id"]"#),
        (r#"{"user_id": "user_2", "amount": 101}"#, r#"["user_id","amount"]"#),
        (r#"{"user_id": "user_1 ", "amount": 987654321}"#, r#"["user_id"]"#),
    ] {
        let answer = server.pay("k", body).await;
        answer.assert_problem(422, "idempotency-key-reused");
        assert_eq!(answer.member("members"), members);
        assert!(
            !answer.body.contains("user_1") && !answer.body.contains("987654321"),
            "no stored value: {}",
            answer.body
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
async fn the_key_row_names_the_payment() {
    let server = TestServer::start().await;
    let id = server.pay("k", PAYMENT).await.member("transaction_id");
    let sql = format!(
        "SELECT count(*) FROM idempotency_keys k JOIN payments p ON p.transaction_id = k.execution_id
         JOIN idempotency_responses r USING (execution_id)
         WHERE k.key = 'k' AND k.operation = 'pay' AND k.account_id = '00000000-0000-0000-0000-000000000000'
           AND p.transaction_id = '{id}' AND p.status = 'success'"
    );
    assert_eq!(server.database.number(&sql).await, 1);
}

#[tokio::test]
async fn a_response_that_was_stored_is_what_is_replayed() {
    let server = TestServer::start().await;
    server.pay("k", PAYMENT).await;
    // Not what would be made today: what was stored then.
    server
        .database
        .execute("UPDATE idempotency_responses SET body = '{\"as\": \"stored\"}', headers = ''")
        .await;
    let replay = server.pay("k", PAYMENT).await;
    assert_eq!((replay.status, replay.body.as_str()), (200, "{\"as\": \"stored\"}"));
    assert_eq!(replay.header("location"), "");
}

#[tokio::test]
async fn where_most_keys_are_used_they_are_looked_up_before_anything_is_claimed() {
    let one_committer = ["--committers", "1"];
    let mut server = TestServer::start_with(&one_committer).await;
    let first = server.pay("k", PAYMENT).await;
    for key in ["a", "b", "c"] {
        assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    }
    server.stop();
    // It has seen no new keys.
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
    let answers = join_all([
        server.pay("k", PAYMENT),
        server.pay("new-1", PAYMENT),
        server.pay("k", &other),
        server.pay("new-2", &other),
    ])
    .await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200, 201, 422, 201]);
    assert_eq!(answers[0].body, first.body);
    assert_eq!(server.database.payments().await, 6);
}

#[tokio::test]
async fn a_key_that_was_deleted_by_hand_is_new_at_once() {
    let server = TestServer::start().await;
    let first = server.pay("k", PAYMENT).await;
    assert_eq!(server.pay("k", PAYMENT).await.body, first.body);
    let delete = "DELETE FROM idempotency_responses; DELETE FROM idempotency_keys";
    server.database.execute(delete).await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}

/// After this there is a server that has planned all its statements for tables with a row in them, and then
/// got fifty thousand.
async fn grown() -> TestServer {
    let server = TestServer::start().await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("before-{number}"), PAYMENT).await.status, 201);
        assert_eq!(server.pay(&format!("before-{number}"), PAYMENT).await.status, 200);
        assert_eq!(server.pay(&format!("unasked-{number}"), PAYMENT).await.status, 201);
    }
    server
        .database
        .execute(
            "INSERT INTO idempotency_keys SELECT gen_random_uuid(), 'k' || i, gen_random_uuid(), 'pay', '', now()
             FROM generate_series(1, 50000) AS i;
             INSERT INTO idempotency_responses SELECT account_id, execution_id, 201, '', '', now() + interval '1 day'
             FROM idempotency_keys WHERE operation = 'pay' AND fingerprint = ''",
        )
        .await;
    server
}

/// How many rows and index entries were read so far. Takes a key that is new.
async fn read(server: &TestServer, key: &str) -> i64 {
    // Connections report what they have read after a second, with what they do next.
    sleep(Duration::from_millis(1200)).await;
    assert_eq!(server.pay(key, PAYMENT).await.status, 201);
    sleep(Duration::from_millis(100)).await;
    let read = "SELECT sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
                  + (SELECT sum(idx_tup_read)::bigint FROM pg_stat_user_indexes) FROM pg_stat_user_tables";
    server.database.number(read).await
}

#[tokio::test]
async fn a_replay_reads_its_own_rows_alone_however_many_there_are() {
    let server = grown().await;
    let before = read(&server, "a").await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("unasked-{number}"), PAYMENT).await.status, 200);
    }
    let after = read(&server, "b").await;
    // A key, its response, and an index entry for each.
    let read = after - before;
    assert!((80..1000).contains(&read), "{read} rows read for 20 replays and a payment");
}

#[tokio::test]
async fn a_payment_reads_its_own_rows_alone_however_many_there_are() {
    let server = grown().await;
    let before = read(&server, "a").await;
    for number in 0..20 {
        assert_eq!(server.pay(&format!("after-{number}"), PAYMENT).await.status, 201);
    }
    let after = read(&server, "b").await;
    assert!(after - before < 1000, "{} rows read for 21 payments", after - before);
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

#[tokio::test]
async fn a_payment_that_failed_is_not_stored() {
    let server = TestServer::start().await;
    server.database.execute("ALTER TABLE payments ADD CONSTRAINT small CHECK (amount < 100)").await;
    let answer = server.pay("k", PAYMENT).await;
    answer.assert_problem(500, "internal");
    assert!(
        !answer.body.contains("small") && !answer.body.contains("constraint"),
        "{}",
        answer.body
    );
    server.database.execute("ALTER TABLE payments DROP CONSTRAINT small").await;
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
    assert_eq!(server.pay("k", PAYMENT).await.status, 200);
}

#[tokio::test]
async fn other_methods_never_use_a_key_up() {
    let server = TestServer::start().await;
    let headers = [("idempotency-key", "k")];
    assert_eq!(server.request(Method::GET, "/payment", &headers, "").await.status, 200);
    for method in [Method::PUT, Method::DELETE, Method::PATCH] {
        assert_eq!(server.request(method, "/payment", &headers, "").await.status, 405);
    }
    assert_eq!(server.pay("k", PAYMENT).await.status, 201);
}
