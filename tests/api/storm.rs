//! `payonce storm`: it finds nothing at payonce, and finds out whoever breaks a promise.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, rt::System, web};
use serde_json::{Value, json};
use tokio::{net::TcpSocket, sync::oneshot};
use uuid::Uuid;

use crate::support::{
    TestDatabase, TestServer,
    binary::{Serve, payonce, run},
};

/// A storm at these servers, about to be run.
fn storm(servers: &[SocketAddr], arguments: &[&str]) -> Command {
    let mut command = payonce(&["storm"]);
    for server in servers {
        command.args(["--url", &format!("http://{server}")]);
    }
    command.args(arguments);
    command
}

/// Runs a storm: its exit code, its report, and what it says on stderr.
#[track_caller]
fn report(servers: &[SocketAddr], arguments: &[&str]) -> (i32, Value, String) {
    let (code, stdout, stderr) = run(storm(servers, arguments).arg("--json"));
    let report = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    (code, report, stderr)
}

#[tokio::test]
async fn every_payment_of_a_storm_is_made_once_by_two_servers() {
    let server = TestServer::start().await;
    let other = server.another().await;
    let servers = [server.address, other.address];
    let (code, report, stderr) = report(&servers, &["--payments", "200"]);
    assert_eq!((code, stderr.as_str()), (0, ""), "{report}");
    assert_eq!(server.database.payments().await, 200);
    for (member, value) in [
        ("exactly_once", json!(true)),
        ("intended", json!(200)),
        ("found", json!(200)),
        ("duplicates", json!(0)),
        ("lost", json!(0)),
        ("reuses_refused", json!(20)),
        ("unanswered", json!([])),
        ("broken", json!([])),
    ] {
        assert_eq!(report[member], value, "{member} of {report}");
    }
    // One in ten is sent five times, two in ten twice, one in four later again, one in ten is given up first.
    let count = |member: &str| report[member].as_u64().unwrap();
    let of_status = |status: &str| report["statuses"][status].as_u64().unwrap_or(0);
    assert_eq!(of_status("422"), 20);
    assert_eq!(
        of_status("200") + of_status("201"),
        200 + 20 * 4 + 40 + 50 + 20 - count("hang_ups")
    );
    assert_eq!(count("requests") - count("retries"), 200 + 20 * 4 + 40 + 50 + 20 + 20, "{report}");
    assert!(report["latency_ms"]["longest"].as_f64() >= report["latency_ms"]["p50"].as_f64());
}

#[tokio::test]
async fn people_are_shown_a_table_and_the_verdict() {
    // A replay is one by what its header says, whatever its status is.
    let server = TestServer::start_with(&["--idempotency-replay-status", "original"]).await;
    let (code, stdout, stderr) = run(&mut storm(&[server.address], &["--payments", "20"]));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    let row = |name: &str| {
        let line = stdout.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap_or_else(|| panic!("{name} in {stdout}")).trim().to_owned()
    };
    assert_eq!(row("intended payments"), "20");
    assert_eq!(row("payments read back"), server.database.payments().await.to_string());
    assert_eq!(row("duplicates"), "0");
    assert!(stdout.ends_with("\nevery payment was made exactly once\n"), "{stdout}");
}

#[tokio::test]
async fn a_server_that_is_killed_meanwhile_makes_every_payment_once() {
    let database = TestDatabase::create().await;
    let mut serve = Serve::start(&database.options, &[]);
    let address = serve.address;
    let mut storm = storm(&[address], &["--payments", "1500", "--clients", "16", "--json"]);
    let storm = storm.stdout(Stdio::piped()).spawn().unwrap();
    let mut paid = 0;
    for _ in 0..2 {
        // It is killed while it takes payments, and not before.
        database.until("SELECT count(*) FROM payments", |payments| payments >= paid + 100).await;
        serve.signal("KILL");
        serve.child.wait().unwrap();
        serve = Serve::start(&database.options, &[("PORT", &address.port().to_string())]);
        paid = database.payments().await;
    }
    let output = storm.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{report}");
    assert_eq!((&report["found"], &report["lost"]), (&json!(1500), &json!(0)), "{report}");
    assert!(report["retries"].as_u64() > Some(0), "{report}");
    assert_eq!(database.payments().await, 1500);
}

#[tokio::test]
async fn an_api_key_is_read_from_the_environment_and_asked_for_where_it_is_lacking() {
    let server = TestServer::start().await;
    let account = server.account("ada").await;
    let arguments = ["--payments", "10", "--json"];
    for key in ["", "payonce_wrong"] {
        let (code, stdout, stderr) =
            run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", key));
        assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
        assert!(stderr.contains("set PAYONCE_API_KEY"), "{stderr}");
    }
    let (code, stdout, stderr) =
        run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", "se\ncret"));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(stderr.contains("PAYONCE_API_KEY") && !stderr.contains("cret"), "{stderr}");
    assert_eq!(server.database.payments().await, 0);
    let (code, stdout, stderr) =
        run(storm(&[server.address], &arguments).env("PAYONCE_API_KEY", &account.api_key));
    assert_eq!((code, stderr.as_str()), (0, ""), "{stdout}");
    assert_eq!(server.database.payments().await, 10);
}

