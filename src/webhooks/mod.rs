//! Webhooks: every event of an account is sent to the URLs that it names.

mod address;
mod caller;
mod connector;
pub mod endpoint;
mod networks;
pub mod reseal;
pub mod secrets;
mod signature;
pub mod store;

pub use address::{Guard, MAX_URL_LENGTH, Refusal, Resolver, SystemResolver, parse};
pub use caller::{CALL_TIMEOUT, Call, Caller, Heard};
pub use networks::AllowedNetworks;
