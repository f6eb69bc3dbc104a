//! The promises of the feed.

use std::collections::HashSet;

use stateright::Property;

use super::{Feed, Pass, Run, Server, State, Writer};

/// The positions of an account are 1, 2, 3 …: no gap, and no position of two events.
pub const POSITIONS_ARE_CONSECUTIVE: &str = "the positions of an account are consecutive";
/// No event has two positions.
pub const ONE_POSITION: &str = "an event has one position";
/// By position, the refunds of a payment stand in the order of their ordinals.
pub const ORDER_OF_DECISIONS: &str = "the events of a payment are in the order of their decisions";
/// A reader receives no event twice.
pub const READ_AT_MOST_ONCE: &str = "a reader receives no event twice";
/// A reader has received every event up to its cursor. Since it reads until nothing is behind its cursor, it receives all.
pub const NO_EVENT_SKIPPED: &str = "a reader skips no event";
/// When all is quiet, each committed event has a position.
pub const NOTHING_STAYS: &str = "nothing committed stays without a position when all is quiet";
/// Whatever a full scan would find, the finding rule finds with the memory of each server.
pub const MEMORY_FINDS_ALL: &str = "the finding rule finds all that a full scan finds";

pub(super) fn all() -> Vec<Property<Feed>> {
    vec![
        Property::always(POSITIONS_ARE_CONSECUTIVE, |_, state: &State| {
            (0..2).all(|account| {
                (1..).zip(state.feed(account)).all(|(expected, (position, _))| position == expected)
            })
        }),
        Property::always(ONE_POSITION, |_, state: &State| {
            are_distinct(state.runs.iter().flat_map(|run| &run.refunds))
        }),
        Property::always(ORDER_OF_DECISIONS, |_, state: &State| {
            (0..3).all(|payment| is_in_order(state, payment))
        }),
        Property::always(READ_AT_MOST_ONCE, |_, state: &State| {
            are_distinct(&state.reader.received)
        }),
        Property::always(NO_EVENT_SKIPPED, |feed: &Feed, state: &State| {
            let mut passed = feed.readable(state);
            passed.retain(|(cursor, _)| *cursor <= state.reader.cursor);
            passed.iter().all(|(_, refund)| state.reader.received.contains(refund))
        }),
        Property::always(NOTHING_STAYS, |feed: &Feed, state: &State| {
            let all_ended = state.writers.iter().all(|writer| *writer == Writer::Ended);
            all_ended && state.announcements.is_empty() || !feed.is_quiet(state)
        }),
        Property::always(MEMORY_FINDS_ALL, |_, state: &State| {
            state.servers.iter().all(|server| {
                state.announcements.iter().all(|announcement| server.finds(announcement))
            })
        }),
        // The model reaches the situations in which the mistakes matter.
        Property::sometimes(
            "the announcement with the lower id is committed later",
            |_, state: &State| state.writers.iter().any(|writer| is_overtaken(state, writer)),
        ),
        Property::sometimes("the limit cuts a take", |_, state: &State| {
            state
                .servers
                .iter()
                .any(|server| matches!(&server.pass, Pass::Taken(take) if !take.is_complete))
        }),
        Property::sometimes(
            "a server keeps its memory while the other takes",
            |_, state: &State| {
                let takes = |server: &Server| matches!(&server.pass, Pass::Taken(take) if !take.announcements.is_empty());
                state.servers.iter().any(|server| server.memory.is_some() && !server.holds_lock())
                    && state.servers.iter().any(takes)
            },
        ),
        Property::sometimes(
            "an announcement is found because its xid was in progress",
            |_, state: &State| {
                let memories = state.servers.iter().filter_map(|server| server.memory.as_ref());
                memories.into_iter().any(|memory| {
                    state
                        .announcements
                        .iter()
                        .any(|announcement| memory.is_in_progress(announcement.xid))
                })
            },
        ),
    ]
}

fn are_distinct<'a>(refunds: impl IntoIterator<Item = &'a super::Refund>) -> bool {
    let mut seen = HashSet::new();
    refunds.into_iter().all(|refund| seen.insert((refund.payment, refund.ordinal)))
}

/// A gap counts, too: then the later event came first.
fn is_in_order(state: &State, payment: usize) -> bool {
    let feed = state.feed(super::account_of(payment));
    let ordinals = feed
        .iter()
        .filter(|(_, refund)| refund.payment == payment)
        .map(|(_, refund)| refund.ordinal);
    ordinals.zip(1..).all(|(ordinal, expected)| ordinal == expected)
}

fn is_overtaken(state: &State, writer: &Writer) -> bool {
    let Writer::Announced { announcement, .. } = writer else { return false };
    let sequenced = |run: &Run| run.announcement > announcement.id;
    state.announcements.iter().any(|other| other.id > announcement.id)
        || state.runs.iter().any(sequenced)
}
