//! Refunds: what is given back of payments.
//!
//! Never more than was paid, over any number of refunds at once, at however many servers: whoever
//! refunds holds the payment's row, and reads there what is left. A refund that can't be made is refused
//! for ever: its key keeps the refusal.
//!
//! As payments do, refunds happen here and nowhere else: no card network is called.

pub mod http;
pub mod refund;
mod store;

pub use store::given_back_of;
