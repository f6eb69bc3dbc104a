//! The limit with HTTP before it: what payonce's design can do on these cores where payments may be made twice.
//!
//! ceiling.rs is given what requests bring, in the same framework, by as many threads, and in batches chosen as payonce
//! chooses them. Nothing is looked up, locked, joined, compared, logged or counted, and at the first error the server
//! ends. What payonce is slower than this is what its promises cost.

use std::{num::NonZero, process::Command};

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, rt, web};
use futures_util::future::join;
use sqlx::{Connection, PgConnection};
use tokio::sync::{
    mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    oneshot,
};
use uuid::Uuid;

use super::{
    ceiling::{self, Batch},
    endpoint::{self, Payment, created, key},
    support::{
        TestDatabase,
        binary::{Serve, url},
    },
};

/// The word on the command line that makes the benchmark be this server.
pub const WORD: &str = "bare-server";

/// Batches of up to so many are not parted, as in payonce.
const WHOLE: usize = 16;

struct Waiting {
    key: String,
    payment: Payment,
    answer: oneshot::Sender<Answer>,
}

/// What its caller hears.
struct Answer {
    id: Uuid,
    body: String,
}

/// Starts it on this database.
pub fn start(database: &TestDatabase) -> Serve {
    let program = std::env::current_exe().unwrap();
    Serve::spawn(Command::new(program).arg(WORD).env("DATABASE_URL", url(&database.options)))
}

/// Serves, until it is told to stop.
pub fn serve() {
    let url = std::env::var("DATABASE_URL").unwrap();
    rt::System::new().block_on(async {
        let mut conn = PgConnection::connect(&url).await.unwrap();
        ceiling::prepare(&mut conn).await;
        let (sender, receiver) = unbounded_channel();
        let committer = rt::spawn(commit(conn, receiver));
        let queue = web::Data::new(sender);
        let service =
            move || App::new().app_data(queue.clone()).route("/payment", web::post().to(take));
        // One core is the committer's.
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        let server = HttpServer::new(service).workers(cores.saturating_sub(1).max(1));
        let server = server.backlog(4096).bind("127.0.0.1:0").unwrap();
        eprintln!("listens on http://{}", server.addrs()[0]);
        tokio::select! {
            ended = server.run() => ended.unwrap(),
            ended = committer => ended.unwrap(),
        }
    });
}

/// Commits what waits, and answers it while PostgreSQL has the next batch.
async fn commit(mut conn: PgConnection, mut queue: UnboundedReceiver<Waiting>) {
    let mut committed = Vec::new();
    loop {
        if queue.is_empty() {
            tell(&mut committed);
        }
        let most = (queue.len() + committed.len()).div_ceil(2).max(WHOLE);
        let mut taken = Vec::with_capacity(most);
        if queue.recv_many(&mut taken, most).await == 0 {
            return;
        }
        taken.sort_by(|a, b| a.key.cmp(&b.key));
        let (mut batch, mut next) = (Batch::default(), Vec::with_capacity(taken.len()));
        for Waiting { key, payment: Payment { user_id, amount }, answer } in taken {
            let id = Uuid::now_v7();
            let body = endpoint::Taken::body(id, &user_id, amount);
            next.push((answer, Answer { id, body: body.clone() }));
            batch.push(key, id, user_id, amount, body);
        }
        // In this order: it is sent before others are answered.
        join(batch.insert(&mut conn), async { tell(&mut committed) }).await;
        committed = next;
    }
}

fn tell(committed: &mut Vec<(oneshot::Sender<Answer>, Answer)>) {
    for (caller, answer) in committed.drain(..) {
        // Whose caller is gone needs none.
        let _ = caller.send(answer);
    }
}

async fn take(
    request: HttpRequest,
    payment: web::Json<Payment>,
    queue: web::Data<UnboundedSender<Waiting>>,
) -> HttpResponse {
    let Some(key) = key(&request, &payment) else { return HttpResponse::BadRequest().finish() };
    let (answer, answered) = oneshot::channel();
    let waiting = Waiting { key: key.to_owned(), payment: payment.into_inner(), answer };
    queue.send(waiting).unwrap_or_else(|_| panic!("the committer has ended"));
    let Answer { id, body } = answered.await.unwrap();
    created(key, id, body)
}
