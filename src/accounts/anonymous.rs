//! Anonymous calls: calls without an API key.
//!
//! They let a new installation work at once, and must never be open by accident. So the first API key ends them
//! permanently under every setting.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use actix_web::{
    HttpRequest,
    http::{
        Version,
        header::{self, HeaderMap},
    },
};

use crate::http::middleware;

/// The callers that need no API key, as long as there has never been one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum AnonymousAccess {
    /// Programs on this machine that call a loopback address without a proxy.
    #[default]
    Loopback,
    /// Everybody who reaches the server.
    True,
    /// Nobody.
    False,
}

impl AnonymousAccess {
    /// Returns why a request must not be anonymous, and what would help, or `None` if it may.
    #[must_use]
    pub fn refusal(self, req: &HttpRequest) -> Option<&'static str> {
        match self {
            Self::False => Some("Anonymous calls are switched off (ANONYMOUS_ACCESS=false)."),
            Self::Loopback if !is_local(req) => Some(
                "Anonymous calls work on a loopback address only, and this server listens on another one: start it with \
                 HOST=127.0.0.1, or with ANONYMOUS_ACCESS=true if everybody who reaches it may pay.",
            ),
            // A web page can have its host's name resolved to 127.0.0.1 (DNS rebinding).
            Self::Loopback if !is_called_local(req) => Some(
                "Anonymous calls work at http://localhost, http://127.0.0.1 and http://[::1] only, and the Host header \
                 names something else: use one of these addresses.",
            ),
            Self::Loopback if is_forwarded(req.headers()) => Some(
                "Anonymous calls must not pass a proxy, and this request has a header that proxies add (Forwarded, Via, \
                 X-Forwarded-…, X-Real-IP and the like): call payonce directly.",
            ),
            // By default nginx uses HTTP/1.0 behind it, sends Host: 127.0.0.1, and adds none of these headers.
            Self::Loopback if req.version() < Version::HTTP_11 => Some(
                "Anonymous calls must not pass a proxy, and this request came by HTTP/1.0, as some proxies send it: call \
                 payonce directly, by HTTP/1.1.",
            ),
            _ if has_foreign_origin(req) => Some(
                "Anonymous calls from web pages of other servers are refused: the Origin header must equal the Host \
                 header, and be an IP address or localhost.",
            ),
            Self::True | Self::Loopback => None,
        }
    }
}

/// Returns whether a program on this machine calls a loopback address without a visible proxy.
#[must_use]
pub fn is_local_caller(req: &HttpRequest) -> bool {
    is_local_peer(req)
        && is_called_local(req)
        && !is_forwarded(req.headers())
        && req.version() >= Version::HTTP_11
}

fn is_local_peer(req: &HttpRequest) -> bool {
    req.peer_addr().is_some_and(|peer| peer.ip().to_canonical().is_loopback())
}

/// Returns whether both ends of the connection are on this machine.
fn is_local(req: &HttpRequest) -> bool {
    middleware::listener(req).is_some_and(|listener| listener.ip().to_canonical().is_loopback())
        && is_local_peer(req)
}

/// Returns whether Host and target name this machine's loopback.
fn is_called_local(req: &HttpRequest) -> bool {
    let mut hosts = req.headers().get_all(header::HOST);
    let host = hosts.next().and_then(|host| host.to_str().ok());
    let target = req.uri().authority().is_none_or(|target| is_loopback(target.as_str()));
    target && hosts.next().is_none() && host.is_some_and(is_loopback)
}

/// Browsers send `Origin` with every `POST` of a page. A host name in it proves nothing, even if it equals `Host`: its
/// owner can have it resolved to this server (DNS rebinding). An IP address cannot be rebound.
fn has_foreign_origin(req: &HttpRequest) -> bool {
    let mut origins = req.headers().get_all(header::ORIGIN);
    let Some(origin) = origins.next() else { return false };
    let host = req.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let own = origin.to_str().ok().and_then(|origin| {
        let authority = origin.strip_prefix("http://").or(origin.strip_prefix("https://"))?;
        Some(host?.eq_ignore_ascii_case(authority) && address(authority).is_some())
    });
    origins.next().is_some() || own != Some(true)
}

/// Returns whether a host, with or without a port, is a loopback address.
fn is_loopback(authority: &str) -> bool {
    address(authority).is_some_and(|address| address.is_loopback())
}

/// Returns the IP address of a host, with or without a port. The only name that has one is localhost.
fn address(authority: &str) -> Option<IpAddr> {
    let (address, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (address, port) = rest.split_once(']')?;
        (Ipv6Addr::from_str(address).ok()?.into(), port)
    } else {
        let (host, port) = authority.split_at(authority.find(':').unwrap_or(authority.len()));
        let named = host.eq_ignore_ascii_case("localhost");
        let address = if named { Ipv4Addr::LOCALHOST } else { Ipv4Addr::from_str(host).ok()? };
        (IpAddr::V4(address), port)
    };
    is_port(port).then(|| address.to_canonical())
}

/// Returns whether a text is empty, or a colon and digits.
fn is_port(text: &str) -> bool {
    text.is_empty()
        || text.strip_prefix(':').is_some_and(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Returns whether a proxy added headers. One that adds none can't be told from a caller.
fn is_forwarded(headers: &HeaderMap) -> bool {
    headers.keys().any(|name| {
        let name = name.as_str();
        matches!(name, "forwarded" | "via")
            || name.ends_with("-ip")
            || name.starts_with("x-forwarded-")
            || name.starts_with("x-envoy-")
    })
}

#[cfg(test)]
mod tests {
    use super::is_loopback;

    #[test]
    fn a_loopback_host_is_told_from_all_others() {
        for host in [
            "localhost",
            "LocalHost:5000",
            "127.0.0.1",
            "127.0.0.1:5000",
            "127.1.2.3:1",
            "[::1]",
            "[::1]:5000",
            "[0:0:0:0:0:0:0:1]",
            "[::ffff:127.0.0.1]",
        ] {
            assert!(is_loopback(host), "{host}");
        }
        for host in [
            "",
            "example.org",
            "localhost.example.org",
            "127.0.0.1.example.org",
            "example.org:127",
            "localhost:5000@example.org",
            "user@localhost",
            "localhost:http",
            "0.0.0.0",
            "128.0.0.1",
            "10.0.0.1:5000",
            "0177.0.0.1",
            "::1",
            "[::2]",
            "[::1",
            "[::1]x",
            "[::1]example.org",
            "[127.0.0.1]",
        ] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
