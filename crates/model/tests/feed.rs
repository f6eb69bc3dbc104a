//! The protocol of the feed keeps its promises in every state, and each variant of it breaks one.

#![expect(clippy::print_stdout, reason = "cargo test -- --nocapture prints the counterexamples")]

use payonce_model::feed::Feed;
use payonce_model::feed::properties::{
    MEMORY_FINDS_ALL, NO_EVENT_SKIPPED, NOTHING_STAYS, ONE_POSITION, ORDER_OF_DECISIONS,
    POSITIONS_ARE_CONSECUTIVE,
};
use payonce_model::{Variant, assert_holds, counterexample};

#[test]
fn the_designed_feed_keeps_all_promises() {
    println!("{} states", assert_holds(Feed::new(Variant::Designed)));
}

/// Prints how a variant breaks a promise.
fn refute(variant: Variant, property: &'static str) {
    println!("{variant:?} {}", counterexample(|| Feed::new(variant), property));
}

#[test]
fn a_cursor_on_announcement_ids_skips_events() {
    refute(Variant::CursorOnAnnouncements, NO_EVENT_SKIPPED);
}

#[test]
fn positions_drawn_before_commit_have_gaps() {
    refute(Variant::PositionsBeforeCommit, POSITIONS_ARE_CONSECUTIVE);
}

#[test]
fn positions_drawn_before_commit_make_readers_skip_events() {
    refute(Variant::PositionsBeforeCommit, NO_EVENT_SKIPPED);
}

#[test]
fn order_by_xid_inverts_two_refunds() {
    refute(Variant::OrderByXid, ORDER_OF_DECISIONS);
}

#[test]
fn order_by_execution_id_inverts_two_refunds() {
    refute(Variant::OrderByExecutionId, ORDER_OF_DECISIONS);
}

#[test]
fn a_snapshot_older_than_the_lock_gives_an_event_two_positions() {
    refute(Variant::SnapshotBeforeLock, ONE_POSITION);
}

#[test]
fn the_memory_of_a_cut_take_hides_what_the_limit_left() {
    refute(Variant::MemoryOfCutTake, MEMORY_FINDS_ALL);
    println!(
        "{}",
        counterexample(|| Feed::with_one_server(Variant::MemoryOfCutTake), NOTHING_STAYS)
    );
}

#[test]
fn a_memory_before_commit_hides_what_was_rolled_back() {
    refute(Variant::MemoryBeforeCommit, MEMORY_FINDS_ALL);
    println!(
        "{}",
        counterexample(|| Feed::with_one_server(Variant::MemoryBeforeCommit), NOTHING_STAYS)
    );
}
