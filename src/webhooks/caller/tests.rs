use std::{
    io,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::BoxFuture;
use tokio::net::TcpListener;
use uuid::Uuid;

use self::receiver::{Receiver, accept};
use super::*;
use crate::{
    events::EventType,
    webhooks::{
        Resolver, SystemResolver,
        address::tests::{FORBIDDEN_HOSTS, Rebinding},
    },
};

mod hostile;
mod receiver;
mod tls;

/// Only a call that never ends takes this long, on a busy machine too.
const AMPLE: Duration = Duration::from_mins(1);

fn caller(allowed: &str, resolver: impl Resolver, timeout: Duration) -> Caller {
    let guard = Guard::new(allowed.parse().unwrap(), resolver);
    Caller::with(guard, RootCertStore::empty(), timeout).unwrap()
}

/// A caller that may reach receivers on this machine.
fn local(timeout: Duration) -> Caller {
    caller("127.0.0.0/8,::1", SystemResolver, timeout)
}

fn id() -> EventId {
    EventId::new(Uuid::from_u128(7).into(), EventType::PaymentCreated)
}

async fn heard(caller: &Caller, url: &str) -> Heard {
    let secrets = [Secret::generate().unwrap()];
    let body = Bytes::from_static(br#"{"a":1}"#);
    let id = id();
    let call = caller.call(Call { url, id: &id, body, secrets: &secrets });
    tokio::time::timeout(AMPLE, call).await.expect("a call ends by itself")
}

#[tokio::test]
async fn a_call_is_a_signed_post_of_the_event() {
    let mut receiver = Receiver::start(accept).await;
    let secrets = [Secret::generate().unwrap(), Secret::generate().unwrap()];
    let (url, body) = (receiver.url(), Bytes::from_static(br#"{"a":1}"#));
    let call = Call { url: &url, id: &id(), body: body.clone(), secrets: &secrets };
    assert_eq!(local(AMPLE).call(call).await, Heard::Accepted(200));
    let request = receiver.requests.recv().await.unwrap();
    let (head, sent) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        let (_, value) = lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).expect(name);
        value.to_owned()
    };
    assert!(head.starts_with("POST /webhooks?token=se-cret HTTP/1.1\r\n"), "{head}");
    assert_eq!(sent.as_bytes(), body);
    assert_eq!(header("host"), receiver.address.to_string());
    assert_eq!(header("content-type"), "application/json");
    assert_eq!(header("user-agent"), AGENT);
    assert_eq!(header("webhook-id"), "evt_00000000000000000000000000000007_1");
    let timestamp = header("webhook-timestamp").parse().unwrap();
    let expected = signatures(&secrets, "evt_00000000000000000000000000000007_1", timestamp, &body);
    assert_eq!(header("webhook-signature"), expected);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!(now - timestamp <= AMPLE.as_secs(), "{timestamp}");
    assert_eq!(head.lines().count(), 8, "{head}");
}

#[tokio::test]
async fn calls_share_a_connection() {
    let receiver = Receiver::start(accept).await;
    let caller = local(AMPLE);
    for _ in 0..3 {
        assert_eq!(heard(&caller, &receiver.url()).await, Heard::Accepted(200));
    }
    assert_eq!(receiver.connections(), 1);
}

#[tokio::test]
async fn no_way_to_write_a_forbidden_address_reaches_its_listener() {
    let v4 = Receiver::start_at("0.0.0.0:0", accept).await;
    let port = v4.address.port();
    let v6 = Receiver::start_at(&format!("[::1]:{port}"), accept).await;
    let (closed, open) = (caller("", Rebinding, AMPLE), local(AMPLE));
    for host in FORBIDDEN_HOSTS {
        for scheme in ["http", "https"] {
            let heard = heard(&closed, &format!("{scheme}://{host}:{port}/webhooks")).await;
            assert!(matches!(heard, Heard::Failed(_)), "{scheme}://{host}: {heard:?}");
        }
    }
    assert_eq!((v4.connections(), v6.connections()), (0, 0));
    // They are there: the guard alone kept the calls out.
    for host in ["127.1", "[::1]", "localhost"] {
        let url = format!("http://{host}:{port}/");
        assert_eq!(heard(&open, &url).await, Heard::Accepted(200), "{host}");
    }
    assert_eq!((v4.connections() > 0, v6.connections() > 0), (true, true));
}

/// Resolves a name to one address after the other.
struct Turns(&'static [&'static str], Arc<AtomicUsize>);

impl Resolver for Turns {
    fn resolve(&self, _: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        let turn = self.1.fetch_add(1, Ordering::Relaxed);
        let address = self.0[turn % self.0.len()].parse().unwrap();
        Box::pin(async move { Ok(vec![address]) })
    }
}

#[tokio::test]
async fn a_name_that_resolves_to_a_forbidden_address_after_its_check_is_not_called() {
    let receiver = Receiver::start(accept).await;
    let looked_up = Arc::new(AtomicUsize::new(0));
    let turns = Turns(&["8.8.8.8", "127.0.0.1"], Arc::clone(&looked_up));
    let guard = Guard::new("8.8.8.8".parse().unwrap(), turns);
    let url = format!("http://receiver.test:{}/", receiver.address.port());
    guard.check(&url).await.unwrap();
    let caller = Caller::with(guard, RootCertStore::empty(), AMPLE).unwrap();
    let Heard::Failed(error) = heard(&caller, &url).await else { panic!() };
    assert!(error.starts_with("connection failed: the host has an address that is not"), "{error}");
    assert_eq!((looked_up.load(Ordering::Relaxed), receiver.connections()), (2, 0));
}

#[tokio::test]
async fn the_connection_goes_to_the_address_that_was_checked() {
    let allowed = Receiver::start(accept).await;
    let port = allowed.address.port();
    let forbidden = Receiver::start_at(&format!("127.0.0.2:{port}"), accept).await;
    let looked_up = Arc::new(AtomicUsize::new(0));
    let turns = Turns(&["127.0.0.1", "127.0.0.2"], Arc::clone(&looked_up));
    let caller = caller("127.0.0.1", turns, AMPLE);
    let url = format!("http://receiver.test:{port}/");
    assert_eq!(heard(&caller, &url).await, Heard::Accepted(200));
    assert_eq!((allowed.connections(), forbidden.connections()), (1, 0));
    assert_eq!(looked_up.load(Ordering::Relaxed), 1, "a second look-up could say something else");
}

#[tokio::test]
async fn a_redirect_is_a_refusal_and_is_not_followed() {
    // The same port at another address, so that the handler need not know it.
    let mut redirecting = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.request().await;
            let port = connection.stream.local_addr().unwrap().port();
            let response = format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: http://127.0.0.2:{port}/\r\nContent-Length: 0\r\n\r\n"
            );
            connection.send(&response).await;
        })
    })
    .await;
    let port = redirecting.address.port();
    let target = Receiver::start_at(&format!("127.0.0.2:{port}"), accept).await;
    let refused = Heard::Refused { status: 307, retry_after: None };
    assert_eq!(heard(&local(AMPLE), &redirecting.url()).await, refused);
    assert!(redirecting.requests.recv().await.is_some());
    assert_eq!((redirecting.connections(), target.connections()), (1, 0));
}

