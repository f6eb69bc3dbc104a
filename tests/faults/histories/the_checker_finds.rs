//! Tests of the checker: it finds each kind of broken promise.

use std::time::{Duration, Instant};

use super::{
    Request,
    record::{Event, Expiry, Paid, Record, State, Told, Used},
};

const REQUEST: Request = Request::Pay { user: 0, amount: 1 };
const OTHER: Request = Request::Pay { user: 1, amount: 2 };
const REFUND: Request = Request::Refund { amount: 2 };

/// A response, with its begin and end in milliseconds.
fn event(begun: u64, ended: u64, request: Request, status: u16) -> Event {
    let at = |milliseconds| *START + Duration::from_millis(milliseconds);
    let body = match status {
        200 | 201 => "an-id",
        402 => "refused",
        410 => r#"{"code":"idempotency-key-expired"}"#,
        _ => "",
    };
    Event {
        key: 0,
        request,
        begun: at(begun),
        ended: at(ended),
        status,
        body: body.into(),
        committed: true,
    }
}

fn told(begun: u64, ended: u64, state: State) -> Told {
    let Event { key, begun, ended, .. } = event(begun, ended, REQUEST, 0);
    Told { key, voids: false, begun, ended, status: 200, state: Some(state) }
}

/// The same for a request that voids the key.
fn voiding(begun: u64, ended: u64, state: State) -> Told {
    Told { voids: true, ..told(begun, ended, state) }
}

fn late_original(begun: u64, ended: u64) -> Event {
    let body = r#"{"code":"idempotency-key-voided"}"#.into();
    Event { body, ..event(begun, ended, REQUEST, 410) }
}

static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);

fn used(request: Request) -> Used {
    Used { key: 0, request, made: Some("an-id".into()) }
}

/// A refund of two with another key.
fn other_refund() -> (Used, Event) {
    let used = Used { key: 1, request: REFUND, made: Some("other-id".into()) };
    let event = Event { key: 1, body: "other-id".into(), ..event(0, 1, REFUND, 201) };
    (used, event)
}

fn expiry(begun: u64, ended: u64) -> Expiry {
    let at = |milliseconds| *START + Duration::from_millis(milliseconds);
    Expiry { begun: at(begun), ended: at(ended), shown: at(ended) }
}

#[track_caller]
fn assert_found(record: &Record, what: &str) {
    let violations = record.violations();
    assert!(
        violations.iter().any(|violation| violation.starts_with(what)),
        "{what}: {violations:#?}"
    );
}

#[test]
fn nothing_in_a_history_that_may_be() {
    let events = vec![
        event(0, 5, REQUEST, 503),
        event(6, 10, REQUEST, 201),
        event(7, 12, REQUEST, 200),
        event(13, 14, OTHER, 422),
        event(17, 18, REQUEST, 200),
        event(20, 21, REQUEST, 410),
        event(22, 23, OTHER, 422),
    ];
    let shown = expiry(15, 19).ended;
    let record = Record {
        events,
        used: vec![used(REQUEST)],
        expiries: vec![Expiry { shown, ..expiry(15, 16) }],
        ..Record::default()
    };
    assert_eq!(record.violations(), Vec::<String>::new());
}

/// A created refund, and one that was refused because of it.
fn refused() -> Record {
    let (other, made) = other_refund();
    let refused = Used { key: 0, request: REFUND, made: None };
    Record {
        events: vec![
            made,
            event(2, 3, REFUND, 402),
            event(4, 5, REFUND, 402),
            event(6, 7, OTHER, 422),
        ],
        used: vec![other, refused],
        paid: Paid { refunded: 2 },
        ..Record::default()
    }
}

#[test]
fn nothing_in_refunds_that_may_be() {
    assert_eq!(refused().violations(), Vec::<String>::new());
}

