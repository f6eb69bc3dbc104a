//! Webhooks: every event of an account is sent to the URLs that it names.

pub mod endpoint;
pub mod reseal;
pub mod secrets;
pub mod store;
