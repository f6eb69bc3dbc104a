//! Signatures of webhooks, as [Standard Webhooks](https://www.standardwebhooks.com) specifies them.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::hmac;

use super::secrets::Secret;

/// The value of `webhook-signature`: one signature for each secret, so that a receiver with either of them accepts.
pub(super) fn signatures(secrets: &[Secret], id: &str, timestamp: u64, body: &[u8]) -> String {
    let signatures: Vec<String> =
        secrets.iter().map(|secret| signature(secret.as_bytes(), id, timestamp, body)).collect();
    signatures.join(" ")
}

fn signature(secret: &[u8], id: &str, timestamp: u64, body: &[u8]) -> String {
    let mut signed = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret));
    signed.update(format!("{id}.{timestamp}.").as_bytes());
    signed.update(body);
    format!("v1,{}", BASE64_STANDARD.encode(signed.sign()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From the tests of the crate, the PyPI package and the npm package `standardwebhooks`.
    #[test]
    fn a_signature_is_that_of_the_published_libraries() {
        let secret = BASE64_STANDARD.decode("C2FVsBQIhrscChlQIMV+b5sSYspob7oD").unwrap();
        let body = br#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            signature(&secret, "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
    }

    #[test]
    fn each_secret_adds_a_signature() {
        let secrets = [Secret::generate().unwrap(), Secret::generate().unwrap()];
        let both = signatures(&secrets, "evt_1", 1, b"{}");
        let alone =
            secrets.each_ref().map(|secret| signature(secret.as_bytes(), "evt_1", 1, b"{}"));
        assert_eq!(both, alone.join(" "));
    }
}