#[test]
fn what_must_not_be_of_refunds() {
    let (other, made) = other_refund();
    let both = Record {
        events: vec![made, event(0, 1, REFUND, 201)],
        used: vec![other, used(REFUND)],
        paid: Paid { refunded: 4 },
        ..Record::default()
    };
    assert_found(&both, "more refunded than was paid");
    assert_found(
        &Record { paid: Paid { refunded: 3 }, ..refused() },
        "the payment says another sum",
    );
    let alone = Record { events: vec![event(2, 3, REFUND, 402)], ..refused() };
    assert_found(
        &Record { used: vec![alone.used[1].clone()], ..alone },
        "refused, and was possible",
    );
    let with = |event: Event| {
        let mut record = refused();
        record.events.push(event);
        record
    };
    assert_found(&with(event(8, 9, REFUND, 200)), "answered as made");
    assert_found(&with(event(8, 9, REFUND, 410)), "expired, and not what was");
    assert_found(&with(event(8, 9, OTHER, 402)), "refused, and is not what was refused");
    let otherwise = Event { body: "refused otherwise".into(), ..event(8, 9, REFUND, 402) };
    assert_found(&with(otherwise), "answered in two ways");
}

#[test]
fn what_must_not_be() {
    let with = |events: Vec<Event>, used: Vec<Used>, expiries: Vec<Expiry>| Record {
        events,
        used,
        expiries,
        ..Record::default()
    };
    let made = || vec![used(REQUEST)];
    assert_found(&with(vec![], made(), vec![]), "nobody sent this");
    assert_found(&with(vec![event(0, 1, OTHER, 422)], made(), vec![]), "nobody sent this");
    let twice = vec![used(REQUEST), used(REQUEST)];
    assert_found(&with(vec![event(0, 1, REQUEST, 201)], twice, vec![]), "executed more than once");
    assert_found(&with(vec![event(0, 1, REQUEST, 201)], vec![], vec![]), "answered as made");
    assert_found(&with(vec![event(0, 1, OTHER, 200)], made(), vec![]), "answered as made");
    let elsewhere = Event { body: "other-id".into(), ..event(0, 1, REQUEST, 200) };
    assert_found(&with(vec![elsewhere.clone()], made(), vec![]), "names another thing");
    let two = vec![event(0, 1, REQUEST, 201), elsewhere];
    assert_found(&with(two, made(), vec![]), "answered in two ways");
    let early = Event { committed: false, ..event(0, 1, REQUEST, 201) };
    assert_found(&with(vec![early], made(), vec![]), "answered before it was committed");
    assert_found(&with(vec![event(0, 1, REQUEST, 422)], made(), vec![]), "reused, and isn't");
    assert_found(&with(vec![event(0, 1, REQUEST, 422)], vec![], vec![]), "reused, and isn't");
    let again = vec![event(0, 1, REQUEST, 200), event(2, 3, REQUEST, 201)];
    assert_found(&with(again, made(), vec![]), "new, and was used up before");
    let both = vec![event(0, 5, REQUEST, 201), event(1, 4, REQUEST, 201)];
    assert_found(&with(both, made(), vec![]), "new, twice");
    assert_found(
        &with(vec![event(0, 1, REQUEST, 410)], made(), vec![]),
        "expired, and nothing was",
    );
    assert_found(
        &with(vec![event(0, 1, OTHER, 410)], made(), vec![expiry(0, 0)]),
        "expired, and not what was",
    );
    let late = vec![event(0, 1, REQUEST, 201), event(6, 7, REQUEST, 200)];
    assert_found(&with(late, made(), vec![expiry(3, 4)]), "replayed, and had expired");
    assert_found(&with(vec![event(0, 1, REQUEST, 500)], vec![], vec![]), "no response that can be");
}

/// A voided key, and its request, which arrived late.
fn voided() -> Record {
    Record {
        events: vec![event(0, 5, REQUEST, 503), late_original(6, 9), late_original(20, 21)],
        told: vec![
            told(0, 1, State::Unknown),
            voiding(4, 8, State::Voided),
            told(9, 10, State::Voided),
            voiding(11, 12, State::Voided),
        ],
        voided: vec![0],
        expiries: vec![expiry(15, 16)],
        ..Record::default()
    }
}