#[tokio::test]
async fn a_refusal_has_its_status_and_the_pause_that_it_asks_for() {
    let receiver = Receiver::start(|mut connection| {
        Box::pin(async move {
            connection.request().await;
            let head = "HTTP/1.1 503 Service Unavailable\r\nRetry-After: 120\r\n";
            connection.send(&format!("{head}Content-Length: 0\r\n\r\n")).await;
        })
    })
    .await;
    let retry_after = Some(Duration::from_mins(2));
    let refused = Heard::Refused { status: 503, retry_after };
    assert_eq!(heard(&local(AMPLE), &receiver.url()).await, refused);
}

#[test]
fn retry_after_is_read_as_seconds_or_a_date_and_is_at_most_an_hour() {
    let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT").unwrap();
    let read = |value: &str| {
        retry_after(&HeaderMap::from_iter([(RETRY_AFTER, value.parse().unwrap())]), now)
    };
    for (value, seconds) in [
        ("0", Some(0)),
        ("120", Some(120)),
        (" 120 ", Some(120)),
        ("3601", Some(3600)),
        ("99999999999999999999999", Some(3600)),
        ("Sun, 06 Nov 1994 08:51:37 GMT", Some(120)),
        ("Sunday, 06-Nov-94 08:51:37 GMT", Some(120)),
        ("Sun Nov  6 08:51:37 1994", Some(120)),
        ("Sun, 06 Nov 1994 08:49:36 GMT", Some(0)),
        ("Fri, 31 Dec 9999 23:59:59 GMT", Some(3600)),
        ("", None),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
    ] {
        assert_eq!(read(value), seconds.map(Duration::from_secs), "{value:?}");
    }
    assert_eq!(retry_after(&HeaderMap::new(), now), None);
}

#[tokio::test]
async fn a_failure_says_why_without_the_url() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let refusing = listener.local_addr().unwrap();
    drop(listener);
    for (url, expected) in [
        (format!("http://{refusing}/se-cret"), "connection failed: Connection refused"),
        (
            "http://se-cret.invalid/se-cret".to_owned(),
            "connection failed: the host can't be resolved",
        ),
        ("https://se-cret@example.com/".to_owned(), "expected a URL without a user"),
    ] {
        let Heard::Failed(error) = heard(&local(AMPLE), &url).await else { panic!("{url}") };
        assert!(error.starts_with(expected) && !error.contains("se-cret"), "{error}");
    }
}
