//! Access to the metrics.

use std::fmt;

use actix_web::{
    HttpRequest,
    http::header::{self, HeaderValue},
};
use sha2::{Digest, Sha256};

use crate::{
    accounts::is_local_caller,
    config::Settings,
    http::problem::{Kind, Problem},
};

/// The secret that readers of metrics send, kept as a hash.
#[derive(Clone, PartialEq, Eq)]
pub struct Token([u8; 32]);

impl Token {
    /// Hashes a token.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Compares in constant time.
    fn is(&self, shown: &str) -> bool {
        let Self(shown) = Self::new(shown);
        self.0.iter().zip(shown).fold(0, |differing, (a, b)| differing | (a ^ b)) == 0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

/// The readers that an address serves metrics to.
#[derive(Debug, Clone)]
pub enum Access {
    /// Readers that send this token.
    Token(Token),
    /// Everybody who reaches the address, which serves nothing else.
    Everybody,
    /// Programs on this machine, until the first API key is created. To others there are no metrics.
    Local,
}

impl Access {
    /// Returns the access that these settings give.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        match &settings.metrics_token {
            Some(token) => Self::Token(token.clone()),
            None if settings.metrics_address.is_some() => Self::Everybody,
            None => Self::Local,
        }
    }

    /// Checks that a request may read metrics; `had_api_keys` says whether there has ever been an API key.
    ///
    /// # Errors
    /// `unauthorized` or `not-found`.
    pub fn check(&self, req: &HttpRequest, had_api_keys: bool) -> Result<(), Problem> {
        match self {
            Self::Local if !is_local_caller(req) => Err(Kind::NotFound.into()),
            // A proxy on this machine that adds no header can't be told from a program.
            Self::Local if had_api_keys => Err(Problem::new(Kind::NotFound).with_detail(
                "Metrics are served here only until the first API key is created. Set METRICS_ADDRESS or METRICS_TOKEN.",
            )),
            Self::Everybody | Self::Local => Ok(()),
            Self::Token(token) if shown(req).is_some_and(|shown| token.is(shown)) => Ok(()),
            Self::Token(_) => Err(Problem::new(Kind::Unauthorized)
                .with_detail("Send Authorization: Bearer with the value of METRICS_TOKEN.")
                .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"))),
        }
    }
}

fn shown(req: &HttpRequest) -> Option<&str> {
    let (scheme, token) =
        req.headers().get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("Bearer").then(|| token.trim_start_matches(' '))
}