/// An executed key that expires, and a request that voids it.
fn executed() -> Record {
    let unheard = Told { status: 409, state: None, ..voiding(3, 9, State::Unknown) };
    let id = || String::from("an-id");
    Record {
        events: vec![event(5, 10, REQUEST, 201), event(30, 31, REQUEST, 410)],
        told: vec![
            told(0, 7, State::Unknown),
            unheard,
            voiding(4, 12, State::Completed(id())),
            told(13, 14, State::Completed(id())),
            voiding(20, 21, State::Expired(id())),
        ],
        used: vec![used(REQUEST)],
        expiries: vec![expiry(15, 16)],
        ..Record::default()
    }
}

#[test]
fn nothing_in_voids_that_may_be() {
    assert_eq!(voided().violations(), Vec::<String>::new());
    assert_eq!(executed().violations(), Vec::<String>::new());
    let mut refused = refused();
    refused.told = vec![told(0, 1, State::Unknown), voiding(4, 5, State::Refused)];
    assert_eq!(refused.violations(), Vec::<String>::new());
}

#[test]
fn what_must_not_be_of_voided_keys() {
    let both = Record { used: vec![used(REQUEST)], ..voided() };
    assert_found(&both, "executed, and voided");
    assert_found(&Record { told: vec![], ..voided() }, "nobody voided this");
    let asked = vec![told(0, 1, State::Voided)];
    assert_found(&Record { told: asked, ..voided() }, "nobody voided this");
    let lost = Record { voided: vec![], ..voided() };
    assert_found(&lost, "told as voided, and isn't");
    assert_found(&lost, "said to be voided, and isn't");
    let after = |event: Event| {
        let mut record = voided();
        record.events.push(event);
        record
    };
    assert_found(&after(event(22, 23, REQUEST, 201)), "answered as made");
    assert_found(&after(event(22, 23, REQUEST, 201)), "new, and was used up before");
    assert_found(&after(event(22, 23, REQUEST, 200)), "answered as made");
    assert_found(&after(event(22, 23, REFUND, 402)), "refused, and is not");
    assert_found(&after(event(22, 23, REQUEST, 422)), "reused, and isn't");
    assert_found(&after(event(22, 23, REQUEST, 410)), "expired, and not what was");
    let told_after = |told: Told| {
        let mut record = voided();
        record.told.push(told);
        record
    };
    let id = || String::from("an-id");
    assert_found(&told_after(told(22, 23, State::Unknown)), "unknown, and was known before");
    assert_found(&told_after(voiding(0, 1, State::Unknown)), "voided, and stands for nothing");
    assert_found(&told_after(told(22, 23, State::Completed(id()))), "told as made");
    assert_found(&told_after(told(22, 23, State::Expired(id()))), "told as expired, and not");
    assert_found(&told_after(told(22, 23, State::Refused)), "told as refused");
    let failed = Told { status: 500, state: None, ..told(22, 23, State::Unknown) };
    assert_found(&told_after(failed), "no response that can be");
    let in_flight = Told { status: 409, state: None, ..told(22, 23, State::Unknown) };
    assert_found(&told_after(in_flight), "no response that can be");
}

#[test]
fn what_must_not_be_of_keys_that_were_executed() {
    let with = |told: Told| {
        let mut record = executed();
        record.told.push(told);
        record
    };
    assert_found(&with(voiding(32, 33, State::Voided)), "told as voided, and isn't");
    assert_found(&with(told(11, 12, State::Unknown)), "unknown, and was known before");
    let other = || String::from("other-id");
    assert_found(&with(voiding(11, 12, State::Completed(other()))), "told as made, and not");
    assert_found(&with(voiding(32, 33, State::Expired(other()))), "told as expired, and not");
    let completed = told(32, 33, State::Completed("an-id".into()));
    assert_found(&with(completed), "told as replayable, and had expired");
    let never = Record { expiries: vec![], ..executed() };
    assert_found(&never, "told as expired, and nothing was");
    assert_found(&with(told(11, 12, State::Refused)), "told as refused");
    let mut known = executed();
    known.events = vec![event(13, 15, REQUEST, 201)];
    assert_found(&known, "new, and was used up before");
    let mut late = executed();
    late.events.push(late_original(32, 33));
    assert_found(&late, "said to be voided, and isn't");
}
