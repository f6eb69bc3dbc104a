//! What clients may rely on, in sentences, over HTTP, on real PostgreSQL.

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

mod accounts;
mod anonymous;
mod bodies;
mod command_line;
mod configuration;
mod connections;
mod currencies;
mod described;
mod description;
mod example;
mod expiry;
mod full_stderr;
mod in_flight;
mod isolation;
mod key_states;
mod keys;
mod layer;
mod limits;
mod lists;
mod logs;
mod metrics;
mod migrations;
mod one_clients_fault;
mod operators;
mod partitions;
mod pipelining;
mod privileges;
mod problems;
mod program;
mod races;
mod readiness;
mod reads;
mod refund_races;
mod refunds;
mod replays;
mod shares;
mod stopping;
mod storm;
mod sweeps;
