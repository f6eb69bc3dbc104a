//! Failures of commands, worded for people.

use std::io;

use thiserror::Error;
use uuid::Uuid;

use crate::{
    accounts::MAX_KEYS,
    db::{self, Unmigrated},
    events::Position,
    idempotency::{self, Failure, InvalidKey, loggable},
    ids::{EndpointId, PaymentId},
    server::hint,
    webhooks::{Refusal, endpoint::MAX_ENDPOINTS, secrets::NoRandomNumbers},
};

/// The failure of a command.
#[derive(Debug, Error)]
pub(super) enum CommandError {
    /// The database cannot be reached, or refuses a statement.
    #[error("{}", loggable(.0))]
    Database(#[from] sqlx::Error),
    /// The database cannot keep what payonce promises.
    #[error("{0}{hint}", hint = hint(.0))]
    Unfit(#[from] idempotency::StartError),
    /// The database lacks migrations.
    #[error(transparent)]
    Unmigrated(#[from] Unmigrated),
    /// Another account has this name.
    #[error("there is an account {0:?} already")]
    NameTaken(String),
    /// No account has this name or id.
    #[error("there is no account {0:?}: payonce account list shows all")]
    NoAccount(String),
    /// No API key has this id.
    #[error("there is no API key with the id {0}: payonce api-key list shows all")]
    NoApiKey(Uuid),
    /// The number of valid API keys is limited.
    #[error("there are {MAX_KEYS} valid API keys, and there can't be more: revoke some")]
    TooManyKeys,
    /// Anonymous requests were executed, and the first API key would be another account's.
    #[error(
        "requests without an API key have been executed for the account \"default\", and the first API key ends such \
         requests. A client that repeats one of them with a key of another account executes it again. Create the \
         first key with --account default, and repeat them with that key. If none of them will ever be repeated, add \
         --abandon-anonymous-retries"
    )]
    AnonymousRetries,
    /// The account does not have this payment.
    #[error("the account {account:?} has no payment {transaction_id}")]
    NoPayment { account: String, transaction_id: PaymentId },
    /// The feed ends before the position after which events are to be shown.
    #[error(
        "the feed ends at position {last_position}, before {after}: either there never were more events, or the database \
         was restored and positions have begun anew"
    )]
    EventsRewound { after: Position, last_position: Position },
    /// The text is not an idempotency key.
    #[error("{0}")]
    InvalidKey(#[from] InvalidKey),
    /// Stdin has several keys.
    #[error("stdin has more than one line: give one key at a time; nothing was done with this one")]
    SeveralKeys,
    /// There are several accounts, and none is named.
    #[error("there are several accounts: name one with --account; payonce account list shows them")]
    WhichAccount,
    /// A server is executing the request with the key.
    #[error("a server is executing the request with this key right now: void it again in a moment")]
    InFlight,
    /// The outcome of voiding the key is not known.
    #[error("{0}; void the key again: that changes nothing, and shows the outcome")]
    Void(#[from] Failure),
    /// The operating system has no random numbers.
    #[error("the operating system has no random numbers for a key: {0}")]
    Random(getrandom::Error),
    /// The API key was created and could not be printed.
    #[error(
        "the API key could not be printed, so nobody has it: {1}. Revoke it: payonce api-key revoke {0}"
    )]
    KeyNotShown(Uuid, io::Error),
    /// `WEBHOOK_SECRET` is missing.
    #[error(
        "WEBHOOK_SECRET is not set, and signing secrets are stored encrypted. Make one with openssl rand -base64 32, and \
         set it here and at every server"
    )]
    NoWebhookSecret,
    /// No webhook may be sent to the URL.
    #[error("--url: {0}")]
    Url(#[from] Refusal),
    /// The account does not have this endpoint.
    #[error(
        "the account {account:?} has no webhook endpoint {endpoint_id}: payonce webhook list shows all"
    )]
    NoEndpoint { account: String, endpoint_id: EndpointId },
    /// The number of endpoints is limited.
    #[error("the account has {MAX_ENDPOINTS} webhook endpoints, and can't have more: delete one")]
    TooManyEndpoints,
    /// Not all events of a replay are kept.
    #[error("{0}")]
    Replay(String),
    /// The signing secret was created and could not be printed.
    #[error(
        "the signing secret could not be printed, so nobody has it: {1}. Make another: payonce webhook rotate {0}"
    )]
    SecretNotShown(EndpointId, io::Error),
    /// The operating system has no random numbers.
    #[error(transparent)]
    NoRandomNumbers(#[from] NoRandomNumbers),
    /// Another backfill announces events.
    #[error("another backfill is running: wait for its end")]
    SecondBackfill,
    /// A backfill failed.
    #[error("{0}; run it again to continue")]
    Backfill(#[from] idempotency::Error),
    /// Stdin cannot be read, or stdout written.
    #[error("can't read or print: {0}")]
    Io(#[from] io::Error),
}

impl CommandError {
    /// Returns whether the database may work again later.
    pub(super) fn is_temporary(&self) -> bool {
        matches!(self, Self::Database(error) if db::is_unavailable(error))
    }

    /// Returns whether the arguments are at fault.
    pub(super) fn is_of_usage(&self) -> bool {
        matches!(
            self,
            Self::InvalidKey(_)
                | Self::SeveralKeys
                | Self::WhichAccount
                | Self::NoWebhookSecret
                | Self::Url(_)
                | Self::Replay(_)
        )
    }
}
