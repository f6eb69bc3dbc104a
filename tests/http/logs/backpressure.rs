//! A log that nobody reads, and clients that try to fill it.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, ChildStderr, Stdio},
    sync::{Arc, Mutex},
};

use payonce_testing::{
    PAYMENT, TestDatabase,
    binary::{Serve, payonce, signal, url},
    client::{Client, Wire},
    proxy::Proxy,
    wait::{eventually, until},
};

const NOT_FOUND: &str = "GET /nowhere HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A server whose standard error is a pipe that nobody reads until a test does.
struct Unread {
    child: Child,
    stderr: Option<BufReader<ChildStderr>>,
    address: SocketAddr,
}

impl Unread {
    fn start(database: &TestDatabase) -> Self {
        let mut command = payonce(&["serve"]);
        command
            .env("DATABASE_URL", url(&database.options))
            .env("PORT", "0")
            .env("RUST_LOG", "info,payonce::request=debug")
            .stderr(Stdio::piped())
            .stdout(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("listens on http://") {
            line.clear();
            assert!(stderr.read_line(&mut line).unwrap() > 0);
        }
        let address = line.trim().rsplit("http://").next().unwrap().parse().unwrap();
        Self { child, stderr: Some(stderr), address }
    }

    /// Sends requests until the server drops log lines: then the pipe and the queue are full.
    async fn fill(&self) {
        let client = Client { address: self.address, http: reqwest::Client::new() };
        let dropped = || async {
            let metrics = client.get("/metrics").await.body;
            let line = metrics.lines().find(|line| line.starts_with("payonce_log_lines_dropped"));
            line.unwrap().rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        let mut wire = Wire::connect(self.address).await;
        until("lines are dropped", async || {
            for _ in 0..500 {
                wire.send(NOT_FOUND).await;
                assert_eq!(wire.status().await, 404);
            }
            dropped().await > 0
        })
        .await;
    }

    /// Starts reading the log.
    fn read(&mut self) -> Arc<Mutex<String>> {
        let log = Arc::<Mutex<String>>::default();
        let stderr = self.stderr.take().unwrap();
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                for line in stderr.lines().map_while(Result::ok) {
                    let mut log = log.lock().unwrap();
                    log.push_str(&line);
                    log.push('\n');
                }
            }
        });
        log
    }

    fn terminate(&mut self) {
        signal(&mut self.child, "TERM");
    }

    async fn ends(&mut self) {
        until("the server ends", async || self.child.try_wait().unwrap().is_some()).await;
    }
}

impl Drop for Unread {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn an_unread_log_stops_neither_payments_nor_sigterm() {
    let database = TestDatabase::create().await;
    let mut serve = Unread::start(&database);
    serve.fill().await;
    let mut wire = Wire::connect(serve.address).await;
    wire.send_payment("Content-Type: application/json\r\nIdempotency-Key: k\r\n", PAYMENT).await;
    assert_eq!(wire.status().await, 201);
    serve.terminate();
    serve.ends().await;
}

#[tokio::test]
async fn a_log_that_is_read_again_says_how_many_lines_were_dropped() {
    let database = TestDatabase::create().await;
    let mut serve = Unread::start(&database);
    serve.fill().await;
    let log = serve.read();
    let dropped = eventually("the log says how many lines were dropped", async || {
        let log = log.lock().unwrap();
        let (before, _) = log.split_once(" log lines were dropped")?;
        Some(before.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
    })
    .await;
    assert!(dropped > 0);
    serve.terminate();
    serve.ends().await;
    let stopped = async || log.lock().unwrap().trim_end().ends_with("stopped");
    until("the last line is logged", stopped).await;
}

#[tokio::test]
async fn repeated_problems_are_logged_at_a_limited_rate_and_counted() {
    const COUNT: u64 = 300;
    let database = TestDatabase::create().await;
    let serve = Serve::start(&database.options, &[("LOG_FORMAT", "json")]);
    let mut wire = Wire::connect(serve.address).await;
    for _ in 0..COUNT {
        wire.send(NOT_FOUND).await;
        assert_eq!(wire.status().await, 404);
    }
    let (logged, left_out) = eventually("all are logged or counted", async || {
        let (mut logged, mut left_out) = (0, 0);
        for line in serve.log().lines().filter(|line| line.contains("not-found")) {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            match line["left_out"].as_u64() {
                Some(count) => left_out += count,
                None => logged += 1,
            }
        }
        (logged + left_out == COUNT).then_some((logged, left_out))
    })
    .await;
    assert!(left_out > 0 && logged >= 20, "{logged} lines, {left_out} left out");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_server_error_is_logged() {
    const COUNT: usize = 50;
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(&database.options).await;
    let settings = [("REQUEST_DEADLINE", "2s"), ("IN_FLIGHT_WAIT", "1s")];
    let serve = Serve::start(&proxy.through(&database.options), &settings);
    proxy.redirect(&database.options.clone().port(1)).await;
    proxy.cut_all();
    let mut wires = Vec::new();
    for _ in 0..COUNT {
        let mut wire = Wire::connect(serve.address).await;
        wire.send("GET /payment HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
        wires.push(wire);
    }
    for wire in &mut wires {
        assert_eq!(wire.status().await, 503);
    }
    let lines = async || serve.log().matches("database-unavailable").count();
    until("all are logged", async || lines().await == COUNT).await;
}

#[tokio::test]
async fn no_client_can_cause_a_long_line_or_an_error_line() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[]);
    let method = "X".repeat(100_000);
    for (request, status) in [
        (NOT_FOUND.replace("GET", &method), 404),
        (NOT_FOUND.replace("GET", "BREW"), 404),
        ("\u{1}\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}", "x".repeat(200_000)), 431),
        (
            "POST /payment HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nIdempotency-Key: k\r\n\
             Transfer-Encoding: chunked\r\n\r\nx\r\n"
                .to_owned(),
            400,
        ),
    ] {
        let mut wire = Wire::connect(serve.address).await;
        wire.send(&request).await;
        assert_eq!(wire.status().await, status, "{request:.40}");
    }
    serve.signal("TERM");
    let (_, log) = serve.wait();
    assert!(log.contains("stopped"), "{log}");
    assert_eq!(log.matches("method=other").count(), 2, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
    assert!(log.lines().all(|line| line.len() < 1000), "a line is long");
}
