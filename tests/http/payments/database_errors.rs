//! An error that one request causes in the database fails that request only, even if it looks like the
//! server's own.

use futures_util::future::join_all;
use payonce_testing::{PAYMENT, TestServer, client::Response, metrics::reaches};
use sqlx::{Connection, raw_sql};

/// The number of other payments.
const OTHERS: usize = 40;

const MALLORYS: &str = r#"{"user_id": "mallory", "amount": 100}"#;

/// A server whose database executes this for each payment of one user, and lets another user's wait for a lock.
async fn with_trigger(flags: &[&str], statement: &str) -> TestServer {
    let server = TestServer::start_with(&[&["--committers", "1"], flags].concat()).await;
    let trigger = format!(
        "CREATE FUNCTION fault() RETURNS trigger LANGUAGE plpgsql AS $$
         BEGIN
             IF NEW.user_id = 'mallory' THEN {statement}; END IF;
             IF NEW.user_id = 'waits' THEN
                 SET LOCAL lock_timeout = 0;
                 PERFORM pg_advisory_xact_lock(1);
             END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER fault BEFORE INSERT ON payments FOR EACH ROW EXECUTE FUNCTION fault()"
    );
    server.database.execute(&trigger).await;
    server
}

/// Sends the requests while another payment is being executed, so that they share batches.
async fn pay_together(server: &TestServer) -> (Response, Vec<Response>) {
    let keys: Vec<String> = (0..OTHERS).map(|number| format!("good-{number}")).collect();
    let mut holder = server.database.connect().await;
    raw_sql("SELECT pg_advisory_lock(1)").execute(&mut holder).await.unwrap();
    let all = async {
        server.database.until_locks_are_waited_for(1).await;
        let good = join_all(keys.iter().map(|key| server.pay(key, PAYMENT)));
        let release = async {
            let all = u32::try_from(OTHERS).unwrap() + 2;
            reaches(&server.metrics, "payonce_queue_keys", all).await;
            holder.close().await.unwrap();
        };
        let (bad, good, ()) = tokio::join!(server.pay("mallory", MALLORYS), good, release);
        (bad, good)
    };
    tokio::join!(server.pay("waits", r#"{"user_id": "waits", "amount": 100}"#), all).1
}

fn assert_taken(responses: &[Response]) {
    for response in responses {
        assert_eq!(response.status, 201, "{}", response.body);
    }
}

/// A trigger raises this error for one client's payment.
async fn assert_fails_alone(state: &str, code: &str, detail: &str) {
    let flags = ["--request-deadline", "8s"];
    let server = with_trigger(&flags, &format!("RAISE SQLSTATE '{state}'")).await;
    let (bad, good) = pay_together(&server).await;
    assert_taken(&good);
    bad.assert_problem(503, code);
    assert!(bad.field("detail").contains(detail), "{state}: {}", bad.body);
    // Nothing is stored, and the key can be used once the cause is gone.
    server.database.execute("DROP TRIGGER fault ON payments").await;
    assert_eq!(server.pay("mallory", MALLORYS).await.status, 201, "{state}");
}

#[test]
fn an_error_that_looks_like_the_servers_own_fails_only_the_request_that_causes_it() {
    let cases = [
        ("57014", "not-executed", "took too long"),
        ("53100", "overloaded", "has run out of"),
        ("53200", "overloaded", "has run out of"),
        ("40001", "not-executed", "conflicted with others"),
        ("40P01", "not-executed", "conflicted with others"),
        ("55P03", "not-executed", "holds a lock"),
        ("25006", "not-executed", "took no writes"),
        ("25P03", "not-executed", "connection to the database was lost"),
        ("57P01", "not-executed", "connection to the database was lost"),
        ("57P03", "not-executed", "connection to the database was lost"),
        // Poolers send this when they lost their server: the payment may exist.
        ("08006", "outcome-unknown", "Send the same request again"),
    ];
    for cases in cases.chunks(4) {
        // Each on a thread of its own, which is blocked while the test's database is dropped.
        std::thread::scope(|scope| {
            for (state, code, detail) in cases {
                scope.spawn(|| block_on(assert_fails_alone(state, code, detail)));
            }
        });
    }
}

/// Runs a future to its end, on this thread.
fn block_on(future: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(future);
}

#[tokio::test]
async fn a_request_that_takes_too_long_is_the_only_one_to_fail() {
    let server = with_trigger(&["--request-deadline", "10s"], "PERFORM pg_sleep(60)").await;
    let (bad, good) = pay_together(&server).await;
    assert_taken(&good);
    bad.assert_problem(503, "not-executed");
    assert!(bad.field("detail").contains("took too long"), "{}", bad.body);
}

#[tokio::test]
async fn a_slow_request_within_the_time_limit_succeeds_and_so_do_the_others() {
    // Longer than a statement may take while the faulty command is searched for.
    let server = with_trigger(&["--request-deadline", "10s"], "PERFORM pg_sleep(1.2)").await;
    let (slow, good) = pay_together(&server).await;
    assert_taken(&good);
    assert_taken(&[slow]);
}
