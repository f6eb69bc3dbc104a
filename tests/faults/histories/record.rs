//! The record of a history, and the checker that finds broken promises in it.

use std::time::Instant;

use super::{PAID, Request};
use crate::support::client::Response;

/// A request and its response.
#[derive(Debug, Clone)]
pub struct Event {
    pub key: u8,
    pub request: Request,
    pub begun: Instant,
    pub ended: Instant,
    /// 0: the connection failed.
    pub status: u16,
    pub body: String,
    /// True if the payment or refund was in the database when the response arrived.
    pub committed: bool,
}

impl Event {
    /// True if it is final for the key.
    pub fn is_final(&self) -> bool {
        matches!(self.status, 200 | 201 | 402 | 410 | 422)
    }

    pub fn says_voided(&self) -> bool {
        self.status == 410 && self.body.contains("\"idempotency-key-voided\"")
    }
}

/// The state of a key as it was reported, with its execution id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Unknown,
    Completed(String),
    Refused,
    Expired(String),
    Voided,
}

impl State {
    pub fn read(response: &Response) -> Self {
        match response.field("state").as_str() {
            "unknown" => Self::Unknown,
            "completed" => Self::Completed(response.field("execution_id")),
            "refused" => Self::Refused,
            "expired" => Self::Expired(response.field("execution_id")),
            "voided" => Self::Voided,
            other => panic!("{other}"),
        }
    }

    /// The name of the state.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Completed(_) => "completed",
            Self::Refused => "refused",
            Self::Expired(_) => "expired",
            Self::Voided => "voided",
        }
    }
}

/// A request that read or voided a key, and its response.
#[derive(Debug, Clone)]
pub struct Told {
    pub key: u8,
    pub voids: bool,
    pub begun: Instant,
    pub ended: Instant,
    /// 0: the connection failed.
    pub status: u16,
    /// `None` if the response contains no state.
    pub state: Option<State>,
}

impl Told {
    /// True if it is final for the key.
    pub fn is_final(&self) -> bool {
        self.state.as_ref().is_some_and(|state| *state != State::Unknown)
    }
}

/// An executed key in the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Used {
    pub key: u8,
    pub request: Request,
    /// The payment's or refund's id; `None` for a refund that was refused.
    pub made: Option<String>,
}

/// The payment that was created before, as it is in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Paid {
    pub refunded: i64,
}

/// The time at which responses expired.
#[derive(Debug, Clone, Copy)]
pub struct Expiry {
    pub begun: Instant,
    /// The time from which readers of a key see it.
    pub ended: Instant,
    /// The time from which every retry sees it.
    pub shown: Instant,
}

#[derive(Debug, Default)]
pub struct Record {
    pub events: Vec<Event>,
    pub told: Vec<Told>,
    pub used: Vec<Used>,
    /// The voided keys in the tables.
    pub voided: Vec<u8>,
    pub paid: Paid,
    pub expiries: Vec<Expiry>,
}

impl Record {
    /// The broken promises; none for a correct service.
    pub fn violations(&self) -> Vec<String> {
        let mut violations = Violations::default();
        self.check_tables(&mut violations);
        for event in &self.events {
            self.check_event(event, &mut violations);
        }
        for told in &self.told {
            self.check_told(told, &mut violations);
        }
        violations.0
    }

    /// Checks the final content of the tables.
    fn check_tables(&self, violations: &mut Violations) {
        for used in &self.used {
            let sent = self
                .events
                .iter()
                .any(|event| (event.key, event.request) == (used.key, used.request));
            violations.unless(sent, "nobody sent this", used);
            let others = self.used.iter().filter(|other| other.key == used.key).count();
            violations.unless(others == 1, "executed more than once", used);
            let voided = self.voided.contains(&used.key);
            violations.unless(!voided, "executed, and voided", used);
        }
        for voided in &self.voided {
            let sent = self.told.iter().any(|told| told.voids && told.key == *voided);
            violations.unless(sent, "nobody voided this", voided);
        }
        let refunded = self.refunded();
        violations.unless(refunded <= PAID.into(), "more refunded than was paid", &refunded);
        let agreed = refunded == self.paid.refunded;
        violations.unless(agreed, "the payment says another sum", &self.paid);
    }

    fn refunded(&self) -> i64 {
        let refunds = self.used.iter().filter(|used| used.made.is_some());
        refunds
            .filter_map(|used| match used.request {
                Request::Refund { amount } => Some(i64::from(amount)),
                Request::Pay { .. } => None,
            })
            .sum()
    }

