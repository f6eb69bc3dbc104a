//! The guard against server-side request forgery (SSRF): no webhook reaches the operator's own network.
//!
//! A name can resolve to another address each time. So the same check runs when an endpoint is created and on every
//! connect, and the connection goes to exactly the addresses that were checked.

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use hyper::Uri;
use thiserror::Error;
use tokio::{sync::Semaphore, time::timeout};
use url::Url;

use super::networks::{AllowedNetworks, is_global};

/// The longest URL of an endpoint, in characters.
pub const MAX_URL_LENGTH: usize = 2048;

/// A resolver gives up later, and a request for a new endpoint waits for it.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);

/// Each lookup occupies a thread until the system's resolver returns, and names of clients can make it hang.
const LOOKUPS_AT_ONCE: usize = 32;

/// A connect tries one address after the other, so a name must not lead to many.
const MOST_ADDRESSES: usize = 8;

/// The reason why a URL is refused. The text never contains an address, which would show the operator's network to clients.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Refusal {
    /// It is too long.
    #[error("too long; expected at most {MAX_URL_LENGTH} characters")]
    TooLong,
    /// It is no absolute URL.
    #[error("not a URL ({0}); expected one such as https://example.com/webhooks")]
    NotAUrl(url::ParseError),
    /// It contains white space or control characters, which parsers drop.
    #[error("expected a URL without spaces and control characters; write them percent-encoded")]
    Invisible,
    /// It has another scheme than `http` and `https`.
    #[error("expected an https:// URL")]
    Scheme,
    /// It contains a user or a password.
    #[error("expected a URL without a user and password; each call has a signature instead")]
    UserInfo,
    /// It contains a fragment, which is never sent.
    #[error("expected a URL without a fragment (#)")]
    Fragment,
    /// Its name has no address.
    #[error("the host can't be resolved; expected a name that has an address")]
    Unresolvable,
    /// It leads to an address that is neither public nor allowed.
    #[error(
        "the host has an address that is not public; expected public addresses only. The operator can allow networks with \
         WEBHOOK_ALLOWED_NETWORKS"
    )]
    NotPublic,
    /// It is an `http` URL of a public address.
    #[error(
        "expected an https:// URL; http:// is for networks that the operator allows with WEBHOOK_ALLOWED_NETWORKS"
    )]
    NotEncrypted,
}

/// Looks up the addresses of names.
pub trait Resolver: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// The resolver of the operating system.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, name: String) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// Parses the URL of an endpoint. The host is not resolved.
///
/// Browsers' rules apply (the WHATWG URL standard), so `http://0x7f.1/` has the host 127.0.0.1 here and in the client
/// that connects.
///
/// # Errors
/// When it is no URL that an endpoint may have.
pub fn parse(text: &str) -> Result<Url, Refusal> {
    if text.len() > MAX_URL_LENGTH {
        return Err(Refusal::TooLong);
    }
    if text.chars().any(|character| character.is_control() || character.is_whitespace()) {
        return Err(Refusal::Invisible);
    }
    let url = Url::parse(text).map_err(Refusal::NotAUrl)?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Refusal::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refusal::UserInfo);
    }
    if url.fragment().is_some() {
        return Err(Refusal::Fragment);
    }
    // The client reads it once more, and refuses some characters in hosts.
    if url.as_str().parse::<Uri>().is_err() {
        return Err(Refusal::NotAUrl(url::ParseError::InvalidDomainCharacter));
    }
    // Percent-encoding has made it longer.
    if url.as_str().len() > MAX_URL_LENGTH {
        return Err(Refusal::TooLong);
    }
    Ok(url)
}

/// Decides which addresses webhooks reach.
#[derive(Clone)]
pub struct Guard {
    allowed: AllowedNetworks,
    resolver: Arc<dyn Resolver>,
    lookups: Arc<Semaphore>,
    lookup_timeout: Duration,
}

impl Guard {
    /// A guard that opens some networks besides the public internet.
    #[must_use]
    pub fn new(allowed: AllowedNetworks, resolver: impl Resolver) -> Self {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_AT_ONCE));
        Self { allowed, resolver: Arc::new(resolver), lookups, lookup_timeout: LOOKUP_TIMEOUT }
    }

    /// Checks the URL of an endpoint: parses it, and resolves its host.
    ///
    /// # Errors
    /// When no webhook may be sent there.
    pub async fn check(&self, text: &str) -> Result<Url, Refusal> {
        let url = parse(text)?;
        self.addresses(url.host_str().unwrap_or_default(), url.scheme() == "https").await?;
        Ok(url)
    }

    /// The addresses of a URL's host, if webhooks may reach all of them.
    pub(super) async fn addresses(
        &self,
        host: &str,
        encrypted: bool,
    ) -> Result<Vec<IpAddr>, Refusal> {
        let addresses = match host.trim_matches(['[', ']']).parse() {
            Ok(address) => vec![address],
            Err(_) => self.look_up(host).await?,
        };
        addresses.iter().try_for_each(|&address| self.permit(address, encrypted))?;
        Ok(addresses.into_iter().take(MOST_ADDRESSES).collect())
    }

    /// Allows an address that the operator named, and a public one if the connection is encrypted.
    fn permit(&self, address: IpAddr, encrypted: bool) -> Result<(), Refusal> {
        match (self.allowed.contains(address), is_global(address), encrypted) {
            (true, _, _) | (false, true, true) => Ok(()),
            (false, true, false) => Err(Refusal::NotEncrypted),
            (false, false, _) => Err(Refusal::NotPublic),
        }
    }

    async fn look_up(&self, name: &str) -> Result<Vec<IpAddr>, Refusal> {
        let lookup = async {
            let permit = Arc::clone(&self.lookups).acquire_owned().await.ok()?;
            let found = self.resolver.resolve(name.to_owned());
            // The system's resolver can't be interrupted, so its permit returns with it and not with the time-out.
            let lookup = tokio::spawn(async move {
                let found = found.await;
                drop(permit);
                found
            });
            lookup.await.ok()?.ok()
        };
        let found = timeout(self.lookup_timeout, lookup).await.ok().flatten();
        found.filter(|addresses| !addresses.is_empty()).ok_or(Refusal::Unresolvable)
    }
}

#[cfg(test)]
pub(super) mod tests;
