//! The usual design: one pooled transaction per request (BEGIN, claim, insert, update, COMMIT).
//!
//! It has the same framework as payonce, a process of its own, ids in order of time, prepared statements, and the pool
//! size that was fastest. It implements new payments alone.

use std::{
    process::Command,
    time::{Duration, SystemTime},
};

use actix_web::{
    App, HttpRequest, HttpResponse, HttpServer,
    error::ErrorInternalServerError,
    http::header::{self, HttpDate},
    web,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use sqlx::{PgPool, postgres::PgPoolOptions};
use uuid::Uuid;

use super::support::{
    TestDatabase,
    binary::{Serve, url},
};

/// The argument that makes the benchmark run as this server.
pub const COMMAND: &str = "usual-server";

/// More connections made it slower on two cores.
const POOL: u32 = 16;

/// The length of payonce's fingerprint of a payment, in bytes.
const FINGERPRINT: usize = 33;

const RESPONSE_TTL: Duration = Duration::from_hours(24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreatePayment {
    user_id: String,
    amount: i64,
}

#[derive(Serialize)]
struct Payment<'a> {
    status: &'a str,
    transaction_id: Uuid,
    user_id: &'a str,
    amount: i64,
}

/// Starts it on this database, which has its tables.
pub fn start(database: &TestDatabase) -> Serve {
    let program = std::env::current_exe().unwrap();
    Serve::spawn(Command::new(program).arg(COMMAND).env("DATABASE_URL", url(&database.options)))
}

/// Serves until SIGTERM.
pub fn serve() {
    let url = std::env::var("DATABASE_URL").unwrap();
    actix_web::rt::System::new().block_on(async {
        // sqlx pings before and after each use of a connection; this turns the first off.
        let pool = PgPoolOptions::new().max_connections(POOL).test_before_acquire(false);
        let pool = pool.connect(&url).await.unwrap();
        // All connections are opened before the first request.
        let all = futures_util::future::join_all((0..POOL).map(|_| pool.acquire())).await;
        drop(all);
        let pool = web::Data::new(pool);
        let service =
            move || App::new().app_data(pool.clone()).route("/payment", web::post().to(create));
        let server = HttpServer::new(service).backlog(4096).bind("127.0.0.1:0").unwrap();
        eprintln!("listens on http://{}", server.addrs()[0]);
        server.run().await.unwrap();
    });
}

async fn create(
    request: HttpRequest,
    payment: web::Json<CreatePayment>,
    pool: web::Data<PgPool>,
) -> actix_web::Result<HttpResponse> {
    create_payment(&request, &payment, &pool).await.map_err(ErrorInternalServerError)
}

#[expect(clippy::disallowed_methods, reason = "the usual design has a transaction per request")]
async fn create_payment(
    request: &HttpRequest,
    payment: &CreatePayment,
    pool: &PgPool,
) -> Result<HttpResponse, sqlx::Error> {
    let key = request.headers().get("idempotency-key").and_then(|key| key.to_str().ok());
    let valid = payment.amount > 0 && !payment.user_id.is_empty();
    let Some(key) = key.filter(|_| valid) else { return Ok(HttpResponse::BadRequest().finish()) };
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
        // It would read the used key and replay here. The load sends it new keys only.
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
    let body = serde_json::to_string(&Payment {
        status: "success",
        transaction_id,
        user_id: &payment.user_id,
        amount: payment.amount,
    });
    let body = body.map_err(|error| sqlx::Error::Encode(error.into()))?;
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

/// A response with the headers of payonce's.
fn created(key: &str, transaction_id: Uuid, body: String) -> HttpResponse {
    let expires = HttpDate::from(SystemTime::now() + RESPONSE_TTL);
    HttpResponse::Created()
        .content_type("application/json")
        .insert_header(("idempotency-key", key))
        .insert_header(("idempotent-replayed", "false"))
        .insert_header((header::CACHE_CONTROL, "no-store"))
        .insert_header(("idempotency-key-expires", expires))
        .insert_header((header::LOCATION, format!("/payment/{transaction_id}")))
        .body(body)
}

/// A version and a hash, as long as payonce's fingerprint.
fn fingerprint(payment: &CreatePayment) -> Vec<u8> {
    let mut fingerprint = Vec::with_capacity(FINGERPRINT);
    let mut hash = Sha256::new();
    hash.update(&payment.user_id);
    hash.update(payment.amount.to_be_bytes());
    fingerprint.push(1);
    fingerprint.extend_from_slice(&hash.finalize());
    fingerprint
}
