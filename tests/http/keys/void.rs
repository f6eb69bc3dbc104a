//! `POST /idempotency-key/void`: a voided key never executes.

use futures_util::future::join_all;
use payonce_testing::{
    PAYMENT, REMAINING, TestServer,
    database::{maintenance, take_lock, until_number},
};
use reqwest::Method;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};

use crate::keys::state::{nothing_but, paid, said};

const OTHER_PAYMENT: &str = r#"{"user_id": "user_2", "amount": 200}"#;

#[tokio::test]
async fn a_voided_key_never_executes_and_can_be_voided_again() {
    let before = TestServer::start().await;
    let first = before.void("k").await;
    assert_eq!(said(&first), nothing_but("voided"));
    assert_eq!(first.header("idempotency-key"), "k");
    for purged in [false, true] {
        // A server that has not seen the key.
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
async fn voiding_a_used_key_returns_what_it_did() {
    let server = TestServer::start().await;
    let payment = server.pay("k", PAYMENT).await;
    let id = payment.field("transaction_id");
    assert_eq!(said(&server.void("k").await), paid("completed", &id));
    assert_eq!(server.pay("k", PAYMENT).await.body, payment.body);
    server.database.execute("DELETE FROM idempotency_responses").await;
    assert_eq!(said(&server.void("k").await), paid("expired", &id));
}

#[tokio::test]
async fn a_key_is_either_executed_or_voided() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let (mut executed, mut voided) = (0, 0);
    let outcomes = join_all((0..100).map(async |number| {
        let key = format!("key-{number}");
        let (paying, voiding) = if number % 2 == 0 { (&server, &other) } else { (&other, &server) };
        let voiding = voiding.anonymous.clone();
        // Neither request is always the first.
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
                assert_eq!(said(&void), paid("completed", &pay.field("transaction_id")), "{key}");
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
async fn a_key_that_another_server_is_executing_cannot_be_voided_yet() {
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
async fn a_failed_read_never_claims_that_nothing_was_executed() {
    let server = TestServer::start().await;
    let id = server.paid("paid", 100).await;
    // The committer keeps its connection, and reads can open none.
    let name = server.database.options.get_database().unwrap().to_owned();
    let mut conn = PgConnection::connect_with(&maintenance()).await.unwrap();
    let refuse = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS false");
    conn.execute(AssertSqlSafe(refuse)).await.unwrap();
    let reads = format!("datname = '{name}' AND application_name = 'payonce reads'");
    let terminate = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {reads}");
    conn.execute(AssertSqlSafe(terminate)).await.unwrap();
    let left = format!("SELECT count(*) FROM pg_stat_activity WHERE {reads}");
    until_number(&mut conn, &left, |count| count == 0).await;

    let (state, void) = (server.state("paid").await, server.void("paid").await);
    state.assert_problem(503, "database-unavailable");
    void.assert_problem(503, "outcome-unknown");
    for response in [state, void] {
        let detail = response.field("detail");
        assert!(
            !detail.contains("No request was") && detail.contains("could not be read"),
            "{detail}"
        );
    }
    let accept = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS true");
    conn.execute(AssertSqlSafe(accept)).await.unwrap();
    let told = server.void("paid").await;
    assert_eq!(said(&told), paid("completed", &id));
}

#[tokio::test]
async fn voiding_accepts_no_body_and_no_fields() {
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
async fn a_key_of_another_account_is_unknown_and_is_not_voided() {
    let server = TestServer::start().await;
    let accounts = [server.account("ada").await, server.account("bob").await];
    for (one, other, key) in [(&accounts[0], &accounts[1], "a"), (&accounts[1], &accounts[0], "b")]
    {
        let payment = one.pay(key, PAYMENT).await;
        let id = payment.field("transaction_id");
        assert_eq!(said(&other.state(key).await), nothing_but("unknown"));
        assert_eq!(said(&other.void(key).await), nothing_but("voided"));
        assert_eq!(said(&one.state(key).await), paid("completed", &id));
        assert_eq!(one.pay(key, PAYMENT).await.body, payment.body);
        other.pay(key, OTHER_PAYMENT).await.assert_problem(410, "idempotency-key-voided");
    }
    server.state("a").await.assert_problem(401, "unauthorized");
    server.void("a").await.assert_problem(401, "unauthorized");
}