#[tokio::test]
async fn without_a_url_a_storm_goes_to_host_and_port() {
    let server = TestServer::start().await;
    let port = server.address.port().to_string();
    for host in ["127.0.0.1", "0.0.0.0", "localhost"] {
        let mut storm = storm(&[], &["--payments", "1", "--clients", "1", "--json"]);
        let (code, stdout, stderr) = run(storm.env("HOST", host).env("PORT", &port));
        assert_eq!((code, stderr.as_str()), (0, ""), "{host}: {stdout}");
    }
    assert_eq!(server.database.payments().await, 3);
}

#[test]
fn a_url_that_cannot_be_used_is_refused_with_the_reason() {
    for (url, why) in [
        ("https://pay.example", "plain HTTP"),
        ("pay.example:5000", "write it as http://127.0.0.1:5000"),
        ("http://ada:secret@pay.example", "PAYONCE_API_KEY"),
    ] {
        let (code, stdout, stderr) = run(&mut payonce(&["storm", "--url", url]));
        assert_eq!((code, stdout.as_str()), (2, ""), "{stderr}");
        assert!(stderr.contains("--url") && stderr.contains(why), "{stderr}");
        assert!(!stderr.contains("secret"), "{stderr}");
    }
    for arguments in [["--payments", "0"], ["--clients", "0"], ["--patience", "5"]] {
        assert_eq!(run(payonce(&["storm"]).args(arguments)).0, 2, "{arguments:?}");
    }
}

#[test]
fn a_server_that_is_not_there_is_waited_for_as_long_as_patience_lasts() {
    // A port that is taken, so that no other test gets it, and that nobody listens on.
    let taken = TcpSocket::new_v4().unwrap();
    taken.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    let address = taken.local_addr().unwrap();
    let begun = Instant::now();
    let (code, stdout, stderr) = run(&mut storm(&[address], &["--patience", "1s"]));
    assert_eq!((code, stdout.as_str()), (1, ""), "{stderr}");
    assert!(
        stderr.contains(&format!("http://{address} was not answered within 1s"))
            && stderr.contains("Connection refused"),
        "{stderr}"
    );
    // A pause that would last longer than patience isn't made.
    let took = begun.elapsed();
    assert!(took >= Duration::from_millis(400), "{took:?}");
}

#[test]
fn the_help_says_that_payments_are_real() {
    let (code, stdout, _) = run(&mut payonce(&["storm", "--help"]));
    assert!(code == 0 && stdout.contains("REAL PAYMENTS"), "{stdout}");
    assert!(stdout.contains("PAYONCE_API_KEY") && !stdout.contains("--api-key"), "{stdout}");
}

/// What a stand-in for payonce does wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    /// It makes another payment with each request.
    PaysAgain,
    /// It answers as it should, and makes each payment twice.
    PaysTwiceInSecret,
    /// It answers, and makes nothing of it.
    Forgets,
    /// It answers whoever uses a key again as if it were the same payment.
    TakesWrongReuse,
    /// It makes a payment of a request with a key that is used up, and says that it doesn't.
    PaysWrongReuse,
    /// It answers everybody with somebody else's payment.
    Confuses,
    /// Its lists begin again where they should end.
    ListsForEver,
    /// It refuses what it should do.
    Refuses,
    /// It takes no payments.
    Unavailable,
}

/// Something that could be taken for payonce.
struct StandIn {
    address: SocketAddr,
    handle: ServerHandle,
}

#[derive(Default)]
struct Books {
    answers: BTreeMap<String, (Value, Value)>,
    payments: Vec<Value>,
}

type Shared = (Vice, Arc<Mutex<Books>>);

impl StandIn {
    async fn start(vice: Vice) -> Self {
        let (started, start) = oneshot::channel();
        thread::spawn(move || {
            let shared: Shared = (vice, Arc::default());
            let app = move || {
                App::new()
                    .app_data(web::Data::new(shared.clone()))
                    .route("/payment", web::post().to(pay))
                    .route("/payment", web::get().to(list))
            };
            System::new().block_on(async {
                let server = HttpServer::new(app).workers(1).disable_signals();
                let server = server.bind(("127.0.0.1", 0)).unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                started.send(Self { address, handle: server.handle() }).ok().unwrap();
                server.await.unwrap();
            });
        });
        start.await.unwrap()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        // Begins at once, whoever waits for its end.
        drop(self.handle.stop(false));
    }
}

