//! Account ids.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// An account, whose keys never meet those of another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[cfg_attr(feature = "serde", derive(serde::Serialize), serde(transparent))]
#[sqlx(transparent)]
pub struct AccountId(Uuid);

impl AccountId {
    /// The account of every request, in a service without accounts.
    pub const DEFAULT: Self = Self(Uuid::nil());

    /// The id's 16 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }
}

impl From<Uuid> for AccountId {
    fn from(id: Uuid) -> Self {
        Self(id)
    }
}

impl From<AccountId> for Uuid {
    fn from(id: AccountId) -> Self {
        id.0
    }
}

impl FromStr for AccountId {
    type Err = uuid::Error;

    fn from_str(text: &str) -> Result<Self, uuid::Error> {
        text.parse().map(Self)
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
