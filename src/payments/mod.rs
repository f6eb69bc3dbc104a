//! Payments: what is taken, from whom, how much, and how it is shown.
//!
//! `success` means recorded here, exactly once. No card network is called; ARCHITECTURE.md says how
//! one is attached.

pub mod currency;
pub mod http;
pub mod list;
pub mod money;
pub mod payment;
pub mod recorded;
mod store;

pub use store::{find, list, taken_as};
