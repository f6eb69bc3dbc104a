//! The feed of each account's events: what was created, in the order in which it was decided, without gaps.

mod event_type;

pub use event_type::EventType;
