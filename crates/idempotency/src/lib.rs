#![doc = include_str!("../README.md")]
//!
//! # Where things are
//!
//! - `command`, `insert`, `fingerprint`, `key`, `account_id`: the parts of a request
//! - `outcome`, `response`, `error`: the reply to it
//! - `engine`: the way in
//! - `queue`: where duplicates of one request meet, and accounts take turns
//! - `committer`: the loop that takes a batch, runs its one transaction, and recovers from what fails
//! - `sql`: the statements
//! - `record`: the state of a used key
//! - `announcement`: tells others which commands a transaction executed
//! - `sweeper`: deletes what has expired
//! - `observer`: receives the engine's events, for metrics

mod account_id;
#[cfg(feature = "actix")]
pub mod actix;
mod announcement;
mod command;
mod committer;
mod engine;
mod error;
mod execution_id;
mod fingerprint;
mod insert;
mod key;
mod migrate;
mod observer;
mod once;
mod operation;
mod outcome;
mod queue;
mod record;
mod response;
mod settings;
mod sql;
mod sweeper;

pub use account_id::AccountId;
pub use announcement::{Announced, EventCode, announce};
pub use command::{BatchCommand, BatchEntry, Command, Execution};
pub use committer::{UnfitServer, unsafe_setting};
pub use engine::{Engine, StartError};
pub use error::{Error, Failure, Remedy, is_of_outdated_statement, loggable};
pub use fingerprint::{Fingerprint, UnknownLayout};
pub use insert::Insert;
pub use key::{IdempotencyKey, InvalidKey};
pub use migrate::migrate;
pub use observer::{Event, Observer, Resolution, Step};
pub use once::{Lifetimes, once};
pub use operation::Operation;
pub use outcome::Outcome;
pub use queue::DUPLICATES_PER_KEY;
pub use record::{Record, RecordState};
pub use response::{MalformedHeader, Response};
pub use settings::{InvalidSettings, Settings};
pub use sweeper::{Oldest, Sweeper, Swept};
