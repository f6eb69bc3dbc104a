//! Whose payments are whose, and who is calling.
//!
//! A caller shows an API key (`Authorization: Bearer payonce_…`) and acts for the account that the key
//! belongs to. Idempotency keys, payments and lists of different accounts never meet.
//!
//! # What is promised
//!
//! - A request costs no round trip to the database for its API key: every server knows all valid keys
//!   ([`Directory`]). A flood of made-up keys costs the database a look at one row, now and then.
//! - A key is accepted from the moment it was shown, and refused within [`REVOKED_WITHIN`] after it was
//!   revoked, at every server. That is also how long keys are accepted while the database is away;
//!   afterwards it is `503`, never `401`.
//! - Unknown, malformed and revoked keys are answered alike. Keys are stored as SHA-256, and looked up
//!   by it, so that no comparison tells by its time how much of a key was right.
//! - Calls without a key act for the [default account](crate::ids::AccountId::DEFAULT), where [`AnonymousAccess`] lets them, and never
//!   again once there has been an API key.
//!
//! # What is not
//!
//! - Rights: whoever has a key of an account may do whatever the account may.
//! - Protection of the key on its way: that is TLS, which something before payonce does.

mod anonymous;
mod api_key;
mod caller;
mod directory;
mod name;
pub(crate) mod store;

pub use anonymous::{AnonymousAccess, is_local_caller};
pub use api_key::{ApiKey, InvalidApiKey, KeyHash};
pub use caller::{Authenticator, Caller};
pub(crate) use directory::MAX_KEYS;
pub use directory::{Directory, REVOKED_WITHIN, View};
pub use name::{InvalidName, Name};
