//! Real databases, servers and HTTP clients for tests and benchmarks.

#![expect(
    missing_docs,
    clippy::missing_errors_doc,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "test support fails loudly, and only tests call it"
)]

pub mod accounts;
pub mod binary;
pub mod client;
pub mod cluster;
pub mod database;
pub mod feed;
pub mod load;
pub mod metrics;
pub mod pooler;
mod port;
pub mod proxy;
pub mod receiver;
pub mod retry;
pub mod server;
pub mod wait;
pub mod webhooks;

pub use accounts::Account;
pub use client::{PAYMENT, REMAINING};
pub use database::TestDatabase;
pub use feed::FeedReader;
pub use server::TestServer;
