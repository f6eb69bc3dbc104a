//! payonce takes payments exactly once.
//!
//! A client sends `POST /payment` with an `Idempotency-Key`; however often the request arrives, by
//! whatever path, through however many servers, during whatever crash, one payment is made and every
//! copy of the request gets the same answer.
//!
//! # The map
//!
//! - [`idempotency`]: the layer that makes it so, for any command; a crate of its own that
//!   knows nothing of payments or of the server. Begin there.
//! - [`payments`]: what is taken, and its endpoints; [`refunds`]: what is given back.
//! - [`accounts`]: whose they are, and who is calling.
//! - [`routes`]: the URL table. [`exchange`] is around every request, [`keyed`] is what a keyed one
//!   goes through, [`body`] reads its JSON and [`query`] a query, [`problem`] has every answer besides success,
//!   [`timestamp`] is how times are shown.
//! - [`idempotency_key`]: what became of a request, and voiding its key; [`idempotency_policy`]: the rules.
//! - [`description`] of all this, for programs (OpenAPI) and for people (a page to try it).
//! - [`server`] puts it together, [`database`] migrates and reads, [`sweep`] frees space, [`health`] tells how
//!   it is, [`metrics`] counts what it does.
//! - [`cli`] and [`config`]: the program; [`logs`] is how its log looks.

pub mod accounts;
pub mod body;
pub mod cli;
pub mod config;
pub mod database;
pub mod description;
pub mod exchange;
pub mod health;
pub mod idempotency_key;
pub mod idempotency_policy;
pub mod keyed;
pub mod logs;
pub mod metrics;
pub mod payments;
pub mod problem;
pub mod query;
pub mod refunds;
pub mod routes;
pub mod server;
pub mod sweep;
mod text;
pub mod timestamp;
mod turns;

pub use payonce_idempotency as idempotency;
