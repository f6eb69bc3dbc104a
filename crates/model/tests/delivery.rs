//! The delivery to a webhook endpoint keeps its promises in every state, and each variant of it breaks one.

#![expect(clippy::print_stdout, reason = "cargo test -- --nocapture prints the counterexamples")]

use payonce_model::delivery::Delivery;
use payonce_model::delivery::properties::{ALL_SETTLED, NOTHING_SKIPPED, REPEATS_ONLY_IN_FLIGHT};
use payonce_model::{Variant, assert_holds, counterexample};

#[test]
fn the_designed_delivery_keeps_all_promises() {
    println!("{} states", assert_holds(Delivery::new(Variant::Designed)));
}

/// Prints how a variant breaks a promise.
fn refute(variant: Variant, property: &'static str) {
    println!("{variant:?} {}", counterexample(|| Delivery::new(variant), property));
}

#[test]
fn a_cursor_stored_before_its_failures_skips_events() {
    refute(Variant::CursorBeforeFailures, NOTHING_SKIPPED);
    refute(Variant::CursorBeforeFailures, ALL_SETTLED);
}

#[test]
fn a_store_without_the_epoch_repeats_events_that_were_done() {
    let delivery = || Delivery::with_two_takeovers(Variant::StoreWithoutEpoch);
    println!("{}", counterexample(delivery, REPEATS_ONLY_IN_FLIGHT));
}

#[test]
fn a_call_without_the_lease_repeats_events_that_were_done() {
    refute(Variant::CallWithoutLease, REPEATS_ONLY_IN_FLIGHT);
}
