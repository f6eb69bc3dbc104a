//! What a server does between a signal and its end.

use std::time::{Duration, Instant};

use payonce_testing::{PAYMENT, TestDatabase, binary::Serve, client::Wire, wait::eventually};
use sqlx::Connection;

const SECOND: Duration = Duration::from_secs(1);

async fn get(wire: &mut Wire, path: &str) -> (String, String) {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    wire.response().await.unwrap()
}

#[tokio::test]
async fn during_the_shutdown_delay_requests_are_served_but_the_server_is_not_ready() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "5m")]);
    let mut kept = Wire::connect(serve.address).await;
    let (head, _) = get(&mut kept, "/health/ready").await;
    assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");

    serve.signal("TERM");
    serve.wait_for("SIGTERM: serving for another 5m while not ready");
    let (head, problem) = eventually("it is not ready any more", async || {
        let response = get(&mut Wire::connect(serve.address).await, "/health/ready").await;
        (!response.0.starts_with("http/1.1 200")).then_some(response)
    })
    .await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
    assert!(problem.contains("\"code\":\"shutting-down\""), "{problem}");

    let paid = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    let mut new = Wire::connect(serve.address).await;
    for (wire, status) in [(&mut new, 201), (&mut kept, 200)] {
        wire.send_payment(paid, PAYMENT).await;
        let (head, _) = wire.response().await.unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(wire.response().await, None, "closed with its response");
    }
    let live = get(&mut Wire::connect(serve.address).await, "/health/live").await;
    assert!(live.0.starts_with("http/1.1 200"), "{}", live.0);
}

#[tokio::test]
async fn a_server_stops_by_itself_when_the_shutdown_delay_is_over() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "1s")]);
    let begun = Instant::now();
    serve.signal("TERM");
    let (status, log) = serve.wait();
    assert!(status.success() && log.contains("stopped"), "{status}: {log}");
    assert!(begun.elapsed() > SECOND * 9 / 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_the_shutdown_delay() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "1m")]);
    serve.signal("TERM");
    serve.wait_for("a second signal stops at once");
    serve.signal("TERM");
    assert_eq!(serve.wait().0.code(), Some(130));
}

#[tokio::test]
async fn accepted_requests_are_answered_after_a_signal() {
    for signal in ["TERM", "INT"] {
        let database = TestDatabase::create().await;
        let patient = [("IN_FLIGHT_WAIT", "1m"), ("REQUEST_DEADLINE", "2m")];
        let mut serve = Serve::start(&database.options, &patient);
        let mut idle = Wire::connect(serve.address).await;
        idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        assert_eq!(idle.status().await, 200);
        let holder = database.lock_payments().await;
        let mut accepted = serve.begin_payment("k").await;
        database.until_locks_are_waited_for(1).await;
        serve.signal(signal);
        serve.wait_for("finishing accepted requests");
        // Long enough for a server that does not wait to end.
        tokio::time::sleep(SECOND / 5).await;
        holder.close().await.unwrap();
        assert_eq!(accepted.status().await, 201);
        drop(accepted);
        let (status, log) = serve.wait();
        assert!(status.success() && log.contains("stopped"), "{status}: {log}");
        assert_eq!(database.payments().await, 1);
    }
}

#[tokio::test]
async fn idle_connections_do_not_delay_a_shutdown() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("REQUEST_DEADLINE", "5m")]);
    let mut idle = Wire::connect(serve.address).await;
    idle.send("GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert_eq!(idle.status().await, 200);
    let _silent = Wire::connect(serve.address).await;
    let begun = Instant::now();
    serve.signal("TERM");
    let (status, _) = serve.wait();
    assert!(status.success());
    assert!(begun.elapsed() < 30 * SECOND, "it waited for the deadline: {:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_the_process_immediately() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[]);
    let _holder = database.lock_payments().await;
    let _accepted = serve.begin_payment("k").await;
    database.until_locks_are_waited_for(1).await;
    serve.signal("TERM");
    serve.wait_for("a second signal stops at once");
    serve.signal("TERM");
    let (status, _) = serve.wait();
    assert_eq!(status.code(), Some(130));
}

#[tokio::test]
async fn a_shutdown_is_bounded_when_the_database_does_not_respond() {
    let database = TestDatabase::create().await;
    let mut serve =
        Serve::start(&database.options, &[("REQUEST_DEADLINE", "1s"), ("IN_FLIGHT_WAIT", "500ms")]);
    let _holder = database.lock_payments().await;
    let mut accepted = serve.begin_payment("k").await;
    database.until_locks_are_waited_for(1).await;
    serve.signal("TERM");
    let status = accepted.status().await;
    assert!([409, 503].contains(&status), "{status}");
    let (status, _) = serve.wait();
    assert!(status.success());
}
