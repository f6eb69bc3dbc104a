//! Names of accounts and API keys.

use std::{fmt, str::FromStr};

use thiserror::Error;
use uuid::Uuid;

use crate::text::is_blank;

/// Characters that fit on a line of a list.
const MAX_LENGTH: usize = 100;

/// A name: 1 to 100 characters on one line, without surrounding space. It is never a UUID, so an argument can be a name
/// or an id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Name(String);

/// Reasons why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidName {
    /// The text is empty or too long.
    #[error("a name has 1 to 100 characters")]
    Length,
    /// The text contains a control character or surrounding space.
    #[error("a name has no control characters, and no space before or after it")]
    Characters,
    /// The text is invisible.
    #[error("a name has at least one visible character")]
    Blank,
    /// The text is a UUID.
    #[error("a name is not a UUID: that would be taken for an id")]
    Id,
}

impl Name {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if !(1..=MAX_LENGTH).contains(&text.chars().count()) {
            Err(InvalidName::Length)
        } else if text.trim() != text || text.chars().any(char::is_control) {
            Err(InvalidName::Characters)
        } else if is_blank(text) {
            Err(InvalidName::Blank)
        } else if Uuid::parse_str(text).is_ok() {
            Err(InvalidName::Id)
        } else {
            Ok(Self(text.to_owned()))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_short_line_that_is_no_id() {
        for name in ["acme", "a", "Ada's web shop", "größe", &"a".repeat(100)] {
            assert_eq!(name.parse(), Ok(Name(name.to_owned())));
        }
        for (text, why) in [
            ("", InvalidName::Length),
            (&*"a".repeat(101), InvalidName::Length),
            (" a", InvalidName::Characters),
            ("a\u{1b}[2Jb", InvalidName::Characters),
            ("a\nb", InvalidName::Characters),
            ("\u{200b}\u{2060}", InvalidName::Blank),
            ("00000000-0000-0000-0000-000000000000", InvalidName::Id),
        ] {
            assert_eq!(text.parse::<Name>(), Err(why), "{text:?}");
        }
    }
}
