//! Webhooks: every event of an account is sent to the URLs that it names.

mod address;
pub mod endpoint;
mod networks;
pub mod reseal;
pub mod secrets;
pub mod store;

pub use address::{Guard, MAX_URL_LENGTH, Refusal, Resolver, SystemResolver, parse};
pub use networks::AllowedNetworks;
