//! What a server does between the signal and its end, for those who choose between servers.

use std::time::{Duration, Instant};

use crate::support::{PAYMENT, TestDatabase, binary::Serve, client::Wire};

const SECOND: Duration = Duration::from_secs(1);

async fn get(wire: &mut Wire, path: &str) -> (String, String) {
    wire.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await;
    wire.answer().await.unwrap()
}

#[tokio::test]
async fn for_the_shutdown_delay_it_serves_is_not_ready_and_closes_connections() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "2s")]);
    let mut kept = Wire::connect(serve.address).await;
    let (head, _) = get(&mut kept, "/health/ready").await;
    assert!(head.starts_with("http/1.1 200") && !head.contains("connection: close"), "{head}");

    let begun = Instant::now();
    serve.signal("TERM");
    serve.wait_for("SIGTERM: serving for another 2s while not ready");
    let (head, problem) = loop {
        let answer = get(&mut Wire::connect(serve.address).await, "/health/ready").await;
        if !answer.0.starts_with("http/1.1 200") {
            break answer;
        }
        assert!(begun.elapsed() < SECOND, "it is not ready any more");
    };
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

    let (status, log) = serve.wait(10 * SECOND);
    assert!(status.success() && log.contains("stopped"), "{status}: {log}");
    assert!(begun.elapsed() > SECOND * 19 / 10, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_second_signal_ends_the_shutdown_delay_too() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[("SHUTDOWN_DELAY", "1m")]);
    serve.signal("TERM");
    serve.wait_for("a second signal stops at once");
    serve.signal("TERM");
    assert_eq!(serve.wait(2 * SECOND).0.code(), Some(130));
}
