//! Authentication of callers.

use std::time::Duration;

use actix_web::{
    FromRequest, HttpRequest,
    dev::Payload,
    http::header::{self, HeaderValue},
    web,
};
use futures_util::future::LocalBoxFuture;
use tokio::time::{Instant, timeout};

use super::{
    anonymous::AnonymousAccess,
    api_key::KeyHash,
    directory::{Directory, View},
};
use crate::{
    http::{
        RequestContext,
        problem::{Kind, Problem},
    },
    ids::AccountId,
    state::AppState,
};

/// Longest time that a request with an unknown key waits for the directory's next look.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The challenge to requests without a key (RFC 6750 §3).
const CHALLENGE: HeaderValue = HeaderValue::from_static("Bearer");

/// The challenge to requests with an invalid key (RFC 6750 §3.1).
const CHALLENGE_INVALID: HeaderValue = HeaderValue::from_static("Bearer error=\"invalid_token\"");

/// The advice to requests without a key.
const SHOW_A_KEY: &str =
    "Send Authorization: Bearer with an API key, which payonce api-key create creates";

/// The authenticated caller of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The account that the request acts for.
    pub account_id: AccountId,
}

/// Authenticates callers.
#[derive(Debug)]
pub struct Authenticator {
    directory: Directory,
    anonymous: AnonymousAccess,
    longest_wait: Duration,
}

/// The identity that a request claims, to be checked against the directory.
#[derive(Debug, Clone, Copy)]
enum Claim {
    /// The account of this key.
    Key(KeyHash),
    /// The default account, without a key.
    Anonymous,
}

impl Authenticator {
    /// Authenticates by `directory`. `deadline` is the request deadline.
    #[must_use]
    pub fn new(directory: Directory, anonymous: AnonymousAccess, deadline: Duration) -> Self {
        Self { directory, anonymous, longest_wait: LONGEST_WAIT.min(deadline / 2) }
    }

    /// Returns whether there has ever been an API key.
    #[must_use]
    pub fn had_keys(&self) -> bool {
        self.directory.view().had_keys()
    }

    /// Authenticates the caller of a request.
    async fn authenticate(&self, req: &HttpRequest) -> Result<Caller, Problem> {
        let claim = self.claim(req)?;
        // Not in the match: the view would be locked while the directory is asked to look again.
        let judged = claim.judged_by(&self.directory.view(), Instant::now());
        match judged {
            Some(judged) => judged,
            None => self.ask(claim).await,
        }
    }

    /// Reads the identity that a request claims.
    fn claim(&self, req: &HttpRequest) -> Result<Claim, Problem> {
        if let Some(hash) = shown_key(req)? {
            return Ok(Claim::Key(hash));
        }
        if self.had_keys() {
            return Err(anonymous_calls_ended());
        }
        match self.anonymous.refusal(req) {
            None => Ok(Claim::Anonymous),
            Some(reason) => {
                let detail = format!("{SHOW_A_KEY}. {reason}");
                Err(unauthorized(CHALLENGE).with_detail(detail))
            }
        }
    }

    /// Waits until the directory has looked again.
    async fn ask(&self, claim: Claim) -> Result<Caller, Problem> {
        let asked = Instant::now();
        let mut views = self.directory.look_again();
        let answered = async {
            loop {
                if let Some(answer) = claim.judged_by(&views.borrow_and_update(), asked) {
                    return Some(answer);
                }
                views.changed().await.ok()?;
            }
        };
        timeout(self.longest_wait, answered).await.ok().flatten().unwrap_or_else(|| {
            Err(Problem::new(Kind::DatabaseUnavailable)
                .caused_by("API keys could not be looked up in time"))
        })
    }

    /// Stores the last use of keys, and stops following their changes.
    pub async fn close(&self) {
        self.directory.close().await;
    }
}

impl Claim {
    /// Checks the claim by a view of the directory. `None` means that a newer view is needed. `asked` is the time of the
    /// request.
    fn judged_by(self, view: &View, asked: Instant) -> Option<Result<Caller, Problem>> {
        match self {
            Self::Key(hash) => match view.account_of(hash) {
                Some(account_id) => view.is_fresh().then_some(Ok(Caller { account_id })),
                // The key may be newer than the view.
                None => view.shows(asked).then(|| Err(invalid_key())),
            },
            Self::Anonymous if view.had_keys() => Some(Err(anonymous_calls_ended())),
            Self::Anonymous => {
                view.is_fresh().then_some(Ok(Caller { account_id: AccountId::DEFAULT }))
            }
        }
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(req: &HttpRequest, _: &mut Payload) -> Self::Future {
        let req = req.clone();
        Box::pin(async move {
            let state = req
                .app_data::<web::Data<AppState>>()
                .ok_or_else(|| Problem::new(Kind::Internal).caused_by("no state"))?;
            let caller = state.authenticator.authenticate(&req).await?;
            RequestContext::set_account(&req, caller.account_id);
            Ok(caller)
        })
    }
}

/// Returns the well-formed key in the Authorization header, or `None` without that header.
fn shown_key(req: &HttpRequest) -> Result<Option<KeyHash>, Problem> {
    let mut values = req.headers().get_all(header::AUTHORIZATION);
    let Some(value) = values.next() else { return Ok(None) };
    let value = value.to_str().map_err(|_| invalid_key())?;
    if values.next().is_some() {
        return Err(invalid_key());
    }
    let (scheme, token) = value.split_once(' ').unwrap_or((value, ""));
    if !scheme.eq_ignore_ascii_case("Bearer") || token.is_empty() {
        return Err(unauthorized(CHALLENGE).with_detail(format!("{SHOW_A_KEY}.")));
    }
    let hash = KeyHash::of_shown(token.trim_start_matches(' ').as_bytes());
    hash.map(Some).map_err(|_| invalid_key())
}

fn unauthorized(challenge: HeaderValue) -> Problem {
    Problem::new(Kind::Unauthorized).with_header(header::WWW_AUTHENTICATE, challenge)
}

/// The response to unknown, malformed and revoked keys.
fn invalid_key() -> Problem {
    unauthorized(CHALLENGE_INVALID).with_detail(
        "This is not a valid API key: it was never created here, is incomplete, or was revoked. Send a valid key of the \
         same account.",
    )
}

fn anonymous_calls_ended() -> Problem {
    unauthorized(CHALLENGE).with_detail(format!(
        "{SHOW_A_KEY}. Anonymous calls ended permanently when the first API key was created. If this request was \
         sent before without an API key, it may have been executed for the account `default`: send it again with a \
         key of that account. With a key of another account it would be executed a second time."
    ))
}
