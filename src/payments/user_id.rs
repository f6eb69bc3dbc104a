//! The user that a payment is from.

use serde::Serialize;

use crate::text::is_blank;

/// The user that a payment is from: 1 to 255 characters, at least one of them visible, no control characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct UserId(String);

impl UserId {
    /// Long enough for any id or e-mail address; short enough for an index entry.
    pub const MAX_CHARACTERS: usize = 255;

    /// The expectation that errors name.
    pub const EXPECTED: &str =
        "1 to 255 characters, at least one of them visible, without control characters";

    /// Returns the id if this text is one, unchanged.
    #[must_use]
    pub fn parse(text: String) -> Option<Self> {
        let valid = !is_blank(&text)
            && text.chars().count() <= Self::MAX_CHARACTERS
            && !text.contains(char::is_control);
        valid.then_some(Self(text))
    }

    /// The text as it was received.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::UserId;

    #[test]
    fn a_user_id_has_something_to_read_in_it() {
        for valid in ["u", "user_1", " padded ", "é", &"é".repeat(255), "a\u{a0}b"] {
            assert!(UserId::parse(valid.to_owned()).is_some(), "{valid:?}");
        }
        for invalid in [
            "",
            " ",
            "\u{a0}",
            "\u{200b}",
            " \u{2060}\u{feff}",
            "a\0",
            "a\nb",
            "\u{7f}",
            "\u{85}",
            &"é".repeat(256),
        ] {
            assert!(UserId::parse(invalid.to_owned()).is_none(), "{invalid:?}");
        }
    }
}
