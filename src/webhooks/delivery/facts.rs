//! The facts of an event from which its body is rendered.

use crate::{
    db::timestamp::Timestamp,
    events::{Event, EventType, Occurrence},
    ids::{ExecutionId, PaymentId},
};

/// An event without its body. A failure keeps them, so that a retry does not need the event's run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts {
    pub(super) position: i64,
    pub(super) event_type: EventType,
    pub(super) version: i16,
    pub(super) subject: ExecutionId,
    pub(super) payment_id: PaymentId,
    pub(super) at: Timestamp,
}

impl Facts {
    pub(super) fn of(event: &Event) -> Self {
        let Occurrence { position, version, event_type, subject, at } = event.occurrence;
        let position = position.number();
        Self { position, event_type, version, subject, payment_id: event.payment_id, at }
    }
}
