//! Overload, duplicates in large numbers, and clients that do not behave.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use sqlx::Connection;
use tokio::time::{sleep, timeout};

use crate::support::{
    PAYMENT, TestDatabase, TestServer, binary::Serve, client::Wire, load::assert_exactly_once,
    retry::Clients, wait::until,
};

const SECOND: Duration = Duration::from_secs(1);

fn head(key: &str) -> String {
    format!("Content-Type: application/json\r\nIdempotency-Key: {key}\r\n")
}

/// The resident memory of a process in MiB; `None` without /proc.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib / 1024)
}

/// The median latency of payments with new keys.
async fn median_latency(serve: &Serve, name: &str, count: usize) -> Duration {
    let mut wire = Wire::connect(serve.address).await;
    let mut times = Vec::new();
    for number in 0..count {
        let begun = Instant::now();
        wire.send_payment(&head(&format!("{name}-{number}")), PAYMENT).await;
        assert_eq!(wire.status().await, 201);
        times.push(begun.elapsed());
    }
    times.sort();
    times[count / 2]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_duplicates_create_one_payment_and_delay_nobody() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    let quiet = median_latency(&serve, "quiet", 50).await;
    let connections_before = database.other_clients().await;

    // A thousand clients with ten requests each: more sockets are not available everywhere.
    let storm = join_all((0..1000).map(|_| {
        let address = serve.address;
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            let mut statuses = [0; 10];
            for status in &mut statuses {
                wire.send_payment(&head("storm"), PAYMENT).await;
                *status = wire.status().await;
            }
            statuses
        })
    }));
    let others = async {
        sleep(Duration::from_millis(100)).await;
        median_latency(&serve, "other", 30).await
    };
    let (storm, others) = tokio::join!(storm, others);

    let mut statuses = BTreeMap::new();
    for status in storm.into_iter().flat_map(Result::unwrap) {
        *statuses.entry(status).or_insert(0) += 1;
    }
    assert_eq!(statuses, BTreeMap::from([(200, 9_999), (201, 1)]));
    assert_eq!(database.payments().await, 1 + 50 + 30);
    database.until_other_clients_are(connections_before).await;
    eprintln!(
        "other keys: {quiet:?} alone, {others:?} in the storm; {:?} MiB",
        resident(serve.child.id())
    );
    assert!(others < quiet * 20 + SECOND / 5, "{quiet:?} alone, {others:?} in the storm");
    assert!(resident(serve.child.id()).is_none_or(|mebibytes| mebibytes < 256));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn excess_requests_are_refused_immediately_and_the_server_recovers() {
    let database = TestDatabase::create().await;
    let limits = [("QUEUE_LIMIT", "32"), ("ACCOUNT_QUEUE_LIMIT", "32")];
    let patient = [("IN_FLIGHT_WAIT", "1m"), ("REQUEST_DEADLINE", "2m")];
    let serve = Serve::start(&database.options, &[limits, patient].concat());
    let quiet = median_latency(&serve, "quiet", 50).await;
    let holder = database.hold_payments_of_held().await;
    let refused_so_far = Arc::new(AtomicUsize::new(0));
    let waiting = join_all((0..200).map(|number| {
        let (address, refused) = (serve.address, Arc::clone(&refused_so_far));
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            let held = r#"{"user_id": "held", "amount": 1}"#;
            wire.send_payment(&head(&format!("key-{number}")), held).await;
            let response = wire.response().await.unwrap();
            refused.fetch_add(usize::from(response.0.starts_with("http/1.1 503")), Relaxed);
            response
        })
    }));
    let release = async {
        // Refused requests do not wait for accepted ones.
        until("all others are refused", async || refused_so_far.load(Relaxed) == 200 - 32).await;
        holder.close().await.unwrap();
        let mut wire = Wire::connect(serve.address).await;
        let mut number = 0;
        until("payments are taken again", async || {
            number += 1;
            wire.send_payment(&head(&format!("free-{number}")), PAYMENT).await;
            wire.status().await == 201
        })
        .await;
        median_latency(&serve, "after", 20).await
    };
    let (responses, after) = tokio::join!(waiting, release);
    let (mut refused, mut pauses) = (0, BTreeSet::new());
    for (head, body) in responses.into_iter().map(Result::unwrap) {
        if head.starts_with("http/1.1 503") {
            assert!(body.contains("\"code\":\"overloaded\""), "{body}");
            let pause = head.lines().find_map(|line| line.strip_prefix("retry-after: "));
            pauses.insert(pause.expect("Retry-After").to_owned());
            refused += 1;
        } else {
            assert!(head.starts_with("http/1.1 201"), "{head}{body}");
        }
    }
    assert_eq!(refused, 200 - 32);
    assert!(pauses.len() > 4, "who is refused doesn't come back all at once: {pauses:?}");
    assert!(after < quiet * 20 + SECOND / 5, "{quiet:?} before, {after:?} after");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_and_silent_clients_delay_nobody_and_are_disconnected() {
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[]);
    let quiet = median_latency(&serve, "quiet", 50).await;
    let begun = Instant::now();
    let rude = join_all((0..150).map(|number| {
        let address = serve.address;
        tokio::spawn(async move {
            let mut wire = Wire::connect(address).await;
            match number % 3 {
                // Half a head; half a body; a body byte by byte.
                0 => wire.send("POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-").await,
                1 => {
                    wire.send(format!(
                        "POST /payment HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 99\r\n\r\n{{",
                        head("k")
                    ))
                    .await;
                }
                _ => {
                    wire.send(format!(
                        "POST /payment HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: 9999\r\n\r\n",
                        head("k")
                    ))
                    .await;
                    let drip = async {
                        loop {
                            sleep(SECOND / 2).await;
                            wire.send(" ").await;
                        }
                    };
                    let _ = timeout(9 * SECOND, drip).await;
                }
            }
            (number % 3, wire.response().await, begun.elapsed())
        })
    }));
    let others = async {
        sleep(SECOND / 2).await;
        median_latency(&serve, "other", 100).await
    };
    let (rude, others) = tokio::join!(rude, others);
    assert!(others < quiet * 20 + SECOND / 5, "{quiet:?} alone, {others:?} beside them");
    for (kind, response, took) in rude.into_iter().map(Result::unwrap) {
        assert!(took > 9 * SECOND, "{kind}: {took:?}");
        match response {
            // A request without a complete head gets the framework's response.
            Some((head, _)) if kind == 0 => assert!(head.starts_with("http/1.1 408"), "{head}"),
            Some((head, body)) => {
                assert!(head.starts_with("http/1.1 408"), "{head}");
                assert!(head.contains("content-type: application/problem+json"), "{head}");
                assert!(body.contains(r#""code":"request-timeout""#), "{body}");
                assert!(body.contains(r#""retry":"same_request""#), "{body}");
            }
            // Bytes that arrive after the connection is closed reset it, and the response is lost.
            None => assert_ne!(kind, 1, "half a body is answered"),
        }
    }
    assert_eq!(database.payments().await, 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_disconnect_at_any_moment_create_at_most_one_payment() {
    let server = TestServer::start().await;
    let clients = Arc::new(Clients::new(&[server.address]));
    let address = server.address;
    join_all((0..400_u64).map(|number| async move {
        let mut wire = Wire::connect(address).await;
        let request = format!(
            "POST /payment HTTP/1.1\r\nHost: localhost\r\n{}Content-Length: {}\r\n\r\n{PAYMENT}",
            head(&format!("key-{number}")),
            PAYMENT.len()
        );
        let sent = if number % 2 == 0 { request.len() } else { fastrand::usize(1..request.len()) };
        wire.send(&request[..sent]).await;
        sleep(Duration::from_micros(fastrand::u64(0..20_000))).await;
    }))
    .await;
    assert!(server.database.payments().await <= 200);
    for number in 0..400 {
        assert!(matches!(clients.pay(&format!("key-{number}"), PAYMENT).await.status, 200 | 201));
    }
    assert_eq!(assert_exactly_once(&clients, &server.database.options).await, 400);
}
