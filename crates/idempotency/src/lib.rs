//! Executes commands exactly once: an idempotency layer on PostgreSQL, for any command.
//!
//! A client names one intended effect with an idempotency key and may then send its request as often
//! as it likes. The layer claims the key, has the command executed and stores the response in **one
//! transaction**, so that the three exist together or not at all; the table's unique constraint on the
//! key settles races, between requests and between servers. There is no lease, no lock table and no
//! "processing" state for anybody to clean up after a crash.
//!
//! Handlers don't open that transaction. They hand the command to a [`Engine`], which owns a
//! connection and runs what has queued since its last COMMIT (of many keys, half) in one transaction
//! (group commit), in a handful of statements over the whole batch. With [`Settings::max_batch`] 1 it is
//! a transaction for each command, and everything holds there too.
//!
//! # What is promised
//!
//! - A command is executed and committed at most once for each key of each account, whatever crashes
//!   and whoever retries, as long as the key is kept ([`Settings::key_ttl`]; for ever by default).
//! - Nobody hears of an outcome before it is committed, and every copy of the request hears the same:
//!   the first answer, to the byte, for [`Settings::response_ttl`] and then [`Outcome::Expired`].
//! - Another request with a used key is told so ([`Outcome::Reused`]) and changes nothing.
//! - Who has lost an answer can ask what became of the request ([`Record`]), or make sure that it is
//!   never executed if it wasn't yet ([`Engine::void`]).
//! - Every call ends by [`Settings::request_deadline`]. A [`Failure`] is never stored, and sending the
//!   same request again is always safe.
//! - No account takes more than its share of the places ([`Settings::account_queue_limit`]), and those
//!   that wait take turns, key by key: one that floods the queue does not hold up the others.
//! - What one command provokes fails that command alone: others in its batch succeed. (Not where it takes so long
//!   that PostgreSQL ends its statement, after a fifth of the deadline: then all of them hear
//!   [`Failure::Overloaded`].)
//! - A server that hangs with keys claimed holds up nobody else's keys, and PostgreSQL frees its own.
//!
//! # What is not
//!
//! - Effects outside the database. A command that calls another system from
//!   [`execute`](Command::execute) may call it again after a rollback. Write down in the transaction
//!   what is to be done (an outbox), and do it afterwards, with the execution's id as *its* key.
//! - More than PostgreSQL keeps: a restored backup has forgotten what came after it, and so has a
//!   standby that is promoted without having been synchronous.
//! - A mutual exclusion of different keys. The layer is not for that; the command's own rows are.
//! - Authentication. Whose a key is, the caller says, with an id of its own.
//!
//! # A complete example
//!
//! The tables are in `migrations/0001_idempotency.sql`, which a service copies among its own migrations.
//!
//! ```no_run
//! use payonce_idempotency::{
//!     Command, Engine, Error, Execution, Fingerprint, IdempotencyKey, Operation, Outcome, Response, Settings,
//! };
//! use sqlx::PgConnection;
//! use uuid::Uuid;
//!
//! /// Sends a greeting; never two for one request.
//! struct Greet {
//!     name: String,
//! }
//!
//! impl Command for Greet {
//!     const OPERATION: Operation = Operation::new("greet");
//!
//!     fn fingerprint(&self) -> Fingerprint {
//!         Fingerprint::of(Self::OPERATION).field("name", self.name.as_bytes())
//!     }
//!
//!     async fn execute(&self, execution: Execution, conn: &mut PgConnection) -> Result<Response, Error> {
//!         sqlx::query("INSERT INTO greetings (id, name) VALUES ($1, $2)")
//!             .bind(execution.id)
//!             .bind(&self.name)
//!             .execute(conn)
//!             .await?;
//!         Ok(Response::new(201, format!("{:?}", self.name)))
//!     }
//! }
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let options = "postgres://localhost/greetings".parse()?;
//! let engine = Engine::start(&options, &Settings::default()).await?;
//!
//! let key = IdempotencyKey::parse(b"\"8e03978e-40d5-43dd-bc93-6894a57f9324\"")?;
//! let greet = Greet { name: "Ada".to_owned() };
//! match engine.submit(Uuid::nil(), key, greet).await? {
//!     Outcome::New { response, .. } => println!("greeted: {:?}", response.body()),
//!     Outcome::Replay { response, .. } => println!("greeted before: {:?}", response.body()),
//!     Outcome::Reused { fields } => println!("the key was used with another {fields:?}"),
//!     Outcome::Expired { execution_id } => println!("greeted long ago, as {execution_id}"),
//!     Outcome::Voided => println!("never greeted, and never will be"),
//!     Outcome::InFlight => println!("another server is at it"),
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # Where things are
//!
//! - `command`, `insert`, `fingerprint`, `key`, `response`: what an application hands over, and gets back
//! - `engine`: the way in
//! - `queue`: where duplicates of one request meet, and accounts take turns
//! - `committer`: the loop that takes a batch, runs its one transaction, and recovers from what fails
//! - `sql`: the statements
//! - `record`: what became of a key
//! - `sweeper`: deletes what has expired
//! - `observer`: hears what the engine does

#[cfg(feature = "actix")]
pub mod actix;
mod command;
mod committer;
mod engine;
mod error;
mod execution_id;
mod fingerprint;
mod insert;
mod key;
mod migrate;
mod observer;
mod once;
mod operation;
mod outcome;
mod queue;
mod record;
mod response;
mod settings;
mod sql;
mod sweeper;

pub use command::{BatchCommand, BatchEntry, Command, Execution};
pub use committer::{UnfitServer, unsafe_setting};
pub use engine::{Engine, StartError};
pub use error::{Error, Failure, Remedy, is_of_outdated_statement, loggable};
pub use fingerprint::{Fingerprint, UnknownLayout};
pub use insert::Insert;
pub use key::{IdempotencyKey, InvalidKey};
pub use migrate::migrate;
pub use observer::{Event, Observer, Resolution, Step};
pub use once::{Lifetimes, once};
pub use operation::Operation;
pub use outcome::Outcome;
pub use queue::COPIES_FOR_A_KEY;
pub use record::{Record, RecordState};
pub use response::{MalformedHeader, Response};
pub use settings::{InvalidSettings, Settings};
pub use sweeper::{Oldest, Sweeper, Swept};
