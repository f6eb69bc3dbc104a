//! Payments: what is taken, from whom, how much.
//!
//! `success` means recorded here, exactly once. No card network is called; ARCHITECTURE.md says how
//! one is attached.

pub mod http;
pub mod money;
pub mod payment;
mod store;