    /// Checks a response against the tables and the earlier responses.
    fn check_event(&self, event: &Event, violations: &mut Violations) {
        let used = self.used.iter().find(|used| used.key == event.key);
        let same = used.is_some_and(|used| used.request == event.request);
        let made = used.and_then(|used| used.made.as_ref());
        match event.status {
            200 | 201 => {
                let right = same && made.is_some();
                violations.unless(right, "answered as made, and not what was made", event);
                let names_it = made.is_some_and(|id| event.body.contains(id));
                violations.unless(names_it, "names another thing than was made", event);
                violations.unless(event.committed, "answered before it was committed", event);
            }
            402 => {
                let right = same && made.is_none();
                violations.unless(right, "refused, and is not what was refused", event);
                let excessive = match event.request {
                    Request::Refund { amount } => self.refunded() + i64::from(amount) > PAID.into(),
                    Request::Pay { .. } => false,
                };
                violations.unless(excessive, "refused, and was possible", event);
            }
            410 if event.says_voided() => {
                let voided = self.voided.contains(&event.key);
                violations.unless(voided, "said to be voided, and isn't", event);
            }
            410 => {
                let right = same && made.is_some();
                violations.unless(right, "expired, and not what was made", event);
                let expired = self.expiries.iter().any(|expiry| expiry.begun < event.ended);
                violations.unless(expired, "expired, and nothing was", event);
            }
            422 => violations.unless(used.is_some() && !same, "reused, and isn't", event),
            0 | 409 | 503 => {}
            _ => violations.unless(false, "no response that can be", event),
        }
        let same_key = || self.events.iter().filter(|other| other.key == event.key);
        if matches!(event.status, 200 | 201 | 402) {
            let mut replays = same_key()
                .filter(|other| matches!(other.status, 200 | 201 | 402) && !other.body.is_empty());
            let alike = replays.all(|other| other.body == event.body);
            violations.unless(alike, "answered in two ways", event);
        }
        let new = event.status == 201;
        let used_up = self.heard_before(event.key, event.begun).next().is_some();
        violations.unless(!new || !used_up, "new, and was used up before", event);
        let outlived =
            event.status == 200 && self.had_expired(event.key, event.begun, |expiry| expiry.shown);
        violations.unless(!outlived, "replayed, and had expired", event);
        let twice = same_key().filter(|other| other.status == 201).count() > 1;
        violations.unless(!new || !twice, "new, twice", event);
    }

    /// Checks a reported state in the same way.
    fn check_told(&self, told: &Told, violations: &mut Violations) {
        let used = self.used.iter().find(|used| used.key == told.key);
        let made = used.and_then(|used| used.made.as_ref());
        match &told.state {
            None => {
                let may_be = matches!(told.status, 0 | 503) || told.voids && told.status == 409;
                violations.unless(may_be, "no response that can be", told);
            }
            Some(State::Unknown) => {
                violations.unless(!told.voids, "voided, and stands for nothing", told);
                let known = self.heard_before(told.key, told.begun).next().is_some();
                violations.unless(!known, "unknown, and was known before", told);
            }
            Some(State::Completed(id)) => {
                let named = made == Some(id);
                violations.unless(named, "told as made, and not what was made", told);
                let outlived = self.had_expired(told.key, told.begun, |expiry| expiry.ended);
                violations.unless(!outlived, "told as replayable, and had expired", told);
            }
            Some(State::Expired(id)) => {
                let named = made == Some(id);
                violations.unless(named, "told as expired, and not what was made", told);
                let expired = self.expiries.iter().any(|expiry| expiry.begun < told.ended);
                violations.unless(expired, "told as expired, and nothing was", told);
            }
            Some(State::Refused) => {
                let refused = used.is_some() && made.is_none();
                violations.unless(refused, "told as refused, and wasn't", told);
            }
            Some(State::Voided) => {
                let voided = self.voided.contains(&told.key);
                violations.unless(voided, "told as voided, and isn't", told);
            }
        }
    }

    /// The end times of earlier responses that were final for the key.
    fn heard_before(&self, key: u8, before: Instant) -> impl Iterator<Item = Instant> {
        let events = self.events.iter().filter(|event| event.is_final());
        let told = self.told.iter().filter(|told| told.is_final());
        events
            .map(|event| (event.key, event.ended))
            .chain(told.map(|told| (told.key, told.ended)))
            .filter(move |(other, ended)| *other == key && *ended < before)
            .map(|(_, ended)| ended)
    }

    /// True if the key had a response that expired before this.
    fn had_expired(&self, key: u8, before: Instant, end: fn(&Expiry) -> Instant) -> bool {
        self.expiries
            .iter()
            .filter(|expiry| end(expiry) < before)
            .any(|expiry| self.heard_before(key, before).any(|ended| ended < expiry.begun))
    }
}

/// Broken promises in words.
#[derive(Default)]
struct Violations(Vec<String>);

impl Violations {
    fn unless(&mut self, holds: bool, what: &str, about: &dyn std::fmt::Debug) {
        if !holds {
            self.0.push(format!("{what}: {about:?}"));
        }
    }
}
