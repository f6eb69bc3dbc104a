//! The bodies of requests for webhook endpoints.

use super::{
    address,
    endpoint::{EventTypes, MAX_DESCRIPTION, Range},
};
use crate::{
    events::{EventType, Position},
    http::{
        json::Fields,
        problem::{Kind, Problem},
    },
};

/// Unknown event types that an error names.
const MAX_NAMED: usize = 5;

/// Characters of an unknown event type that an error repeats.
const MAX_REPEATED: usize = 50;

const BOOLEAN: &str = "true or false";

/// The fields of a new endpoint. Absent ones have defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewEndpoint {
    /// The URL.
    pub url: String,
    /// The types of events, if the request names them.
    pub event_types: Option<EventTypes>,
    /// The description.
    pub description: Option<String>,
    /// True if events are sent.
    pub enabled: Option<bool>,
}

/// The fields of an endpoint to change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// The URL.
    pub url: Option<String>,
    /// The types of events.
    pub event_types: Option<EventTypes>,
    /// The description.
    pub description: Option<String>,
    /// True if events are sent.
    pub enabled: Option<bool>,
}

impl NewEndpoint {
    /// Reads a body. The host of the URL is not resolved.
    ///
    /// # Errors
    /// `malformed-json` or `invalid-webhook-endpoint`.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let expected =
            "a JSON object with url and, optionally, event_types, description and enabled";
        let mut fields = Fields::read(body, Kind::InvalidWebhookEndpoint, expected)?;
        let url = match fields.optional_or("url", read_url) {
            Some(None) => fields.required("url", "an https:// URL", |_| None),
            read => read.flatten(),
        };
        let rest = Changes::rest(&mut fields);
        fields.finish(url.zip(rest).map(|(url, rest)| {
            let Changes { event_types, description, enabled, .. } = rest;
            Self { url, event_types, description, enabled }
        }))
    }
}

impl Changes {
    /// Reads a body. The host of the URL is not resolved.
    ///
    /// # Errors
    /// `malformed-json` or `invalid-webhook-endpoint`.
    pub fn read(body: &[u8]) -> Result<Self, Problem> {
        let body = if body.is_empty() { b"{}" } else { body };
        let expected =
            "a JSON object with one or more of url, event_types, description and enabled";
        let mut fields = Fields::read(body, Kind::InvalidWebhookEndpoint, expected)?;
        let url = fields.optional_or("url", read_url);
        let changes = url.zip(Self::rest(&mut fields)).map(|(url, rest)| Self { url, ..rest });
        let changes = match changes {
            Some(changes) if changes == Self::default() => {
                fields.refuse("expected url, event_types, description or enabled")
            }
            changes => changes,
        };
        fields.finish(changes)
    }

    /// Reads the fields besides the URL.
    fn rest(fields: &mut Fields<'_>) -> Option<Self> {
        let event_types = fields.optional_or("event_types", read_event_types);
        let description = fields.optional("description", DESCRIPTION, read_description);
        let enabled = fields.optional("enabled", BOOLEAN, |json| serde_json::from_str(json).ok());
        let ((event_types, description), enabled) = event_types.zip(description).zip(enabled)?;
        Some(Self { url: None, event_types, description, enabled })
    }
}

/// Reads the positions of a replay.
///
/// # Errors
/// `malformed-json` or `invalid-webhook-endpoint`.
pub fn read_replay(body: &[u8]) -> Result<Range, Problem> {
    let expected = "a JSON object with from and to, two positions of events";
    let mut fields = Fields::read(body, Kind::InvalidWebhookEndpoint, expected)?;
    let from = fields.required("from", POSITION, read_position);
    let to = fields.required("to", POSITION, read_position);
    let range = match from.zip(to) {
        Some((from, to)) if from > to => fields.refuse("expected from to be at most to"),
        range => range.map(|(from, to)| Range { from, to }),
    };
    fields.finish(range)
}

const POSITION: &str = "the position of an event, a whole number from 1";

fn read_position(json: &str) -> Option<Position> {
    let position = Position::new(serde_json::from_str(json).ok()?)?;
    (position > Position::START).then_some(position)
}

fn read_url(json: &str) -> Result<String, String> {
    let url: String =
        serde_json::from_str(json).map_err(|_| "expected an https:// URL, as a string")?;
    address::parse(&url).map_err(|refusal| refusal.to_string())?;
    Ok(url)
}

/// The form of a description, in words.
pub(crate) const DESCRIPTION: &str =
    "a string of at most 500 characters, without control characters";

fn read_description(json: &str) -> Option<String> {
    let description: String = serde_json::from_str(json).ok()?;
    is_description(&description).then_some(description)
}

/// Returns whether a text can be the description of an endpoint.
pub(crate) fn is_description(description: &str) -> bool {
    let fits = description.chars().count() <= MAX_DESCRIPTION;
    fits && !description.chars().any(char::is_control)
}

fn read_event_types(json: &str) -> Result<EventTypes, String> {
    let expected = || {
        let known = EventType::ALL.map(EventType::name).join(", ");
        format!("expected a list of one or more of {known}, each once; or null for all types")
    };
    let names: Option<Vec<String>> = serde_json::from_str(json).map_err(|_| expected())?;
    let Some(names) = names else { return Ok(EventTypes::ALL) };
    let unknown: Vec<String> = names
        .iter()
        .filter(|name| EventType::parse(name).is_none())
        .map(|name| format!("{:?}", name.chars().take(MAX_REPEATED).collect::<String>()))
        .take(MAX_NAMED)
        .collect();
    if !unknown.is_empty() {
        return Err(format!("unknown event type {}; {}", unknown.join(", "), expected()));
    }
    let types: Vec<EventType> = names.iter().filter_map(|name| EventType::parse(name)).collect();
    let distinct = |found: &EventTypes| found.codes().len() == names.len();
    EventTypes::some(&types).filter(distinct).ok_or_else(expected)
}
