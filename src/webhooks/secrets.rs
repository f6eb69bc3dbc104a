//! Signing secrets of endpoints, and their encryption under `WEBHOOK_SECRET`.
//!
//! A secret is in clear text only in memory, and in the responses that show it. A copied database reveals none.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use thiserror::Error;
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::ids::{AccountId, EndpointId};

/// Bytes of a signing secret.
const SECRET_LENGTH: usize = 32;

/// Characters of an entry of `WEBHOOK_SECRET`: as many as 16 random bytes have in hexadecimal.
const SHORTEST_ENTRY: usize = 32;

/// The form of a secret in which Standard Webhooks libraries take it.
const PREFIX: &str = "whsec_";

/// The secret with which calls to one endpoint are signed.
#[derive(Clone)]
pub struct Secret(Zeroizing<[u8; SECRET_LENGTH]>);

impl Secret {
    /// Generates a secret from the operating system's random numbers.
    ///
    /// # Errors
    /// When the operating system has none.
    pub fn generate() -> Result<Self, NoRandomNumbers> {
        let mut bytes = Zeroizing::new([0; SECRET_LENGTH]);
        getrandom::fill(bytes.as_mut_slice())?;
        Ok(Self(bytes))
    }

    /// The key of the signature.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_slice()
    }

    /// The secret as its owner sees it: `whsec_` and base64.
    #[must_use]
    pub fn reveal(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("{PREFIX}{}", BASE64_STANDARD.encode(self.as_bytes())))
    }
}

/// The operating system has no random numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the operating system has no random numbers: {0}")]
pub struct NoRandomNumbers(#[from] getrandom::Error);

impl From<NoRandomNumbers> for sqlx::Error {
    fn from(error: NoRandomNumbers) -> Self {
        Self::Encode(error.into())
    }
}

/// Never shows the secret.
impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Names an entry of `WEBHOOK_SECRET` without revealing it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

impl fmt::Debug for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyId({self})")
    }
}

impl KeyId {
    /// Reads a stored id.
    ///
    /// # Errors
    /// When its length is wrong.
    pub fn of_stored(bytes: &[u8]) -> Result<Self, sqlx::Error> {
        let id = bytes.try_into().map_err(|_| "key_id has not eight bytes");
        id.map(Self).map_err(|error| sqlx::Error::Decode(error.into()))
    }

    /// The id to store.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A secret that only its endpoint, and only an entry of `WEBHOOK_SECRET`, opens: a nonce, and the encrypted secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// The entry.
    pub key_id: KeyId,
    /// The stored bytes.
    pub bytes: Vec<u8>,
}

/// The form in stored responses: the entry's id, a dot, and base64.
impl fmt::Display for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.key_id, BASE64_STANDARD.encode(&self.bytes))
    }
}

impl FromStr for Sealed {
    type Err = NotSealed;

    fn from_str(text: &str) -> Result<Self, NotSealed> {
        let (id, bytes) = text.split_once('.').ok_or(NotSealed)?;
        let id = u64::from_str_radix(id, 16).map_err(|_| NotSealed)?;
        let bytes = BASE64_STANDARD.decode(bytes).map_err(|_| NotSealed)?;
        Ok(Self { key_id: KeyId(id.to_be_bytes()), bytes })
    }
}

/// A text that is no encrypted secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not an encrypted secret")]
pub struct NotSealed;

/// The reason why a stored secret cannot be decrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OpenError {
    /// The entry is not in the list.
    #[error(
        "WEBHOOK_SECRET has no entry with the id {0}, which encrypted a signing secret: append the former value to \
         the list, after a comma"
    )]
    UnknownKey(KeyId),
    /// The row was damaged, or copied from another endpoint.
    #[error(
        "a stored signing secret cannot be decrypted with the entry {0} of WEBHOOK_SECRET: its row was changed outside \
         of payonce; rotate the secret of the endpoint"
    )]
    Damaged(KeyId),
}

/// A text that is not a `WEBHOOK_SECRET`. The error does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "an entry has fewer than {SHORTEST_ENTRY} characters, or others than printable ASCII without spaces. Make an entry \
     with openssl rand -base64 32, and separate several by commas, the newest first"
)]
pub struct InvalidKeyring;

/// The keys in `WEBHOOK_SECRET`: the first one encrypts, all of them decrypt. Cheap to clone.
#[derive(Clone)]
pub struct Keyring {
    newest: Arc<Key>,
    older: Arc<[Key]>,
}

