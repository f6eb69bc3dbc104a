//! The idempotency key: how a client names one intended effect.

use std::{fmt, sync::Arc};

use sha2::{Digest, Sha256};
use thiserror::Error;

use super::AccountId;

/// A valid idempotency key: 1 to 255 printable ASCII characters. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdempotencyKey(Arc<str>);

/// A reason why an `Idempotency-Key` field value is not a key. The message says what is expected and
/// repeats nothing of the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InvalidKey {
    /// Nothing between the quotes, or nothing at all.
    #[error("the key is empty; send 1 to 255 characters")]
    Empty,
    /// More than 255 characters.
    #[error("the key is longer than 255 characters")]
    TooLong,
    /// A quoted value that is no Structured Field String, or has something after it.
    #[error(
        "a quoted key must be one string as RFC 9651 defines it: printable ASCII between double \
         quotes, with a backslash before a quote or a backslash, and nothing after it"
    )]
    NotAString,
    /// A Structured Field String followed by parameters (`"k";a=1`).
    #[error("the key must not carry parameters")]
    Parameters,
    /// A bare value with a character that only a quoted one may have.
    #[error(
        "a bare key is printable ASCII without space, comma, semicolon or double quote; put the \
         key in double quotes to use the others"
    )]
    Character,
}

impl IdempotencyKey {
    /// Long enough for any UUID, ULID or prefixed key; short enough for an index entry.
    pub const MAX_LENGTH: usize = 255;

    /// Reads the value of one `Idempotency-Key` field line.
    ///
    /// A value that begins with a double quote is read as a Structured Field String
    /// (RFC 9651 §3.3.3); any other is taken as it stands, so `"k"` and `k` are the same key.
    ///
    /// # Errors
    /// When the value is neither: see [`InvalidKey`].
    pub fn parse(field_value: &[u8]) -> Result<Self, InvalidKey> {
        if field_value.starts_with(b"\"") {
            Self::parse_quoted(field_value)
        } else {
            Self::parse_bare(field_value)
        }
    }

    fn parse_quoted(field_value: &[u8]) -> Result<Self, InvalidKey> {
        let item: sfv::Item =
            sfv::Parser::new(field_value).parse().map_err(|_| InvalidKey::NotAString)?;
        if !item.params.is_empty() {
            return Err(InvalidKey::Parameters);
        }
        let sfv::BareItem::String(key) = item.bare_item else {
            return Err(InvalidKey::NotAString);
        };
        Self::of_length(key.as_str())
    }

    fn parse_bare(field_value: &[u8]) -> Result<Self, InvalidKey> {
        let allowed = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b',' | b';' | b'"');
        if !field_value.iter().all(allowed) {
            return Err(InvalidKey::Character);
        }
        Self::of_length(std::str::from_utf8(field_value).map_err(|_| InvalidKey::Character)?)
    }

    fn of_length(key: &str) -> Result<Self, InvalidKey> {
        match key.len() {
            0 => Err(InvalidKey::Empty),
            1..=Self::MAX_LENGTH => Ok(Self(key.into())),
            _ => Err(InvalidKey::TooLong),
        }
    }

    /// A hash that identifies this key of an account in logs, without the key itself.
    /// The first 8 bytes of SHA-256 over the account's 16 bytes and the key, in hex.
    #[must_use]
    pub fn hash_in(&self, account_id: AccountId) -> String {
        ScopedKey { account_id, key: self.clone() }.to_string()
    }

    /// The key itself, without quotes.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Never the key: clients put all kinds of things into keys, and logs are read by many.
impl fmt::Debug for IdempotencyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IdempotencyKey(…)")
    }
}

/// A key in the account whose it is. Two accounts' keys never meet.
///
/// Ordered as the table's primary key is (`COLLATE "C"` compares bytes), so that a sorted batch goes through the
/// index once, and takes rows in the order in which every other server takes them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ScopedKey {
    pub(super) key: IdempotencyKey,
    pub(super) account_id: AccountId,
}

