//! Events as consumers see them.

use std::fmt;

use serde::{Serialize, Serializer};
use serde_json::value::{RawValue, to_raw_value};
use uuid::Uuid;

use super::EventType;
use crate::{
    db::timestamp::Timestamp,
    ids::{ExecutionId, PaymentId},
};

/// The position of an event among those of its account: from 1, without gaps.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, sqlx::Type,
)]
#[serde(transparent)]
#[sqlx(transparent)]
pub struct Position(i64);

impl Position {
    /// The place before the first event.
    pub const START: Self = Self(0);

    /// The position with this number; `None` if it is negative.
    #[must_use]
    pub const fn new(number: i64) -> Option<Self> {
        if number >= 0 { Some(Self(number)) } else { None }
    }

    /// Its number.
    #[must_use]
    pub const fn number(self) -> i64 {
        self.0
    }

    /// The position this much later.
    #[must_use]
    pub const fn plus(self, events: i64) -> Self {
        Self(self.0.saturating_add(events))
    }

    /// The position before; that of [`START`](Self::START) is itself.
    #[must_use]
    pub const fn before(self) -> Self {
        if self.0 > 0 { Self(self.0 - 1) } else { self }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The id of an event, which is also its `webhook-id`. It is made of what happened and never of the position, so an
/// event that is announced again, with a later position, has the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EventId {
    execution_id: ExecutionId,
    event_type: EventType,
}

impl EventId {
    /// The id of the event of this type that the execution caused.
    #[must_use]
    pub const fn new(execution_id: ExecutionId, event_type: EventType) -> Self {
        Self { execution_id, event_type }
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let execution_id = Uuid::from(self.execution_id);
        write!(f, "evt_{}_{}", execution_id.simple(), self.event_type.code())
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An event as its run records it, without the facts in its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Occurrence {
    /// Its position.
    pub position: Position,
    /// The form of its body.
    pub version: i16,
    /// Its type.
    pub event_type: EventType,
    /// The execution that caused it, whose id the payment or refund has.
    pub subject: ExecutionId,
    /// The time of the execution's transaction.
    pub at: Timestamp,
}

/// An event with its JSON, which is the same in each page and each webhook call, byte for byte.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id.
    pub event_id: EventId,
    /// Its position, type and time.
    pub occurrence: Occurrence,
    /// The payment that it concerns.
    pub payment_id: PaymentId,
    envelope: Box<RawValue>,
}

/// The JSON of an event.
#[derive(Serialize)]
struct Envelope<'a, T> {
    event_id: EventId,
    position: Position,
    r#type: EventType,
    timestamp: Timestamp,
    data: &'a T,
}

impl Event {
    /// The event with this body.
    ///
    /// # Errors
    /// When the body cannot be written as JSON.
    pub(super) fn new(
        occurrence: &Occurrence,
        payment_id: PaymentId,
        data: &impl Serialize,
    ) -> Result<Self, serde_json::Error> {
        let Occurrence { position, event_type, subject, at: timestamp, .. } = *occurrence;
        let event_id = EventId::new(subject, event_type);
        let envelope = Envelope { event_id, position, r#type: event_type, timestamp, data };
        let envelope = to_raw_value(&envelope)?;
        Ok(Self { event_id, occurrence: *occurrence, payment_id, envelope })
    }

    /// Its JSON: an element of a page, and the body of a webhook call.
    #[must_use]
    pub fn envelope(&self) -> &str {
        self.envelope.get()
    }
}

impl Serialize for Event {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.envelope.serialize(serializer)
    }
}
