//! The server of a storm: a URL for plain HTTP.

use std::{fmt, str::FromStr};

use actix_http::{
    Uri,
    header::HeaderValue,
    uri::{Authority, Scheme},
};
use thiserror::Error;

/// The address of payonce, or of a proxy in front of it.
#[derive(Debug, Clone)]
pub struct Target {
    authority: Authority,
    /// The prefix of each path: empty, or a path without a slash at its end.
    prefix: String,
}

/// A reason to refuse a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidTarget {
    /// It requires TLS.
    #[error(
        "payonce and the storm use plain HTTP: give the address behind the proxy that terminates TLS, \
         such as http://10.0.0.5:5000"
    )]
    Tls,
    /// It is not an HTTP URL.
    #[error("write it as http://127.0.0.1:5000")]
    NotAnAddress,
    /// It has more than an address and a path.
    #[error("only a host, a port and a path are allowed; set an API key in PAYONCE_API_KEY")]
    TooMuch,
}

impl FromStr for Target {
    type Err = InvalidTarget;

    fn from_str(url: &str) -> Result<Self, InvalidTarget> {
        let uri: Uri = url.parse().map_err(|_| InvalidTarget::NotAnAddress)?;
        let authority = uri.authority().ok_or(InvalidTarget::NotAnAddress)?;
        if uri.scheme() == Some(&Scheme::HTTPS) {
            return Err(InvalidTarget::Tls);
        }
        if uri.scheme() != Some(&Scheme::HTTP) || authority.host().is_empty() {
            return Err(InvalidTarget::NotAnAddress);
        }
        // The parser drops these silently.
        if authority.as_str().contains('@') || url.contains(['?', '#']) {
            return Err(InvalidTarget::TooMuch);
        }
        Ok(Self {
            authority: authority.clone(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }
}

impl Target {
    /// Host and port to connect to.
    pub(super) fn address(&self) -> String {
        format!("{}:{}", self.authority.host(), self.authority.port_u16().unwrap_or(80))
    }

    /// The value of the Host header.
    pub(super) fn host(&self) -> Result<HeaderValue, InvalidTarget> {
        HeaderValue::from_str(self.authority.as_str()).map_err(|_| InvalidTarget::NotAnAddress)
    }

    /// The target of a request for a path of payonce.
    pub(super) fn uri(&self, path: &str) -> Result<Uri, InvalidTarget> {
        format!("{}{path}", self.prefix).parse().map_err(|_| InvalidTarget::NotAnAddress)
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}{}", self.authority, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::{InvalidTarget, Target};

    #[test]
    fn a_url_gives_an_address_and_the_target_of_requests() {
        for (url, address, uri) in [
            ("http://127.0.0.1:5000", "127.0.0.1:5000", "/payment"),
            ("http://pay.example/", "pay.example:80", "/payment"),
            ("http://[::1]:5000/pay/once/", "[::1]:5000", "/pay/once/payment"),
        ] {
            let target: Target = url.parse().unwrap();
            assert_eq!(target.address(), address);
            assert_eq!(target.uri("/payment").unwrap(), uri);
            assert_eq!(target.to_string(), url.trim_end_matches('/'));
        }
    }

    #[test]
    fn an_invalid_url_is_refused_with_the_reason() {
        for (url, why) in [
            ("https://pay.example", InvalidTarget::Tls),
            ("127.0.0.1:5000", InvalidTarget::NotAnAddress),
            ("pay.example", InvalidTarget::NotAnAddress),
            ("ftp://pay.example", InvalidTarget::NotAnAddress),
            ("http://", InvalidTarget::NotAnAddress),
            ("", InvalidTarget::NotAnAddress),
            ("http://ada:secret@pay.example", InvalidTarget::TooMuch),
            ("http://pay.example/?a=1", InvalidTarget::TooMuch),
            ("http://pay.example/#a", InvalidTarget::TooMuch),
        ] {
            assert_eq!(url.parse::<Target>().map(|_| ()), Err(why), "{url}");
        }
    }
}
