//! After `WEBHOOK_SECRET` got a new first entry, signing secrets are encrypted anew under it. Receivers notice nothing.

use log::{error, info, warn};
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};

use super::{
    secrets::{KeyId, Keyring, OpenError, Sealed, Secret},
    store,
};
use crate::{
    db,
    idempotency::loggable,
    ids::{AccountId, EndpointId},
};

/// Endpoints that are read at once.
const PAGE: i64 = 100;

/// The encrypted secrets of an endpoint, all under one key.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(super) struct SealedSecrets {
    pub(super) account_id: AccountId,
    pub(super) endpoint_id: EndpointId,
    pub(super) key_id: Vec<u8>,
    pub(super) secret: Vec<u8>,
    pub(super) previous_secret: Option<Vec<u8>>,
}

/// The result of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resealed {
    /// Endpoints whose secrets are now under the newest key.
    pub endpoints: u64,
    /// Endpoints whose secrets cannot be decrypted.
    pub unreadable: u64,
    /// The error of the first of them.
    pub error: Option<OpenError>,
}

/// Encrypts the secrets of all endpoints under the newest key.
///
/// # Errors
/// When the database fails, or the operating system has no random numbers.
pub async fn reseal(conn: &mut PgConnection, keyring: &Keyring) -> Result<Resealed, sqlx::Error> {
    let mut done = Resealed::default();
    let mut after = None;
    loop {
        let page = store::sealed_under_others(conn, keyring.newest(), after, PAGE).await?;
        let Some(last) = page.last() else { return Ok(done) };
        after = Some((last.account_id, last.endpoint_id));
        for found in &page {
            match resealed(keyring, found)? {
                Ok(new) => done.endpoints += store::replace_secrets(conn, found, &new).await?,
                Err(error) => {
                    done.unreadable += 1;
                    done.error.get_or_insert(error);
                }
            }
        }
    }
}

/// The same secrets under the newest key.
fn resealed(
    keyring: &Keyring,
    found: &SealedSecrets,
) -> Result<Result<SealedSecrets, OpenError>, sqlx::Error> {
    let SealedSecrets { account_id, endpoint_id, .. } = *found;
    let key_id = KeyId::of_stored(&found.key_id)?;
    let open = |bytes: &[u8]| {
        keyring.open(account_id, endpoint_id, &Sealed { key_id, bytes: bytes.to_vec() })
    };
    let opened = open(&found.secret)
        .and_then(|secret| Ok((secret, found.previous_secret.as_deref().map(open).transpose()?)));
    let (secret, previous) = match opened {
        Ok(secrets) => secrets,
        Err(error) => return Ok(Err(error)),
    };
    let seal = |secret: &Secret| {
        Ok::<_, sqlx::Error>(keyring.seal(account_id, endpoint_id, secret)?.bytes)
    };
    Ok(Ok(SealedSecrets {
        key_id: keyring.newest().as_bytes().to_vec(),
        secret: seal(&secret)?,
        previous_secret: previous.as_ref().map(seal).transpose()?,
        ..*found
    }))
}

/// Encrypts the secrets anew when a server starts, and logs what an operator must know.
pub async fn at_start(options: PgConnectOptions, keyring: Option<Keyring>) {
    let checked = async {
        let mut conn = db::connect(&options).await?;
        check(&mut conn, keyring).await?;
        conn.close().await
    };
    if let Err(error) = checked.await {
        warn!("signing secrets were not checked: {}", loggable(&error));
    }
}

async fn check(conn: &mut PgConnection, keyring: Option<Keyring>) -> Result<(), sqlx::Error> {
    let Some(keyring) = keyring else {
        if store::any(conn).await? {
            error!(
                "there are webhook endpoints, and WEBHOOK_SECRET is not set: nothing is sent to them"
            );
        }
        return Ok(());
    };
    let Resealed { endpoints, unreadable, error } = reseal(conn, &keyring).await?;
    if endpoints > 0 {
        info!(
            "encrypted the signing secrets of {endpoints} webhook endpoints under the first entry of WEBHOOK_SECRET"
        );
    }
    if let Some(error) = error {
        error!("nothing is sent to {unreadable} webhook endpoints: {error}");
    }
    Ok(())
}
