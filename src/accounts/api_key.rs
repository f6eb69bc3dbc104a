//! API keys, the callers' credentials.

use std::fmt;

use sha2::{Digest, Sha256};
use thiserror::Error;

/// Lets people, and scanners for leaked secrets, recognise a key.
const PREFIX: &str = "payonce_";

/// Enough bits that nobody guesses any of the keys.
const SECRET_BYTES: usize = 32;

/// Lets a server refuse a truncated or mistyped key without a look-up. It protects against nothing else.
const CHECKSUM_BYTES: usize = 4;

/// Characters of the key's end that stay readable, so that people can tell keys apart. They belong to the checksum.
const ENDING_LENGTH: usize = 4;

/// A new API key: `payonce_`, 256 random bits and their checksum. Hexadecimal has no ambiguous characters, and a double
/// click selects all of it. The key is printed once, and only its [`KeyHash`] is stored.
pub struct ApiKey(String);

/// The SHA-256 of a well-formed API key, by which keys are stored and looked up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyHash([u8; 32]);

/// A text that is not an API key. The error does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an API key")]
pub struct InvalidApiKey;

impl ApiKey {
    /// Generates a key from the operating system's random numbers.
    ///
    /// # Errors
    /// When the operating system has none.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut secret = [0; SECRET_BYTES];
        getrandom::fill(&mut secret)?;
        let secret: String = hexadecimal(&secret).collect();
        let checksum: String = hexadecimal(&checksum(&secret)).collect();
        Ok(Self(format!("{PREFIX}{secret}{checksum}")))
    }

    /// Returns the hash to store.
    #[must_use]
    pub fn hash(&self) -> KeyHash {
        KeyHash(Sha256::digest(&self.0).into())
    }

    /// Returns the last characters.
    #[must_use]
    pub fn ending(&self) -> &str {
        self.0.len().checked_sub(ENDING_LENGTH).and_then(|at| self.0.get(at..)).unwrap_or_default()
    }

    /// Returns the key itself, to be printed once.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// Never shows the key.
impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(…)")
    }
}

impl KeyHash {
    /// Hashes a key that a caller sends.
    ///
    /// # Errors
    /// When [`ApiKey::generate`] cannot have generated the key.
    pub fn of_shown(text: &[u8]) -> Result<Self, InvalidApiKey> {
        let digits = text.strip_prefix(PREFIX.as_bytes()).ok_or(InvalidApiKey)?;
        let digits = std::str::from_utf8(digits).map_err(|_| InvalidApiKey)?;
        let (secret, sum) = digits.split_at_checked(2 * SECRET_BYTES).ok_or(InvalidApiKey)?;
        let whole = sum.chars().eq(hexadecimal(&checksum(secret)));
        whole.then(|| Self(Sha256::digest(text).into())).ok_or(InvalidApiKey)
    }

    /// Reads a stored hash, or returns `None` if its length is wrong.
    #[must_use]
    pub fn of_stored(hash: &[u8]) -> Option<Self> {
        hash.try_into().ok().map(Self)
    }

    /// Returns the hash to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn checksum(secret: &str) -> [u8; CHECKSUM_BYTES] {
    Sha256::digest(secret).first_chunk().copied().unwrap_or_default()
}

fn hexadecimal(bytes: &[u8]) -> impl Iterator<Item = char> {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.filter_map(|digit| char::from_digit(u32::from(digit), 16))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_new_key_is_well_formed_and_like_no_other() {
        let (one, two) = (ApiKey::generate().unwrap(), ApiKey::generate().unwrap());
        assert_eq!(KeyHash::of_shown(one.reveal().as_bytes()), Ok(one.hash()));
        assert_ne!(one.reveal(), two.reveal());
        assert_ne!(one.hash(), two.hash());
        assert!(one.reveal().ends_with(one.ending()) && one.ending().len() == 4);
        assert_eq!(one.reveal().len(), 80);
    }

    #[test]
    fn the_form_and_the_hash_of_a_key_never_change() {
        let key =
            "payonce_000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f6c86c6aa";
        let hash = KeyHash::of_shown(key.as_bytes()).unwrap();
        let expected: [u8; 32] = Sha256::digest(key).into();
        assert_eq!(hash.as_bytes(), expected);
        assert_eq!(KeyHash::of_stored(&expected), Some(hash));
        assert_eq!(KeyHash::of_stored(&expected[1..]), None);
    }

    #[test]
    fn what_is_not_whole_is_refused() {
        let key = ApiKey::generate().unwrap();
        let text = key.reveal();
        for wrong in [
            "",
            "payonce_",
            &text[..79],
            &text[1..],
            &format!("{text}0"),
            &format!(" {text}"),
            &text.to_uppercase(),
            &text.replace("payonce", "paytwice"),
            &format!("{}é{}", &text[..71], &text[73..]),
        ] {
            assert_eq!(KeyHash::of_shown(wrong.as_bytes()), Err(InvalidApiKey), "{wrong}");
        }
    }

    #[test]
    fn no_key_shows_in_debug() {
        let key = ApiKey::generate().unwrap();
        assert!(!format!("{key:?}").contains(&key.reveal()[8..20]));
    }

    proptest! {
        #[test]
        fn a_wrong_digit_is_noticed(place in 8_usize..80, digit in "[0-9a-f]") {
            let key = ApiKey::generate().unwrap();
            let mut text = key.reveal().to_owned();
            text.replace_range(place..=place, &digit);
            prop_assert_eq!(KeyHash::of_shown(text.as_bytes()).is_ok(), text == key.reveal());
        }

        #[test]
        fn reading_never_panics(text in prop::collection::vec(any::<u8>(), 0..100)) {
            prop_assert_eq!(KeyHash::of_shown(&text), Err(InvalidApiKey));
            let prefixed = [PREFIX.as_bytes(), &text].concat();
            prop_assert_eq!(KeyHash::of_shown(&prefixed), Err(InvalidApiKey));
        }
    }
}