/// Key of the cipher, derived from an entry.
struct Key {
    id: KeyId,
    cipher: LessSafeKey,
}

impl Key {
    /// A hash suffices to derive a key from a random text. It takes base64 and hexadecimal alike.
    fn of(entry: &str) -> Result<Self, InvalidKeyring> {
        let long = entry.len() >= SHORTEST_ENTRY;
        if !long || !entry.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(InvalidKeyring);
        }
        let derived =
            |purpose: &str| Sha256::new_with_prefix(purpose).chain_update(entry).finalize();
        let key = Zeroizing::new(<[u8; 32]>::from(derived("payonce webhook secrets: key\n")));
        let id = derived("payonce webhook secrets: id\n");
        let unbound = UnboundKey::new(&CHACHA20_POLY1305, key.as_slice());
        Ok(Self {
            id: KeyId(id.first_chunk().copied().unwrap_or_default()),
            cipher: LessSafeKey::new(unbound.map_err(|_| InvalidKeyring)?),
        })
    }
}

impl Keyring {
    /// Reads a list, separated by commas.
    ///
    /// # Errors
    /// When an entry is too short to be random, or contains other characters than printable ASCII.
    pub fn parse(list: &str) -> Result<Self, InvalidKeyring> {
        let mut keys = list.split(',').map(|entry| Key::of(entry.trim()));
        let newest = Arc::new(keys.next().ok_or(InvalidKeyring)??);
        Ok(Self { newest, older: keys.collect::<Result<_, _>>()? })
    }

    /// The id of the key that encrypts.
    #[must_use]
    pub fn newest(&self) -> KeyId {
        self.newest.id
    }

    /// The ids of all keys.
    #[must_use]
    pub fn key_ids(&self) -> Vec<KeyId> {
        std::iter::once(&*self.newest).chain(&*self.older).map(|key| key.id).collect()
    }

    /// Encrypts a secret for this endpoint of this account.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn seal(
        &self,
        account_id: AccountId,
        endpoint_id: EndpointId,
        secret: &Secret,
    ) -> Result<Sealed, NoRandomNumbers> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce)?;
        let mut encrypted = secret.as_bytes().to_vec();
        self.newest
            .cipher
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                owner(account_id, endpoint_id),
                &mut encrypted,
            )
            // Only a text of 256 GiB is refused.
            .map_err(|_| NoRandomNumbers(getrandom::Error::UNSUPPORTED))?;
        Ok(Sealed { key_id: self.newest.id, bytes: [&nonce[..], &encrypted].concat() })
    }

    /// Decrypts the secret of this endpoint of this account.
    ///
    /// # Errors
    /// When the key is not in the list, or the secret belongs to another endpoint.
    pub fn open(
        &self,
        account_id: AccountId,
        endpoint_id: EndpointId,
        sealed: &Sealed,
    ) -> Result<Secret, OpenError> {
        let Sealed { key_id, bytes } = sealed;
        let mut keys = std::iter::once(&*self.newest).chain(&*self.older);
        let key = keys.find(|key| key.id == *key_id).ok_or(OpenError::UnknownKey(*key_id))?;
        let damaged = || OpenError::Damaged(*key_id);
        let (nonce, encrypted) = bytes.split_first_chunk().ok_or_else(damaged)?;
        let mut encrypted = Zeroizing::new(encrypted.to_vec());
        let secret = key
            .cipher
            .open_in_place(
                Nonce::assume_unique_for_key(*nonce),
                owner(account_id, endpoint_id),
                &mut encrypted,
            )
            .map_err(|_| damaged())?;
        let secret = <[u8; SECRET_LENGTH]>::try_from(&*secret).map_err(|_| damaged())?;
        Ok(Secret(Zeroizing::new(secret)))
    }
}

/// Never shows the keys.
impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keyring(…)")
    }
}

/// The associated data: a secret that is copied to the row of another endpoint does not open there.
fn owner(account_id: AccountId, endpoint_id: EndpointId) -> Aad<[u8; 32]> {
    let mut ids = [0; 32];
    let (account, endpoint) = ids.split_at_mut(16);
    account.copy_from_slice(Uuid::from(account_id).as_bytes());
    endpoint.copy_from_slice(Uuid::from(endpoint_id).as_bytes());
    Aad::from(ids)
}

#[cfg(test)]
mod tests;
