//! What a server does between the signal and its end, for those who choose between servers.

use std::time::{Duration, Instant};

use crate::support::{PAYMENT, TestDatabase, binary::Serve, client::Wire, wait::eventually};

const SECOND: Duration = Duration::from_secs(1);

async fn get(wire: &mut Wire, path: &str) -> (String, String) {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

#[tokio::test]
async fn for_the_shutdown_delay_it_serves_is_not_ready_and_closes_connections() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "5m")]);
    let mut kept = Wire::connect(serve.address).await;
    let (head, _) = get(&mut kept, "/health/ready").await;
    assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");

    serve.signal("TERM");
    serve.wait_for("SIGTERM: serving for another 5m while not ready");
    let (head, problem) = eventually("it is not ready any more", async || {
        let answer = get(&mut Wire::connect(serve.address).await, "/health/ready").await;
        (!answer.0.starts_with("http/1.1 200")).then_some(answer)
    })
    .await;
    assert!(head.starts_with("http/1.1 503") && head.contains("retry-after"), "{head}");
    assert!(problem.contains("\"code\":\"shutting-down\""), "{problem}");

    let paid = "Content-Type: application/json\r\nIdempotency-Key: k\r\n";
    let mut new = Wire::connect(serve.address).await;
    for (wire, status) in [(&mut new, 201), (&mut kept, 200)] {
        wire.send_payment(paid, PAYMENT).await;
        let (head, _) = wire.answer().await.unwrap();
        assert!(head.starts_with(&format!("http/1.1 {status}")), "{head}");
        assert!(head.contains("connection: close"), "{head}");
        assert_eq!(wire.answer().await, None, "closed with its answer");
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
async fn a_second_signal_ends_the_shutdown_delay_too() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "1m")]);
    serve.signal("TERM");
    serve.wait_for("a second signal stops at once");
    serve.signal("TERM");
    assert_eq!(serve.wait().0.code(), Some(130));
}