async fn pay(
    shared: web::Data<Shared>,
    request: HttpRequest,
    body: web::Json<Value>,
) -> HttpResponse {
    let (vice, books) = shared.get_ref();
    let mut books = books.lock().unwrap();
    let key = request.headers().get("idempotency-key").unwrap().to_str().unwrap().to_owned();
    let made = |body: &Value| {
        let mut payment = body.clone();
        payment["transaction_id"] = json!(Uuid::new_v4());
        payment
    };
    let used = books.answers.get(&key).cloned();
    match (used, vice) {
        (_, Vice::Refuses) => HttpResponse::BadRequest().finish(),
        (_, Vice::Unavailable) => HttpResponse::ServiceUnavailable().finish(),
        (Some((_, answer)), Vice::TakesWrongReuse) => HttpResponse::Ok().json(answer),
        (Some((first, answer)), vice) if *vice != Vice::PaysAgain => {
            if first == *body {
                return HttpResponse::Ok().json(answer);
            }
            if *vice == Vice::PaysWrongReuse {
                books.payments.push(made(&body));
            }
            HttpResponse::UnprocessableEntity().finish()
        }
        _ => {
            let payment = made(&body);
            let copies = match vice {
                Vice::PaysTwiceInSecret => vec![payment.clone(), made(&body)],
                Vice::Forgets => vec![],
                _ => vec![payment.clone()],
            };
            books.payments.extend(copies);
            let others = books.payments.first().filter(|_| *vice == Vice::Confuses).cloned();
            let answer = others.unwrap_or(payment);
            books.answers.insert(key, (body.into_inner(), answer.clone()));
            HttpResponse::Created().json(answer)
        }
    }
}

async fn list(
    shared: web::Data<Shared>,
    query: web::Query<BTreeMap<String, String>>,
) -> HttpResponse {
    let books = shared.1.lock().unwrap();
    let asked = query.get("user_id");
    let of_user = |payment: &&Value| asked.is_none_or(|user| payment["user_id"] == *user);
    let mut payments: Vec<&Value> = books.payments.iter().filter(of_user).collect();
    // Pages of two, and cursors that only arrive whole where they are encoded.
    let begin = query.get("cursor").map_or(0, |cursor| cursor.trim_matches('&').parse().unwrap());
    let next = (payments.len() > begin + 2).then(|| format!("&{}&", begin + 2));
    let next = next.or_else(|| (shared.0 == Vice::ListsForEver).then(|| "&0&".to_owned()));
    payments = payments.into_iter().skip(begin).take(2).collect();
    HttpResponse::Ok().json(json!({ "payments": payments, "next_cursor": next }))
}

#[tokio::test]
async fn whoever_breaks_a_promise_is_found_out() {
    for (vice, found_out) in [
        (Vice::None, None),
        (Vice::PaysAgain, Some("was answered as new 5 times")),
        (Vice::PaysTwiceInSecret, Some("exists as 2 payments")),
        (Vice::Forgets, Some("which does not exist")),
        (Vice::TakesWrongReuse, Some("was reused, and answered with 200")),
        (Vice::PaysWrongReuse, Some("exists, and was never intended")),
        (Vice::Confuses, Some("was answered with another payment")),
        (Vice::ListsForEver, Some("is listed twice")),
        (Vice::Refuses, Some("was answered with 400")),
    ] {
        let server = StandIn::start(vice).await;
        let (code, report, stderr) =
            report(&[server.address], &["--payments", "40", "--patience", "5s"]);
        let broken = report["broken"].as_array().unwrap();
        assert_eq!(code, i32::from(found_out.is_some()), "{vice:?}: {report}");
        assert_eq!(report["exactly_once"], found_out.is_none(), "{vice:?}: {report}");
        assert_eq!(broken.is_empty(), found_out.is_none(), "{vice:?}: {report}");
        let Some(found_out) = found_out else { continue };
        let named = broken.iter().any(|what| what.as_str().unwrap().contains(found_out));
        assert!(named && stderr.contains("PROMISES WERE BROKEN"), "{vice:?}: {report} {stderr}");
        let twice = matches!(vice, Vice::PaysAgain | Vice::PaysTwiceInSecret);
        assert_eq!(report["duplicates"].as_u64() > Some(0), twice, "{vice:?}: {report}");
        assert_eq!(
            report["lost"].as_u64() == Some(40),
            vice == Vice::Forgets,
            "{vice:?}: {report}"
        );
    }
}

#[tokio::test]
async fn a_promise_that_was_broken_is_named_in_the_table() {
    let server = StandIn::start(Vice::PaysAgain).await;
    let (code, stdout, stderr) = run(&mut storm(&[server.address], &["--payments", "40"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("\nBROKEN: storm-") && !stdout.contains("exactly once"), "{stdout}");
    assert!(stderr.contains("PROMISES WERE BROKEN"), "{stderr}");
}

#[tokio::test]
async fn what_stays_unanswered_is_not_said_to_be_made() {
    let server = StandIn::start(Vice::Unavailable).await;
    let arguments = ["--payments", "5000", "--clients", "2", "--patience", "600ms"];
    let (code, report, stderr) = report(&[server.address], &arguments);
    assert_eq!((code, &report["exactly_once"]), (1, &json!(false)), "{report}");
    // Each client gives up once, and not once for each payment.
    assert!(report["intended"].as_u64() <= Some(2), "{report}");
    let first = report["unanswered"][0].as_str().unwrap();
    assert!(first.contains("was not answered within 600ms, and at last: 503"), "{report}");
    assert!(stderr.contains("some requests got no final response"), "{stderr}");
    assert_eq!(report["broken"], json!([]));
}
