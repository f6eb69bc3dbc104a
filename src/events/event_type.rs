//! The types of events.

use serde::{Serialize, Serializer};

/// The type of an event. Its code is stored: never change one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EventType {
    /// A payment was created.
    PaymentCreated,
    /// A refund was created.
    RefundCreated,
}

impl EventType {
    /// All types.
    pub const ALL: [Self; 2] = [Self::PaymentCreated, Self::RefundCreated];

    /// The number that the database has.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::PaymentCreated => 1,
            Self::RefundCreated => 2,
        }
    }

    /// The type with this code.
    #[must_use]
    pub fn from_code(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.code() == code)
    }

    /// The name in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::PaymentCreated => "payment.created",
            Self::RefundCreated => "refund.created",
        }
    }

    /// The type with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

impl Serialize for EventType {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}
