//! Payments: creating and reading them.
//!
//! `success` means recorded here, exactly once. No card network is called; ARCHITECTURE.md says how
//! one is attached.

pub mod command;
pub mod currency;
pub mod http;
pub mod list;
pub mod money;
pub(crate) mod openapi;
pub mod payment;
mod store;
pub mod user_id;

pub use store::{created_by, find, list};
