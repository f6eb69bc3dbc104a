//! Where a storm goes: a URL that plain HTTP reaches.

use std::{fmt, str::FromStr};

use actix_http::{
    Uri,
    header::HeaderValue,
    uri::{Authority, Scheme},
};
use thiserror::Error;

/// The address of a payonce, or of what stands before one.
#[derive(Debug, Clone)]
pub struct Target {
    authority: Authority,
    /// What stands before each path: nothing, or a path without a slash at its end.
    prefix: String,
}

/// Why a URL can't be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum InvalidTarget {
    /// It asks for TLS.
    #[error(
        "payonce speaks plain HTTP, and so does the storm: give the address behind what ends TLS, \
         as http://10.0.0.5:5000"
    )]
    Tls,
    /// It is no URL that says where to connect to.
    #[error("write it as http://127.0.0.1:5000")]
    NotAnAddress,
    /// More stands in it than where to connect to.
    #[error(
        "it may have a host, a port and a path, and nothing else; an API key is read from \
         PAYONCE_API_KEY"
    )]
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
        // A parser of URLs drops what it doesn't send.
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

    /// What stands in the header Host.
    pub(super) fn host(&self) -> Result<HeaderValue, InvalidTarget> {
        HeaderValue::from_str(self.authority.as_str()).map_err(|_| InvalidTarget::NotAnAddress)
    }

    /// What stands in a request's first line for a path of payonce.
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
    fn a_target_is_where_to_connect_to_and_what_to_ask_for() {
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
    fn what_cannot_be_a_target_says_why() {
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
