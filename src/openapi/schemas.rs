//! Schemas, and what those of the features are made of.
//!
//! Requests refuse unknown fields. Responses may get more fields.

use serde_json::{Map, Value, json};

use crate::{idempotency::IdempotencyKey, routes::DESCRIBED, text::INVISIBLE};

pub(crate) fn reference(schema: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{schema}") })
}

/// A key in its header. Its length is counted without quotes and escapes.
pub(super) fn idempotency_key() -> Value {
    let most = IdempotencyKey::MAX_LENGTH;
    let bare = format!(r"[!#-+\--:<-~]{{1,{most}}}");
    let quoted = format!(r#""(?:[ !#-\[\]-~]|\\["\\]){{1,{most}}}""#);
    json!({ "type": "string", "pattern": format!("^(?:{bare}|{quoted})$"), "minLength": 1, "maxLength": 2 * most + 2 })
}

/// The schemas of all features.
pub(super) fn schemas() -> Value {
    DESCRIBED.iter().flat_map(|part| object((part.schemas)())).collect()
}

/// Text with a visible character and without controls. Characters beyond U+FFFF, for which regular expressions
/// have no common notation, count as visible here.
pub(crate) fn visible_text() -> String {
    let control = r"\u0000-\u001f\u007f-\u009f";
    let invisible: Vec<String> = INVISIBLE
        .iter()
        .map(|range| (u32::from(*range.start()), u32::from(*range.end())))
        .filter(|(_, end)| *end <= 0xffff)
        .map(|(start, end)| format!(r"\u{start:04x}-\u{end:04x}"))
        .collect();
    let invisible = invisible.concat();
    format!("^[^{control}]*[^{invisible}][^{control}]*$")
}

/// The status of payments and refunds.
pub(crate) fn recorded() -> Value {
    json!({ "const": "success", "description": "Recorded here, exactly once." })
}

/// An object in a response, whose fields are always present except the optional ones.
pub(crate) fn response(optional: &[&str], properties: Value) -> Value {
    let properties = object(properties);
    let required = properties.keys().filter(|name| !optional.contains(&name.as_str()));
    let required: Vec<&String> = required.collect();
    json!({ "type": "object", "required": required, "properties": properties })
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(object) = value { object } else { Map::new() }
}

pub(crate) fn text(description: &str) -> Value {
    json!({ "type": "string", "description": description })
}

pub(crate) fn uuid() -> Value {
    json!({ "type": "string", "format": "uuid" })
}

pub(crate) fn or_null(schema: &str) -> Value {
    json!({ "anyOf": [reference(schema), { "type": "null" }] })
}
