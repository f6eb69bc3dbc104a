//! The query of `GET /events`.

use std::time::Duration;

use super::{EventType, Position, feed::FeedId};
use crate::{
    http::{problem::Problem, query},
    payments::list::{DEFAULT_LIMIT, MAX_LIMIT},
};

/// The request for a page of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    /// The position after which the page begins.
    pub(super) after: Position,
    /// The greatest number of events.
    pub(super) limit: u8,
    /// The types to show; empty: all.
    pub(super) types: Vec<EventType>,
    /// The feed from which the client has its position.
    pub(super) feed: Option<FeedId>,
    /// The time to wait for an event if there is none.
    pub(super) wait: Duration,
}

/// Proxies cut connections that are silent for longer, commonly after a minute.
pub(super) const LONGEST_WAIT: Duration = Duration::from_secs(30);

impl Question {
    /// Reads a query.
    ///
    /// # Errors
    /// `invalid-query`.
    pub(super) fn read(query: &str) -> Result<Self, Problem> {
        let mut parameters = query::read(query)?;
        let after = parameters.optional("after", "a position: a whole number from 0", |text| {
            whole_number(text).and_then(Position::new)
        });
        let limit = parameters.optional("limit", "a whole number, 1 to 200", |text| {
            let limit = whole_number(text)?.try_into().ok()?;
            (1..=MAX_LIMIT).contains(&limit).then_some(limit)
        });
        let types = parameters.optional_or("type", event_types);
        let feed = parameters.optional("feed", "the feed of a page", FeedId::parse);
        let wait = parameters.optional("wait", "a whole number of seconds, 0 to 30", |text| {
            let wait = Duration::from_secs(whole_number(text)?.try_into().ok()?);
            (wait <= LONGEST_WAIT).then_some(wait)
        });
        let read = after.zip(limit).zip(types).zip(feed).zip(wait);
        parameters.finish(read.map(|((((after, limit), types), feed), wait)| Self {
            after: after.unwrap_or(Position::START),
            limit: limit.unwrap_or(DEFAULT_LIMIT),
            types: types.unwrap_or_default(),
            feed,
            wait: wait.unwrap_or_default(),
        }))
    }
}

/// Digits alone: `parse` also takes a sign.
fn whole_number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Reads event types, separated by commas. The error names the unknown ones.
fn event_types(text: &str) -> Result<Vec<EventType>, String> {
    let (mut types, mut unknown) = (Vec::new(), Vec::new());
    for name in text.split(',') {
        match EventType::parse(name) {
            Some(known) => types.push(known),
            None => unknown.push(format!("`{name}`")),
        }
    }
    if unknown.is_empty() {
        types.sort_unstable();
        types.dedup();
        return Ok(types);
    }
    let expected = EventType::ALL.map(EventType::name).join(", ");
    Err(format!("unknown event type {}; expected {expected}", unknown.join(", ")))
}
