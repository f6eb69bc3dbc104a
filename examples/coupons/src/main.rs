//! Redeems coupons. A retried request redeems nothing a second time: it gets the response to the first one.
//!
//! ```text
//! DATABASE_URL=postgres://localhost/coupons cargo run -p coupons
//! curl -i localhost:5001/coupon/WELCOME/redemption \
//!   -H 'Idempotency-Key: 4f6e' -H 'Content-Type: application/json' -d '{"customer": "ada"}'
//! ```

use std::{env, error::Error as StdError};

use actix_web::{App, HttpServer, web};
use log::info;
use payonce_idempotency::{
    AccountId, Command, Engine, Error, Execution, Failure, Fingerprint, IdempotencyKey, Operation,
    Outcome, Response, Settings, migrate,
};
use serde::Deserialize;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// One redemption of a coupon by a customer.
struct Redeem {
    code: String,
    customer: String,
}

impl Command for Redeem {
    const OPERATION: Operation = Operation::new("redeem");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION)
            .field("code", self.code.as_bytes())
            .field("customer", self.customer.as_bytes())
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        let taken = sqlx::query(
            "UPDATE coupons SET remaining = remaining - 1 WHERE code = $1 AND remaining > 0",
        )
        .bind(&self.code)
        .execute(&mut *conn)
        .await?;
        if taken.rows_affected() == 0 {
            // A refusal is stored too: the key stays refused, whatever happens to the coupon.
            return Ok(Response::new(402, r#"{"title": "The coupon cannot be redeemed"}"#));
        }
        sqlx::query("INSERT INTO redemptions VALUES ($1, $2, $3)")
            .bind(execution.id)
            .bind(&self.code)
            .bind(&self.customer)
            .execute(conn)
            .await?;
        Ok(Response::new(201, format!(r#"{{"redemption_id": "{}"}}"#, execution.id)))
    }
}

#[derive(Deserialize)]
struct Body {
    customer: String,
}

async fn redeem(
    key: IdempotencyKey,
    code: web::Path<String>,
    body: web::Json<Body>,
    engine: web::Data<Engine>,
) -> Result<Outcome, Failure> {
    let command = Redeem { code: code.into_inner(), customer: body.into_inner().customer };
    // Everybody shares the nil account here. Where clients authenticate, each has its own.
    engine.submit(AccountId::DEFAULT, key, command).await
}

#[actix_web::main]
async fn main() -> Result<(), Box<dyn StdError>> {
    env_logger::init_from_env(env_logger::Env::default().default_filter_or("info"));
    let options: PgConnectOptions = env::var("DATABASE_URL")?.parse()?;
    let mut conn = PgConnection::connect_with(&options).await?;
    migrate(&mut conn).await?;
    sqlx::migrate!().run(&mut conn).await?;
    conn.close().await?;

    let engine = web::Data::new(Engine::start(&options, &Settings::default()).await?);
    let port = env::var("PORT").map_or(Ok(5001), |port| port.parse())?;
    let server = HttpServer::new(move || {
        App::new()
            .app_data(engine.clone())
            .route("/coupon/{code}/redemption", web::post().to(redeem))
    })
    .workers(1)
    .bind(("127.0.0.1", port))?;
    for address in server.addrs() {
        info!("coupons listens on http://{address}");
    }
    Ok(server.run().await?)
}
