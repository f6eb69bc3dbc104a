//! The promises of the delivery.

use stateright::Property;

use super::{Delivery, Failure, State};

/// Each event that the cursor or the bitmap has passed was received, or has a failure. So no crash skips an event.
pub const NOTHING_SKIPPED: &str = "an event that is done was received, or has a failure";
/// An event is received again only if its response was lost, or if it was in a slot when a lease ended.
pub const REPEATS_ONLY_IN_FLIGHT: &str = "a crash repeats only what was in flight";
/// The first receptions of a payment's events are in order. A parked event no longer holds later ones.
pub const ORDER_OF_A_PAYMENT: &str = "the events of a payment are received in order";
/// When all is quiet, each event was received or is parked.
pub const ALL_SETTLED: &str = "every event was received or is parked when all is quiet";

pub(super) fn all() -> Vec<Property<Delivery>> {
    vec![
        Property::always(NOTHING_SKIPPED, |_, state: &State| {
            (0..state.receiver.len()).all(|event| {
                let has_failure = state.stored.failures.contains_key(&event);
                !state.stored.done[event] || was_received(state, event) || has_failure
            })
        }),
        Property::always(REPEATS_ONLY_IN_FLIGHT, |_, state: &State| {
            state.receiver.iter().all(|received| received.permitted >= 0)
        }),
        Property::always(ORDER_OF_A_PAYMENT, |delivery: &Delivery, state: &State| {
            (0..state.receiver.len()).filter(|event| was_received(state, *event)).all(|event| {
                delivery
                    .earlier(event)
                    .all(|earlier| was_received(state, earlier) || is_parked(state, earlier))
            })
        }),
        Property::always(ALL_SETTLED, |delivery: &Delivery, state: &State| {
            let is_settled = |event| was_received(state, event) || is_parked(state, event);
            (0..state.receiver.len()).all(is_settled) || !delivery.is_quiet(state)
        }),
        Property::sometimes("an event that was received may be repeated", |_, state: &State| {
            state.receiver.iter().any(|received| received.was_received && received.permitted > 0)
        }),
        Property::sometimes(
            "a later event waits behind a failure of its payment",
            |_, state: &State| {
                state.stored.failures.values().any(|failure| *failure == Failure::Open(0))
            },
        ),
        Property::sometimes("the bitmap is ahead of the cursor", |_, state: &State| {
            state.stored.done.iter().skip(state.stored.cursor()).any(|done| *done)
        }),
        Property::sometimes("an event is parked", |_, state: &State| {
            (0..state.receiver.len()).any(|event| is_parked(state, event))
        }),
    ]
}

fn was_received(state: &State, event: usize) -> bool {
    state.receiver[event].was_received
}

fn is_parked(state: &State, event: usize) -> bool {
    state.stored.failures.get(&event) == Some(&Failure::Parked)
}
