//! Calls receivers: one signed POST, and what was heard.
//!
//! A receiver is a stranger. It can't hold a call beyond its time-out, make it read or keep more than some KiB, or send it
//! elsewhere. The client is hyper's own, which follows no redirect, reads no proxy variables, keeps no cookies and
//! decompresses nothing.

use std::{
    error::Error,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::Incoming,
    header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT},
};
use hyper_util::{
    client::legacy::{self, Client},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{ClientConfig, RootCertStore, crypto::ring};
use tokio::time::{Instant, timeout_at};

use super::{Guard, address, connector::Connector, secrets::Secret, signature::signatures};
use crate::{events::EventId, text};

/// The longest that a call takes.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest pause that a receiver can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// Bytes of a response's body that are read.
const MAX_RESPONSE: usize = 4096;

/// The time for that.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);

/// Bytes of a response's head.
const MAX_HEAD: usize = 16 * 1024;

/// Connections that are kept for the next call to a host.
const IDLE_PER_HOST: usize = 8;

/// Shorter than the keep-alive of nearly all servers, so that they don't close a connection while it is being used.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);

/// Characters of an error's text.
const MAX_ERROR: usize = 200;

const AGENT: &str = concat!("payonce/", env!("CARGO_PKG_VERSION"));

/// One attempt to deliver an event.
#[derive(Debug)]
pub struct Call<'a> {
    /// The URL of the endpoint.
    pub url: &'a str,
    /// The event, which is the same in every attempt.
    pub id: &'a EventId,
    /// The event as JSON.
    pub body: Bytes,
    /// The endpoint's secret; also the previous one, for a while after a rotation.
    pub secrets: &'a [Secret],
}

/// The result of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// A 2xx: it has the event.
    Accepted(u16),
    /// Another status.
    Refused {
        /// The status.
        status: u16,
        /// The pause that it asks for; at most an hour.
        retry_after: Option<Duration>,
    },
    /// No response, and why not, without the URL and without secrets.
    Failed(String),
}

/// Calls receivers.
#[derive(Clone)]
pub struct Caller {
    client: Client<Connector, Full<Bytes>>,
    timeout: Duration,
}

impl Caller {
    /// A caller that trusts the certificates of the operating system, or of `SSL_CERT_FILE` and `SSL_CERT_DIR`.
    ///
    /// # Errors
    /// When TLS can't be configured.
    pub fn new(guard: Guard) -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            log::warn!(
                "no root certificates were found, so webhooks to https:// URLs will fail: install ca-certificates, or set \
                 SSL_CERT_FILE"
            );
        }
        Self::with(guard, roots, CALL_TIMEOUT)
    }

    /// A caller that trusts these certificates, and gives up after this time.
    ///
    /// # Errors
    /// When TLS can't be configured.
    pub fn with(
        guard: Guard,
        roots: RootCertStore,
        timeout: Duration,
    ) -> Result<Self, rustls::Error> {
        let tls = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .http1_max_buf_size(MAX_HEAD)
            .build(Connector { guard, tls: Arc::new(tls), timeout });
        Ok(Self { client, timeout })
    }

    /// Sends an event once.
    pub async fn call(&self, call: Call<'_>) -> Heard {
        let deadline = Instant::now() + self.timeout;
        match timeout_at(deadline, self.send(call)).await {
            Ok(Ok(response)) => hear(response, deadline).await,
            Ok(Err(reason)) => Heard::Failed(reason),
            Err(_) => {
                let limit = humantime::format_duration(self.timeout);
                Heard::Failed(format!("no response within {limit}"))
            }
        }
    }

    async fn send(&self, call: Call<'_>) -> Result<Response<Incoming>, String> {
        self.client.request(request(call)?).await.map_err(|error| shown(&error))
    }
}

/// The verdict is in the status. The body is read as far as it comes soon, so that the connection can serve the next call.
async fn hear(response: Response<Incoming>, deadline: Instant) -> Heard {
    let status = response.status().as_u16();
    let retry_after = retry_after(response.headers(), SystemTime::now());
    let soon = Instant::now() + BODY_TIMEOUT;
    // A connection whose response was not read to its end is closed.
    let _ = timeout_at(soon.min(deadline), read(response)).await;
    match status {
        200..=299 => Heard::Accepted(status),
        _ => Heard::Refused { status, retry_after },
    }
}

fn request(call: Call<'_>) -> Result<Request<Full<Bytes>>, String> {
    let url = address::parse(call.url).map_err(|refusal| refusal.to_string())?;
    let id = call.id.to_string();
    // Receivers refuse timestamps that are more than five minutes off, so each attempt has its own.
    let timestamp = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let signatures = signatures(call.secrets, &id, timestamp, &call.body);
    Request::post(url.as_str())
        .header(CONTENT_TYPE, "application/json")
        .header(USER_AGENT, AGENT)
        .header("webhook-id", id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signatures)
        .body(Full::new(call.body))
        .map_err(|error| error.to_string())
}

async fn read(response: Response<Incoming>) {
    let (mut body, mut read) = (response.into_body(), 0);
    while let Some(Ok(frame)) = body.frame().await {
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > MAX_RESPONSE {
            return;
        }
    }
}

/// The pause of `Retry-After`, which is a number of seconds or a date.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let pause = if value.bytes().all(|byte| byte.is_ascii_digit()) && !value.is_empty() {
        value.parse().map_or(Duration::MAX, Duration::from_secs)
    } else {
        httpdate::parse_http_date(value).ok()?.duration_since(now).unwrap_or_default()
    };
    Some(pause.min(MAX_RETRY_AFTER))
}

/// The innermost cause, which says the most. The receiver may have chosen its text.
fn shown(error: &legacy::Error) -> String {
    let mut cause: &dyn Error = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let stage = if error.is_connect() { "connection failed: " } else { "" };
    text::escaped(&format!("{stage}{cause}")).chars().take(MAX_ERROR).collect()
}

#[cfg(test)]
mod tests;
