//! Greets a person once per key, however often the request arrives.

#![expect(clippy::print_stdout, reason = "an example")]

use payonce_idempotency::{
    AccountId, Command, Engine, Error, Execution, Fingerprint, IdempotencyKey, Operation, Outcome,
    Response, Settings, migrate,
};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

/// Greets a person, by name.
struct Greet {
    name: String,
}

impl Command for Greet {
    const OPERATION: Operation = Operation::new("greet");

    fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(Self::OPERATION).field("name", self.name.as_bytes())
    }

    async fn execute(
        &self,
        execution: Execution,
        conn: &mut PgConnection,
    ) -> Result<Response, Error> {
        sqlx::query("INSERT INTO greetings (id, name) VALUES ($1, $2)")
            .bind(execution.id)
            .bind(&self.name)
            .execute(conn)
            .await?;
        Ok(Response::new(201, format!("Hello {}", self.name)))
    }
}

pub(crate) async fn run(options: &PgConnectOptions) -> Result<(), Box<dyn std::error::Error>> {
    let mut conn = PgConnection::connect_with(options).await?;
    migrate(&mut conn).await?;
    sqlx::query("CREATE TABLE IF NOT EXISTS greetings (id uuid PRIMARY KEY, name text NOT NULL)")
        .execute(&mut conn)
        .await?;

    let engine = Engine::start(options, &Settings::default()).await?;
    // The client chooses the key, and sends the same one when it retries.
    let key = IdempotencyKey::parse(b"8e03978e-40d5-43dd-bc93-6894a57f9324")?;
    for _attempt in 1..=2 {
        let greet = Greet { name: "Ada".to_owned() };
        match engine.submit(AccountId::DEFAULT, key.clone(), greet).await? {
            Outcome::New { response, .. } => println!("executed: {:?}", response.body()),
            Outcome::Replay { response, .. } => println!("replayed: {:?}", response.body()),
            Outcome::Reused { fields } => println!("the key was used with other {fields:?}"),
            Outcome::Expired { execution_id } => println!("executed long ago as {execution_id}"),
            Outcome::Voided => println!("the key was voided: nothing was executed"),
            Outcome::InFlight => println!("another server is executing it: retry"),
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    run(&std::env::var("DATABASE_URL")?.parse()?).await
}