impl ScopedKey {
    /// The number of this key's advisory lock; also what spreads keys over committers.
    ///
    /// Every version of every server must come to the same number, hence a hash that is a
    /// standard. Two keys with one number are only ever mistaken for "in flight" for a moment.
    pub(super) fn lock_number(&self) -> i64 {
        let digest = Sha256::new()
            .chain_update(self.account_id.as_bytes())
            .chain_update(self.key.as_str())
            .finalize();
        digest.first_chunk().copied().map_or(0, i64::from_be_bytes)
    }
}

impl fmt::Display for ScopedKey {
    /// A hash that identifies the key in logs, without the key itself.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.lock_number())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(value: &str) -> Result<String, InvalidKey> {
        IdempotencyKey::parse(value.as_bytes()).map(|key| key.as_str().to_owned())
    }

    #[test]
    fn a_quoted_and_a_bare_value_are_the_same_key() {
        assert_eq!(parse("\"k\""), parse("k"));
    }

    #[test]
    fn escapes_are_undone_in_quoted_keys_alone() {
        assert_eq!(parse(r#""a\"b\\c""#).as_deref(), Ok(r#"a"b\c"#));
        assert_eq!(parse(r"a\b").as_deref(), Ok(r"a\b"));
        assert_eq!(parse(r#""a\b""#), Err(InvalidKey::NotAString));
    }

    #[test]
    fn what_is_not_one_string_is_refused() {
        for value in ["\"open", "\"a\" b", "\"a\", \"b\"", "\"é\"", "\"a\tb\"", "\""] {
            assert_eq!(parse(value), Err(InvalidKey::NotAString), "{value}");
        }
        assert_eq!(parse("\"a\";b=1"), Err(InvalidKey::Parameters));
        for value in ["a b", "a,b", "a;b", "a\"", "é", "a\u{7f}", "a\tb"] {
            assert_eq!(parse(value), Err(InvalidKey::Character), "{value}");
        }
        assert_eq!(parse(""), Err(InvalidKey::Empty));
        assert_eq!(parse("\"\""), Err(InvalidKey::Empty));
    }

    #[test]
    fn length_is_counted_without_quotes_and_escapes() {
        assert!(parse(&"a".repeat(255)).is_ok());
        assert_eq!(parse(&"a".repeat(256)), Err(InvalidKey::TooLong));
        assert!(parse(&format!("\"{}\"", "\\\\".repeat(255))).is_ok());
        assert_eq!(parse(&format!("\"{}\"", "a".repeat(256))), Err(InvalidKey::TooLong));
    }

    #[test]
    fn no_key_shows_in_debug_or_in_a_log() {
        let key = ScopedKey {
            account_id: AccountId::DEFAULT,
            key: IdempotencyKey::parse(b"secret").unwrap(),
        };
        assert!(!format!("{key:?} {key}").contains("secret"));
    }

    #[test]
    fn the_lock_number_never_changes() {
        let key = ScopedKey {
            account_id: AccountId::DEFAULT,
            key: IdempotencyKey::parse(b"12345-unique-key").unwrap(),
        };
        assert_eq!(key.to_string(), "6a5ec7886aa9cb59");
    }

    proptest! {
        #[test]
        fn every_printable_key_survives_quoting(key in "[ -~]{1,255}") {
            let quoted = sfv::StringRef::from_str(&key).unwrap();
            let field = sfv::ItemSerializer::new().bare_item(quoted).finish();
            prop_assert_eq!(parse(&field), Ok(key));
        }

        #[test]
        fn parsing_never_panics_and_keeps_what_it_promises(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(key) = IdempotencyKey::parse(&bytes) {
                prop_assert!((1..=IdempotencyKey::MAX_LENGTH).contains(&key.as_str().len()));
                prop_assert!(key.as_str().bytes().all(|byte| (b' '..=b'~').contains(&byte)));
            }
        }

        #[test]
        fn a_bare_key_is_taken_as_it_stands(key in "[!#-+\\--:<-~][!#-+\\--:<-~]{0,254}") {
            prop_assert_eq!(parse(&key), Ok(key));
        }
    }
}
