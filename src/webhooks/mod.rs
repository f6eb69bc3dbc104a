//! Webhooks: every event of an account is sent to the URLs that it names.

mod address;
pub mod body;
mod caller;
pub mod command;
mod connector;
pub mod delivery;
pub mod endpoint;
pub mod http;
mod networks;
pub(crate) mod openapi;
pub mod owner;
pub mod reseal;
pub mod secrets;
pub mod shown;
mod signature;
pub mod store;

pub use address::{Guard, MAX_URL_LENGTH, Refusal, Resolver, SystemResolver, parse};
pub use caller::{CALL_TIMEOUT, Call, Caller, Heard};
pub use networks::AllowedNetworks;
