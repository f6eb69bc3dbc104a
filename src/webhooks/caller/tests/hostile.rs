//! Receivers that want to hold a call, or to fill the memory.

use std::time::Instant;

use futures_util::future::BoxFuture;
use payonce_testing::wait;

use super::{
    receiver::{Connection, Handler, Receiver, endless},
    *,
};

/// The time-out of callers whose receivers never finish.
const SHORT: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_receiver_that_never_finishes_its_head_fails_after_the_time_out() {
    let fail = Heard::Failed("no response within 300ms".to_owned());
    let hanging = endless("", "", 5);
    let dripping = endless("HTTP/1.1 200 OK\r\nX: ", "y", 5);
    // Interim responses are no response.
    let interim = endless("", "HTTP/1.1 103 Early Hints\r\n\r\n", 1);
    for receiver in [hanging, dripping, interim] {
        let receiver = Receiver::start(receiver).await;
        let begun = Instant::now();
        assert_eq!(heard(&local(SHORT), &receiver.url()).await, fail);
        assert!(begun.elapsed() >= SHORT);
    }
}

#[tokio::test]
async fn a_call_that_gave_up_closes_its_connection() {
    let mut receiver = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.request().await;
            connection.closed().await;
            connection.requests.send("end".to_owned()).unwrap();
        })
    })
    .await;
    let caller = local(SHORT);
    assert!(matches!(heard(&caller, &receiver.url()).await, Heard::Failed(_)));
    receiver.ended().await;
}

#[tokio::test]
async fn a_listener_that_does_not_speak_tls_fails_after_the_time_out() {
    let receiver = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.closed().await;
            connection.requests.send("end".to_owned()).unwrap();
        })
    })
    .await;
    let url = receiver.url().replace("http://", "https://");
    assert!(matches!(heard(&local(SHORT), &url).await, Heard::Failed(_)));
    // Nor does the handshake go on without its call.
    let mut receiver = receiver;
    receiver.ended().await;
}

#[tokio::test]
async fn a_flood_of_headers_is_cut_off() {
    let flood = endless("HTTP/1.1 200 OK\r\n", "X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 0);
    let long = endless("HTTP/1.1 200 OK\r\nX: ", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy", 0);
    for handler in [flood, long] {
        let mut receiver = Receiver::start(handler).await;
        let heard = heard(&local(AMPLE), &receiver.url()).await;
        assert_eq!(heard, Heard::Failed("message head is too large".to_owned()));
        receiver.ended().await;
    }
}

/// Answers every request with a head and a body of these lengths.
fn sized(head: usize, body: usize) -> impl Handler {
    move |mut connection: Connection| -> BoxFuture<'static, ()> {
        let (head, body) = ("y".repeat(head), "y".repeat(body));
        let length = body.len();
        Box::pin(async move {
            while connection.request().await {
                let head = format!("HTTP/1.1 200 OK\r\nX: {head}\r\nContent-Length: {length}\r\n");
                connection.send(&format!("{head}\r\n{body}")).await;
            }
        })
    }
}

#[tokio::test]
async fn a_head_may_have_some_kib() {
    let accepted = Heard::Accepted(200);
    let too_large = Heard::Failed("message head is too large".to_owned());
    for (head, expected) in [(MAX_HEAD / 2, accepted), (2 * MAX_HEAD, too_large)] {
        let receiver = Receiver::start(sized(head, 0)).await;
        assert_eq!(heard(&local(AMPLE), &receiver.url()).await, expected, "{head}");
    }
}

#[tokio::test]
async fn a_long_body_is_not_read_and_its_connection_not_used_again() {
    for (body, connections) in [(MAX_RESPONSE, 1), (1024 * 1024, 3)] {
        let receiver = Receiver::start(sized(0, body)).await;
        let caller = local(AMPLE);
        for _ in 0..3 {
            assert_eq!(heard(&caller, &receiver.url()).await, Heard::Accepted(200));
        }
        assert_eq!(receiver.connections(), connections, "{body}");
    }
}

#[tokio::test]
async fn a_body_without_end_changes_nothing_and_is_not_read() {
    let flood = endless("HTTP/1.1 200 OK\r\n\r\n", "yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy", 0);
    let dripping = endless("HTTP/1.1 200 OK\r\n\r\n", "y", 5);
    let chunks = endless("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "1\r\ny\r\n", 5);
    for handler in [flood, dripping, chunks] {
        let mut receiver = Receiver::start(handler).await;
        assert_eq!(heard(&local(AMPLE), &receiver.url()).await, Heard::Accepted(200));
        receiver.ended().await;
    }
}

#[tokio::test]
async fn a_receiver_has_accepted_an_event_although_its_body_never_comes() {
    let silent = || endless("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n", "", 5);
    assert!(SHORT < BODY_TIMEOUT);
    for timeout in [SHORT, 2 * AMPLE] {
        let receiver = Receiver::start(silent()).await;
        let caller = local(timeout);
        // On a busy machine, not even the head may come in a short time.
        wait::until("the head comes in time", async || {
            heard(&caller, &receiver.url()).await == Heard::Accepted(200)
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_not_http_is_a_failure() {
    let receiver = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.send("220 mail.example.com ESMTP\r\n").await;
            connection.closed().await;
        })
    })
    .await;
    assert!(matches!(heard(&local(AMPLE), &receiver.url()).await, Heard::Failed(_)));
    let receiver = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.request().await;
        })
    })
    .await;
    let closed = Heard::Failed("connection closed before message completed".to_owned());
    assert_eq!(heard(&local(AMPLE), &receiver.url()).await, closed);
}
