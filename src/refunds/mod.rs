//! Refunds of payments.
//!
//! Concurrent refunds at any number of servers never exceed the payment: a refund locks the payment's row, and reads
//! there the amount that remains. A refusal is stored permanently, as the response of its key.
//!
//! A refund is recorded here and nowhere else. No card network is called.

pub mod command;
pub mod http;
pub(crate) mod openapi;
pub mod refundable;
mod store;

pub use store::payment_of;
