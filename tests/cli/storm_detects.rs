//! `payonce storm` detects a server that breaks a promise.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    thread,
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, rt::System, web};
use payonce_testing::binary::run;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::storm::{report, storm};

/// The defect of an imitation of payonce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Vice {
    None,
    /// It creates a payment with each request.
    PaysAgain,
    /// Its responses are right, but it creates each payment twice.
    PaysTwiceInSecret,
    /// It responds, but creates nothing.
    Forgets,
    /// It replays the payment to a different request with the same key.
    TakesWrongReuse,
    /// It refuses a different request with a used key, but creates its payment.
    PaysWrongReuse,
    /// It responds with the payment of another request.
    Confuses,
    /// Its lists start again at their end.
    ListsForEver,
    /// It refuses valid requests.
    Refuses,
    /// It creates no payments.
    Unavailable,
}

/// An imitation of payonce.
struct StandIn {
    address: SocketAddr,
    handle: ServerHandle,
}

#[derive(Default)]
struct Books {
    responses: BTreeMap<String, (Value, Value)>,
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
        // Starts without being awaited.
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
    let used = books.responses.get(&key).cloned();
    match (used, vice) {
        (_, Vice::Refuses) => HttpResponse::BadRequest().finish(),
        (_, Vice::Unavailable) => HttpResponse::ServiceUnavailable().finish(),
        (Some((_, response)), Vice::TakesWrongReuse) => HttpResponse::Ok().json(response),
        (Some((first, response)), vice) if *vice != Vice::PaysAgain => {
            if first == *body {
                return HttpResponse::Ok().json(response);
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
            let response = others.unwrap_or(payment);
            books.responses.insert(key, (body.into_inner(), response.clone()));
            HttpResponse::Created().json(response)
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
    // Pages of two payments, with cursors that must be percent-encoded.
    let begin = query.get("cursor").map_or(0, |cursor| cursor.trim_matches('&').parse().unwrap());
    let next = (payments.len() > begin + 2).then(|| format!("&{}&", begin + 2));
    let next = next.or_else(|| (shared.0 == Vice::ListsForEver).then(|| "&0&".to_owned()));
    payments = payments.into_iter().skip(begin).take(2).collect();
    HttpResponse::Ok().json(json!({ "payments": payments, "next_cursor": next }))
}

#[tokio::test]
async fn a_server_that_breaks_a_promise_is_detected() {
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
async fn the_table_names_the_broken_promise() {
    let server = StandIn::start(Vice::PaysAgain).await;
    let (code, stdout, stderr) = run(&mut storm(&[server.address], &["--payments", "40"]));
    assert_eq!(code, 1);
    assert!(stdout.contains("\nBROKEN: storm-") && !stdout.contains("exactly once"), "{stdout}");
    assert!(stderr.contains("PROMISES WERE BROKEN"), "{stderr}");
}

#[tokio::test]
async fn an_unanswered_payment_is_not_reported_as_created() {
    let server = StandIn::start(Vice::Unavailable).await;
    let arguments = ["--payments", "5000", "--clients", "2", "--patience", "600ms"];
    let (code, report, stderr) = report(&[server.address], &arguments);
    assert_eq!((code, &report["exactly_once"]), (1, &json!(false)), "{report}");
    // Each client gives up once, not for each payment.
    assert!(report["intended"].as_u64() <= Some(2), "{report}");
    let first = report["unanswered"][0].as_str().unwrap();
    assert!(first.contains("was not answered within 600ms, and at last: 503"), "{report}");
    assert!(stderr.contains("some requests got no final response"), "{stderr}");
    assert_eq!(report["broken"], json!([]));
}
