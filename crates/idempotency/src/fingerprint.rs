//! The fingerprint, by which two requests are the same request.

use sha2::{Digest, Sha256};

use super::Operation;

/// The layout described at [`Fingerprint`].
const VERSION: u8 = 1;

/// Bytes for each field: few enough to store with every key. Two values of a field have the same hash by accident
/// once in 2⁶⁴.
const HASH_LENGTH: usize = 8;

/// Stands for a field that the request does not have. No field that it has hashes to this.
const ABSENT: [u8; HASH_LENGTH] = [0; HASH_LENGTH];

/// A fingerprint of a validated command: hashes of its operation and of each of its fields.
///
/// A comparison names the fields that differ, though no field is stored. The bytes are a version, then eight bytes
/// of SHA-256 for the operation and for each field, in the order in which the command adds them. A stored fingerprint
/// may be shorter, because the command got fields later: these compare as absent. So add fields at the end only, and
/// never change the place, the name or the encoding of one.
///
/// A fingerprint keeps no secret: everybody who reads the table can try likely values.
///
/// ```
/// use payonce_idempotency::{Fingerprint, Operation};
///
/// const PAY: Operation = Operation::new("pay");
///
/// let paid = Fingerprint::of(PAY).field("user_id", b"user_1").field("amount", b"100");
/// let more = Fingerprint::of(PAY).field("user_id", b"user_1").field("amount", b"900");
/// assert_eq!(paid.differing(more.as_bytes()).unwrap(), ["amount"]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    operation: Operation,
    bytes: Vec<u8>,
    fields: Vec<&'static str>,
}

/// A stored fingerprint that this version of the program cannot compare: a newer one wrote it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the stored fingerprint has a layout that this version does not know")]
pub struct UnknownLayout;

impl Fingerprint {
    /// Begins the fingerprint of a command of this operation.
    #[must_use]
    pub fn of(operation: Operation) -> Self {
        let mut bytes = Vec::with_capacity(1 + 4 * HASH_LENGTH);
        bytes.push(VERSION);
        bytes.extend(hash("", operation.as_str().as_bytes()));
        Self { operation, bytes, fields: Vec::with_capacity(3) }
    }

    /// The operation that it was begun with.
    #[must_use]
    pub fn operation(&self) -> Operation {
        self.operation
    }

    /// Adds a field that the request has.
    #[must_use]
    pub fn field(self, name: &'static str, value: &[u8]) -> Self {
        self.optional(name, Some(value))
    }

    /// Adds a field that the request may have.
    #[must_use]
    pub fn optional(mut self, name: &'static str, value: Option<&[u8]>) -> Self {
        self.bytes.extend(value.map_or(ABSENT, |value| hash(name, value)));
        self.fields.push(name);
        self
    }

    /// The bytes to store: 1 + 8 × (1 + number of fields).
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The names of the fields in which the stored request differs from this one; none when they are the same
    /// request. Fields of different operations cannot be compared: the result is `operation` alone. A field that
    /// this version of the program does not know is `other`.
    ///
    /// # Errors
    /// When the stored bytes have an unknown layout.
    pub fn differing(&self, stored: &[u8]) -> Result<Vec<&'static str>, UnknownLayout> {
        let (operation, fields) = split(&self.bytes).ok_or(UnknownLayout)?;
        let (stored_operation, stored_fields) = split(stored).ok_or(UnknownLayout)?;
        if operation != stored_operation {
            return Ok(vec!["operation"]);
        }
        let count = fields.len().max(stored_fields.len());
        let at = |fields: &[[u8; HASH_LENGTH]], place: usize| {
            fields.get(place).copied().unwrap_or(ABSENT)
        };
        let mut differing = Vec::new();
        for place in 0..count {
            if at(fields, place) != at(stored_fields, place) {
                differing.push(self.fields.get(place).copied().unwrap_or("other"));
            }
        }
        Ok(differing)
    }
}

/// The hashes of a fingerprint: the operation's, and the fields'.
fn split(bytes: &[u8]) -> Option<(&[u8; HASH_LENGTH], &[[u8; HASH_LENGTH]])> {
    let (&VERSION, hashes) = bytes.split_first()? else { return None };
    let (hashes, []) = hashes.as_chunks() else { return None };
    hashes.split_first()
}

/// The name goes in with its length, so that no name and value run together into another pair.
fn hash(name: &str, value: &[u8]) -> [u8; HASH_LENGTH] {
    let digest = Sha256::new()
        .chain_update(u64::try_from(name.len()).unwrap_or(u64::MAX).to_be_bytes())
        .chain_update(name)
        .chain_update(value)
        .finalize();
    match digest.first_chunk().copied().unwrap_or(ABSENT) {
        ABSENT => [0, 0, 0, 0, 0, 0, 0, 1],
        hash => hash,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAY: Operation = Operation::new("pay");

    fn paid(user: &str, amount: &str) -> Fingerprint {
        Fingerprint::of(PAY).field("user_id", user.as_bytes()).field("amount", amount.as_bytes())
    }

    #[test]
    fn a_later_field_never_breaks_an_older_fingerprint() {
        let old = paid("u", "1");
        let now = |currency: Option<&str>| {
            paid("u", "1").optional("currency", currency.map(str::as_bytes))
        };
        assert_eq!(now(None).differing(old.as_bytes()), Ok(vec![]));
        assert_eq!(now(Some("EUR")).differing(old.as_bytes()), Ok(vec!["currency"]));
        assert_eq!(old.differing(now(None).as_bytes()), Ok(vec![]));
        assert_eq!(old.differing(now(Some("EUR")).as_bytes()), Ok(vec!["other"]));
    }

    #[test]
    fn another_operation_is_another_request_whatever_its_fields() {
        let refund =
            Fingerprint::of(Operation::new("refund")).field("user_id", b"u").field("amount", b"1");
        assert_eq!(refund.differing(paid("u", "1").as_bytes()), Ok(vec!["operation"]));
    }

    #[test]
    fn the_stored_bytes_never_change() {
        let operation = 0x8cdb_4ce4_65d7_6012_u64.to_be_bytes();
        let user_id = 0xff40_bf75_f343_3b2a_u64.to_be_bytes();
        let amount = 0x193d_7a02_ed1f_5468_u64.to_be_bytes();
        let expected = [&[VERSION][..], &operation, &user_id, &amount].concat();
        assert_eq!(paid("user_1", "100").as_bytes(), expected);
    }

    #[test]
    fn unreadable_bytes_are_an_error_and_not_a_difference() {
        for stored in [&[][..], &[1], &[1, 2, 3], &[2, 0, 0, 0, 0, 0, 0, 0, 0]] {
            assert_eq!(paid("u", "1").differing(stored), Err(UnknownLayout));
        }
    }

    proptest! {
        #[test]
        fn fields_differ_exactly_where_their_values_do(a in ".{0,4}", b in ".{0,4}", x in "[0-9]", y in "[0-9]") {
            let mut expected = Vec::new();
            if a != b { expected.push("user_id") }
            if x != y { expected.push("amount") }
            prop_assert_eq!(paid(&a, &x).differing(paid(&b, &y).as_bytes()), Ok(expected));
        }

        #[test]
        fn comparing_with_any_bytes_never_panics(stored in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = paid("u", "1").differing(&stored);
        }
    }
}
