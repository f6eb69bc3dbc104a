//! Why a command can't be done, said to a person.

use std::io;

use thiserror::Error;
use uuid::Uuid;

use crate::{
    accounts::MAX_KEYS,
    database::Unmigrated,
    idempotency::{Failure, InvalidKey, UnfitServer, loggable},
    server::hint,
};

/// Why something can't be done.
#[derive(Debug, Error)]
pub(super) enum CommandError {
    /// The database can't be reached, or refuses.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// It isn't fit for committing.
    #[error("{0}{hint}", hint = hint(.0))]
    Unfit(#[from] UnfitServer),
    /// It was never migrated so far.
    #[error(transparent)]
    Unmigrated(#[from] Unmigrated),
    /// There is an account of this name.
    #[error("there is an account {0:?} already")]
    NameTaken(String),
    /// There is no such account.
    #[error("there is no account {0:?}: payonce account list shows all")]
    NoAccount(String),
    /// There is no such API key.
    #[error("there is no API key with the id {0}: payonce api-key list shows all")]
    NoApiKey(Uuid),
    /// As many API keys are valid as may be.
    #[error("there are {MAX_KEYS} valid API keys, and there can't be more: revoke some")]
    TooManyKeys,
    /// Anonymous requests were executed, and the first API key is to be another account's.
    #[error(
        "requests without an API key have been executed for the account \"default\", and this would be the first API \
         key, which ends such calls. A client that repeats one of those requests with a key of another account \
         executes it again. Create the first key with --account default and repeat them with that key. If none of \
         them will ever be repeated, add --abandon-anonymous-retries"
    )]
    AnonymousRetries,
    /// The account has no such payment.
    #[error("the account {account:?} has no payment {transaction_id}")]
    NoPayment { account: String, transaction_id: Uuid },
    /// What should be an idempotency key is none.
    #[error("{0}")]
    InvalidKey(#[from] InvalidKey),
    /// More than a key was given.
    #[error(
        "there is more than one line on stdin: give one key at a time; nothing was done with this one"
    )]
    SeveralKeys,
    /// There are several accounts, and none is named.
    #[error("there are several accounts: name one with --account; payonce account list shows them")]
    WhichAccount,
    /// A server is executing the request.
    #[error("a server is executing the request with this key right now: void it again in a moment")]
    InFlight,
    /// It is not known whether the key was voided.
    #[error("{0}; void the key again: that changes nothing, and tells")]
    Void(#[from] Failure),
    /// The operating system has no random numbers.
    #[error("no random numbers to make a key of: {0}")]
    Random(getrandom::Error),
    /// It was made, and could not be shown.
    #[error(
        "the API key could not be shown, so nobody has it: {1}. Revoke it: payonce api-key revoke {0}"
    )]
    KeyNotShown(Uuid, io::Error),
    /// What is printed or asked for can't be written or read.
    #[error("can't read or print: {0}")]
    Io(#[from] io::Error),
}

impl CommandError {
    /// Whether it is for what was given, or left out, that the command can't be done.
    pub(super) fn is_of_usage(&self) -> bool {
        matches!(self, Self::InvalidKey(_) | Self::SeveralKeys | Self::WhichAccount)
    }
}
