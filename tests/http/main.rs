//! The HTTP API on real PostgreSQL. Tests are found by their URL or subject.

#![expect(unreachable_pub, reason = "a binary's modules")]
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "tests fail loudly"
)]

mod accounts {
    pub mod anonymous;
    pub mod api_keys;
    pub mod directory;
    pub mod first_key;
    pub mod isolation;
    pub mod revocation;
}
mod connections {
    pub mod lifetime;
    pub mod limit;
    pub mod pipelining;
}
mod database {
    pub mod connections;
    pub mod migrations;
    pub mod partitions;
    pub mod privileges;
}
mod events {
    pub mod list;
    pub mod pages;
    pub mod sequencer;
    pub mod wait;
}
mod health {
    pub mod ready;
}
mod keys {
    pub mod expiry;
    pub mod header;
    pub mod in_flight;
    pub mod locks;
    pub mod state;
    pub mod void;
}
mod logs {
    pub mod backpressure;
    pub mod requests;
    pub mod secrets;
}
mod metrics {
    pub mod access;
    pub mod batches;
    pub mod counters;
    pub mod documentation;
}
mod openapi {
    pub mod checked;
    pub mod document;
}
mod payments {
    pub mod create;
    pub mod currency;
    pub mod database_errors;
    pub mod duplicates;
    pub mod list;
    pub mod locked_tables;
    pub mod read;
    pub mod replay;
    pub mod rows_read;
    pub mod validation;
}
mod problems;
mod queue {
    pub mod shares;
}
mod refunds {
    pub mod announced;
    pub mod concurrent;
    pub mod create;
    pub mod locks;
    pub mod refuse;
}
mod requests {
    pub mod body;
    pub mod protocol;
    pub mod timeouts;
}
mod shutdown;
mod sweeper {
    pub mod cost;
    pub mod deletes;
    pub mod metrics;
}
mod webhooks {
    pub mod change;
    pub mod create;
    pub mod delivery;
    pub mod disabling;
    pub mod isolation;
    pub mod replay;
    pub mod rotate;
    pub mod secrets;
    pub mod sharing;
    pub mod show;
}
