//! The program `payonce`: its commands, settings and errors.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail loudly"
)]

mod account;
mod api_key;
mod config;
mod database_url;
mod dot_env;
mod events;
mod events_backfill;
mod healthcheck;
mod help;
mod idempotency_key;
mod migrate;
mod payment;
mod serve;
mod settings;
mod storm;
mod storm_detects;
mod sweep;
mod webhook;
