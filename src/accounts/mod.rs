//! Whose payments are whose.

mod caller;

pub use caller::{Caller, DEFAULT_ACCOUNT};
