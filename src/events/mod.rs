//! The feed of each account's events: what was created, in the order in which it was decided, without gaps.

mod announcing;
pub mod backfill;
mod event;
mod event_type;
pub mod expiry;
pub mod feed;
pub mod http;
pub(crate) mod openapi;
pub mod page;
mod query;
mod render;
pub mod sequencer;
mod store;
pub mod wait;
mod wakes;

pub use announcing::set_announcing;
pub use event::{Event, EventId, Occurrence, Position};
pub use event_type::EventType;
pub use render::{VERSION, render};
pub use wakes::{Subscription, Wakes};
