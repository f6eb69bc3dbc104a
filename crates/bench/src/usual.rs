//! The usual design: one pooled transaction a request (BEGIN, claim, insert, update, COMMIT).
//!
//! It is given its best: the same framework, a process of its own, ids in order of time,
//! prepared statements, a pool of the size that was fastest here and without the ping before each transaction. It answers as
//! payonce does, and checks less: only what new payments that are right need.

use std::process::Command;

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, error::ErrorInternalServerError, web};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::{
    endpoint::{FINGERPRINT, Payment, RESPONSE_TTL, Taken, created, key},
    support::{
        TestDatabase,
        binary::{Serve, url},
    },
};

/// The word on the command line that makes the benchmark be this server.
pub const WORD: &str = "usual-server";

/// More made it slower on two cores.
const POOL: u32 = 16;

/// Starts it on this database, which has its tables.
pub fn start(database: &TestDatabase) -> Serve {
    start_at(&url(&database.options))
}

/// Starts it on the database of this URL.
pub fn start_at(url: &str) -> Serve {
    let program = std::env::current_exe().unwrap();
    Serve::spawn(Command::new(program).arg(WORD).env("DATABASE_URL", url))
}

/// Serves, until it is told to stop.
pub fn serve() {
    let url = std::env::var("DATABASE_URL").unwrap();
    actix_web::rt::System::new().block_on(async {
        // A pool of sqlx's pings twice for each request, unless it is told not to before: once is left, after it.
        let pool = PgPoolOptions::new().max_connections(POOL).test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        // Opened now, not while the first requests wait.
        let all = futures_util::future::join_all((0..POOL).map(|_| pool.acquire())).await;
        drop(all);
        let pool = web::Data::new(pool);
        let service =
            move || App::new().app_data(pool.clone()).route("/payment", web::post().to(take));
        let server = HttpServer::new(service).backlog(4096).bind("127.0.0.1:0").unwrap();
        eprintln!("listens on http://{}", server.addrs()[0]);
        server.run().await.unwrap();
    });
}

async fn take(
    request: HttpRequest,
    payment: web::Json<Payment>,
    pool: web::Data<PgPool>,
) -> actix_web::Result<HttpResponse> {
    pay(&request, &payment, &pool).await.map_err(ErrorInternalServerError)
}

#[expect(clippy::disallowed_methods, reason = "what payonce doesn't do")]
async fn pay(
    request: &HttpRequest,
    payment: &Payment,
    pool: &PgPool,
) -> Result<HttpResponse, sqlx::Error> {
    let Some(key) = key(request, payment) else {
        return Ok(HttpResponse::BadRequest().finish());
    };
    let (account_id, transaction_id) = (Uuid::nil(), Uuid::now_v7());
    let mut transaction = pool.begin().await?;
    let claimed = sqlx::query(
        "INSERT INTO usual_keys (account_id, key, execution_id, operation, fingerprint)
         VALUES ($1, $2, $3, 'pay', $4) ON CONFLICT DO NOTHING",
    )
    .bind(account_id)
    .bind(key)
    .bind(transaction_id)
    .bind(fingerprint(payment))
    .execute(&mut *transaction)
    .await?;
    if claimed.rows_affected() == 0 {
        // It would read and compare here. No load of this benchmark comes to this.
        return Ok(HttpResponse::Conflict().finish());
    }
    sqlx::query(
        "INSERT INTO usual_payments (transaction_id, account_id, user_id, amount)
         VALUES ($1, $2, $3, $4)",
    )
    .bind(transaction_id)
    .bind(account_id)
    .bind(&payment.user_id)
    .bind(payment.amount)
    .execute(&mut *transaction)
    .await?;
    let body = Taken::body(transaction_id, &payment.user_id, payment.amount);
    sqlx::query(
        "UPDATE usual_keys SET status = 201, headers = $3, body = $4, replayable_until = now() + make_interval(secs => $5)
         WHERE account_id = $1 AND key = $2",
    )
    .bind(account_id)
    .bind(key)
    .bind(format!("location: /payment/{transaction_id}\n"))
    .bind(body.as_bytes())
    .bind(RESPONSE_TTL.as_secs_f64())
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(created(key, transaction_id, body))
}

/// As long as payonce's, and of one hash, behind what would be its version.
fn fingerprint(payment: &Payment) -> Vec<u8> {
    let mut fingerprint = Vec::with_capacity(FINGERPRINT);
    let mut hash = Sha256::new();
    hash.update(&payment.user_id);
    hash.update(payment.amount.to_be_bytes());
    fingerprint.push(1);
    fingerprint.extend_from_slice(&hash.finalize());
    fingerprint
}
