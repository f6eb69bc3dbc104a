//! Servers, databases and connections are killed, cut and frozen while clients retry. No acknowledged payment is
//! lost, and none is created twice.

#![expect(unreachable_pub, reason = "a binary's modules")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail loudly"
)]

use payonce_testing as support;

mod cluster;
mod crowds;
mod database;
mod durability;
mod feed;
mod histories;
mod processes;
mod rolling;
mod steps;
mod webhooks;
