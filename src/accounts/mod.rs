//! Accounts, API keys and authentication.
//!
//! A caller sends an API key (`Authorization: Bearer payonce_…`) and acts for the key's account. Idempotency keys,
//! payments and lists of different accounts are separate.
//!
//! # Guarantees
//!
//! - Authentication needs no query: every server has all valid keys in memory ([`Directory`]). However many unknown keys
//!   arrive, they share one look at a row of the database.
//! - A key is accepted as soon as it was printed. Every server refuses it within [`REVOKED_WITHIN`] after its revocation.
//!   Keys are accepted as long while the database is unavailable. Then requests get `503`, never `401`.
//! - Unknown, malformed and revoked keys get the same response. Keys are stored and looked up by their SHA-256, so the
//!   time of a comparison reveals nothing about them.
//! - Calls without a key act for the [default account](crate::ids::AccountId::DEFAULT) if [`AnonymousAccess`] allows them. The first API key ends them
//!   permanently.
//!
//! # Not guaranteed
//!
//! - Permissions: a key of an account may do everything that the account may.
//! - Secrecy of keys on the network: something in front of payonce has to terminate TLS.

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
