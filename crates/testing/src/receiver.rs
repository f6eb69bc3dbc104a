//! A receiver of webhooks on this machine.

use std::{
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, dev::ServerHandle, web};
use serde_json::Value;
use tokio::{sync::oneshot, time::sleep};

use super::wait::until;

/// A delivery.
#[derive(Debug, Clone)]
pub struct Received {
    /// The path, by which the endpoints of one receiver differ.
    pub path: String,
    pub id: String,
    pub timestamp: String,
    pub signature: String,
    pub body: String,
    pub at: Instant,
}

impl Received {
    /// The event's position.
    pub fn position(&self) -> i64 {
        self.json()["position"].as_i64().unwrap()
    }

    /// The payment that the event concerns.
    pub fn payment(&self) -> String {
        self.json()["data"]["transaction_id"].as_str().unwrap().to_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }
}

/// The response to a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Status(u16),
    /// With this pause in `Retry-After`, in seconds.
    RetryAfter(u16, u32),
    After(Duration),
    Never,
}

type Answers = Arc<Mutex<Box<dyn Fn(&Received) -> Answer + Send>>>;

struct Shared {
    answers: Answers,
    received: Arc<Mutex<Vec<Received>>>,
}

/// Accepts every delivery until it is told otherwise. Deliveries are recorded when their answer is decided.
pub struct Receiver {
    pub address: SocketAddr,
    shared: web::Data<Shared>,
    server: ServerHandle,
}

impl Receiver {
    pub async fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap()).await
    }

    /// Starts a receiver on a listener: connections that it has accepted until then are answered.
    pub async fn start_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let answers: Answers = Arc::new(Mutex::new(Box::new(|_| Answer::Status(204))));
        let shared = web::Data::new(Shared { answers, received: Arc::default() });
        let (started, handle) = oneshot::channel();
        let data = shared.clone();
        thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let server = HttpServer::new(move || {
                    App::new().app_data(data.clone()).default_service(web::to(receive))
                })
                .workers(1)
                .disable_signals()
                .shutdown_timeout(0)
                .listen(listener)
                .unwrap()
                .run();
                let _ = started.send(server.handle());
                let _ = server.await;
            });
        });
        let server = handle.await.unwrap();
        Self { address, shared, server }
    }

    /// The URL of an endpoint.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}/{path}", self.address)
    }

    /// Answers so from now on.
    pub fn answer(&self, answer: Answer) {
        self.answer_by(move |_| answer);
    }

    pub fn answer_by(&self, answers: impl Fn(&Received) -> Answer + Send + 'static) {
        *self.shared.answers.lock().unwrap() = Box::new(answers);
    }

    /// Everything that was received, in order.
    pub fn received(&self) -> Vec<Received> {
        self.shared.received.lock().unwrap().clone()
    }

    pub fn count(&self) -> usize {
        self.shared.received.lock().unwrap().len()
    }

    /// The positions that were received at this path, in order.
    pub fn positions(&self, path: &str) -> Vec<i64> {
        let received = self.received().into_iter().filter(|one| one.path == format!("/{path}"));
        received.map(|one| one.position()).collect()
    }

    /// Waits until so many deliveries were received.
    pub async fn until(&self, count: usize) -> Vec<Received> {
        until("deliveries are received", async || self.count() >= count).await;
        self.received()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        // Without a future that is awaited, the command is sent all the same.
        drop(self.server.stop(false));
    }
}

async fn receive(
    request: HttpRequest,
    body: web::Bytes,
    shared: web::Data<Shared>,
) -> HttpResponse {
    let header = |name: &str| {
        let value = request.headers().get(name).and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let received = Received {
        path: request.path().to_owned(),
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body: String::from_utf8(body.to_vec()).unwrap(),
        at: Instant::now(),
    };
    let answer = (*shared.answers.lock().unwrap())(&received);
    shared.received.lock().unwrap().push(received);
    match answer {
        Answer::Status(status) => HttpResponse::build(status.try_into().unwrap()).finish(),
        Answer::RetryAfter(status, seconds) => HttpResponse::build(status.try_into().unwrap())
            .insert_header(("retry-after", seconds.to_string()))
            .finish(),
        Answer::After(pause) => {
            sleep(pause).await;
            HttpResponse::NoContent().finish()
        }
        Answer::Never => std::future::pending().await,
    }
}
