//! Webhook endpoints: URLs that receive an account's events.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::{Serialize, Serializer};
use sqlx::{FromRow, Row, postgres::PgRow};

use super::secrets::{KeyId, Keyring, OpenError, Sealed, Secret};
use crate::{
    events::{EventType, Position},
    ids::{AccountId, EndpointId},
};

/// Endpoints of one account at most.
pub const MAX_ENDPOINTS: i64 = 50;

/// Characters of a description at most.
pub const MAX_DESCRIPTION: usize = 500;

/// The types of events that an endpoint receives: some, or all of them, those of later versions included.
///
/// They are kept as codes. A type that only a newer version knows must not make "some" become "all".
#[derive(Debug, Clone, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent, no_pg_array)]
pub struct EventTypes(Vec<i16>);

impl EventTypes {
    /// Events of all types.
    pub const ALL: Self = Self(Vec::new());

    /// Events of these types; `None` if there are none.
    #[must_use]
    pub fn some(types: &[EventType]) -> Option<Self> {
        let mut codes: Vec<i16> = types.iter().map(|one| one.code()).collect();
        codes.sort_unstable();
        codes.dedup();
        (!codes.is_empty()).then_some(Self(codes))
    }

    /// Returns whether the endpoint receives events of this type.
    #[must_use]
    pub fn includes(&self, event_type: EventType) -> bool {
        self.0.is_empty() || self.0.contains(&event_type.code())
    }

    /// The names of those that this version knows.
    fn names(&self) -> impl Iterator<Item = &'static str> {
        self.0.iter().filter_map(|code| EventType::from_code(*code)).map(EventType::name)
    }

    /// The codes in order; none for all types.
    #[must_use]
    pub fn codes(&self) -> &[i16] {
        &self.0
    }
}

/// The names, for people.
impl fmt::Display for EventTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names().collect();
        f.write_str(if self.0.is_empty() { "all types" } else { "" })?;
        f.write_str(&names.join(", "))
    }
}

/// A list of names; `null` for all types.
impl Serialize for EventTypes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.is_empty() {
            return serializer.serialize_none();
        }
        serializer.collect_seq(self.names())
    }
}

/// Reasons for which payonce disables an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// It responded with `410 Gone`.
    Gone,
    /// It took no event for days.
    Failing,
}

impl DisabledReason {
    /// The name in the database and in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Gone => "gone",
            Self::Failing => "failing",
        }
    }

    /// The reason with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Gone, Self::Failing].into_iter().find(|one| one.name() == name)
    }
}

/// Positions of an account's events, from the first to the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Range {
    /// The first.
    pub from: Position,
    /// The last.
    pub to: Position,
}

impl Range {
    /// Reads two nullable columns.
    pub(super) fn of_row(row: &PgRow, from: &str, to: &str) -> Result<Option<Self>, sqlx::Error> {
        let (from, to) = (row.try_get(from)?, row.try_get(to)?);
        Ok(Option::zip(from, to).map(|(from, to)| Self { from, to }))
    }
}

/// An endpoint as delivery needs it.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Its account.
    pub account_id: AccountId,
    /// Its id.
    pub endpoint_id: EndpointId,
    /// The URL to call.
    pub url: String,
    /// The types of events to send.
    pub event_types: EventTypes,
    /// True if it is called.
    pub enabled: bool,
    /// Events after this position are sent, if no progress is stored.
    pub after_position: Position,
    /// The positions that are sent again.
    pub replay: Option<Range>,
    /// The number of this replay, from 1. Its progress is stored under this number.
    pub replay_number: i64,
    /// Since when no call succeeds.
    pub failing_since: Option<DateTime<Utc>>,
    /// The events that expired before they were sent.
    pub lost: Option<Range>,
    /// The lease under which this was read. A write that names another epoch changes nothing.
    pub lease_epoch: i64,
    /// The encrypted signing secret.
    secret: Sealed,
    /// The encrypted secret before a rotation, which signs as well until then.
    previous: Option<(Sealed, DateTime<Utc>)>,
}

impl Endpoint {
    /// The secrets that sign a call at this time: the newest, then the one before, while it is valid.
    ///
    /// # Errors
    /// When one cannot be decrypted with `WEBHOOK_SECRET`.
    pub fn secrets(&self, keyring: &Keyring, now: DateTime<Utc>) -> Result<Vec<Secret>, OpenError> {
        let previous = self.previous.iter().filter(|(_, until)| *until > now);
        std::iter::once(&self.secret)
            .chain(previous.map(|(sealed, _)| sealed))
            .map(|sealed| keyring.open(self.account_id, self.endpoint_id, sealed))
            .collect()
    }
}

impl FromRow<'_, PgRow> for Endpoint {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let key_id = KeyId::of_stored(row.try_get("key_id")?)?;
        let previous: Option<Vec<u8>> = row.try_get("previous_secret")?;
        let until: Option<DateTime<Utc>> = row.try_get("previous_until")?;
        Ok(Self {
            account_id: row.try_get("account_id")?,
            endpoint_id: row.try_get("endpoint_id")?,
            url: row.try_get("url")?,
            event_types: row.try_get("event_types")?,
            enabled: row.try_get("enabled")?,
            after_position: row.try_get("after_position")?,
            replay: Range::of_row(row, "replay_from", "replay_to")?,
            replay_number: row.try_get("replay_number")?,
            failing_since: row.try_get("failing_since")?,
            lost: Range::of_row(row, "lost_from", "lost_to")?,
            lease_epoch: row.try_get("lease_epoch")?,
            secret: Sealed { key_id, bytes: row.try_get("secret")? },
            previous: previous.zip(until).map(|(bytes, until)| (Sealed { key_id, bytes }, until)),
        })
    }
}
