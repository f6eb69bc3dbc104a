//! The engine as another service would use it: with commands of its own, some of which misbehave.

#![expect(unreachable_pub, reason = "a binary's modules")]
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests fail loudly")]

mod announcements;
mod batches;
mod closing;
mod commands;
mod deadline;
mod duplicates;
mod engine;
mod inserts;
mod keys;
mod observer;
mod recovery;
mod server_check;
mod shares;
