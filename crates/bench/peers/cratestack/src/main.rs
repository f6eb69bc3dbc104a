//! `POST /payment` behind the idempotency layer of cratestack-axum, with its store on PostgreSQL.
//!
//! The layer reserves the key, the handler inserts the payment, and the layer stores the response: three transactions.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use cratestack_axum::idempotency::IdempotencyLayer;
use cratestack_sqlx::{
    SqlxIdempotencyStore,
    sqlx::{self, PgPool, postgres::PgPoolOptions},
};
use serde::{Deserialize, Serialize};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use uuid::Uuid;

/// The same number as in the other servers that have a pool.
const POOL: u32 = 16;

const RESPONSE_TTL: Duration = Duration::from_hours(24);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct CreatePayment {
    user_id: String,
    amount: i64,
}

#[derive(Serialize)]
struct Payment {
    status: &'static str,
    transaction_id: Uuid,
    user_id: String,
    amount: i64,
}

#[tokio::main]
async fn main() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL is set");
    let pool = PgPoolOptions::new()
        .min_connections(POOL)
        .max_connections(POOL)
        .test_before_acquire(false)
        .connect(&url)
        .await
        .expect("PostgreSQL accepts connections");
    let store = SqlxIdempotencyStore::new(pool.clone());
    store.ensure_schema().await.expect("the store's table is created");
    let layer = IdempotencyLayer::new(Arc::new(store), RESPONSE_TTL)
        .with_principal_fingerprint(|_| "default".to_owned());
    let app = Router::new().route("/payment", post(create_payment)).layer(layer).with_state(pool);

    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    eprintln!("listens on http://{}", listener.local_addr().expect("an address"));
    let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be handled");
    let server = axum::serve(listener, app);
    server
        .with_graceful_shutdown(async move {
            terminate.recv().await;
        })
        .await
        .expect("a server");
}

async fn create_payment(
    State(pool): State<PgPool>,
    Json(request): Json<CreatePayment>,
) -> Response {
    let CreatePayment { user_id, amount } = request;
    let transaction_id = Uuid::now_v7();
    let inserted = sqlx::query(
        "INSERT INTO usual_payments (account_id, transaction_id, user_id, amount) VALUES ($1, $2, $3, $4)",
    )
    .bind(Uuid::nil())
    .bind(transaction_id)
    .bind(&user_id)
    .bind(amount)
    .execute(&pool)
    .await;
    if inserted.is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let location = [(header::LOCATION, format!("/payment/{transaction_id}"))];
    let payment = Payment { status: "success", transaction_id, user_id, amount };
    (StatusCode::CREATED, location, Json(payment)).into_response()
}
