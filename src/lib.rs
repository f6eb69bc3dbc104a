//! payonce creates payments exactly once.
//!
//! A client sends `POST /payment` with an `Idempotency-Key`, as often as it likes, through any server, across any
//! crash: one payment is created, and every duplicate of the request gets the same response.
//!
//! # Map
//!
//! | module | contains |
//! |---|---|
//! | [`routes`] | the URL table |
//! | [`payments`], [`refunds`] | the resources: endpoints, commands, statements |
//! | [`events`] | the feed of events |
//! | [`webhooks`] | endpoints that events are sent to |
//! | [`keys`] | looking up and voiding idempotency keys; the policy |
//! | [`accounts`] | accounts, API keys, authentication |
//! | [`http`] | middleware, JSON and query reading, idempotent requests, problems, the request log |
//! | [`idempotency`] | the layer that executes commands exactly once; a crate of its own |
//! | [`db`] | migrations, reads, the sweeper's loop |
//! | [`server`], [`health`], [`metrics`], [`logs`] | running it and watching it |
//! | [`openapi`] | the description of the API, and the page to try it |
//! | [`cli`], [`config`] | the program |

pub mod accounts;
pub mod cli;
pub mod config;
pub mod db;
pub mod events;
pub mod health;
pub mod http;
pub mod ids;
pub mod keys;
pub mod logs;
pub mod metrics;
pub mod openapi;
pub mod payments;
pub mod refunds;
pub mod routes;
pub mod server;
pub mod state;
mod text;
pub mod webhooks;

/// The layer that executes commands exactly once: `crates/idempotency`.
pub use payonce_idempotency as idempotency;
