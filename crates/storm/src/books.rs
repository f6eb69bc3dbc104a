//! Reads back what is there, and compares it with what was heard.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    client::{Answer, Client, Request},
    intents::{Heard, Names, Payment, amount},
};

/// A page of `GET /payment`, as long as pages can be.
#[derive(Deserialize)]
struct Page {
    payments: Vec<Payment>,
    next_cursor: Option<String>,
}

/// All payments that are there, or why they could not be read.
pub(super) async fn read(client: &Client<'_>, names: &Names) -> Result<Vec<Payment>, String> {
    let lists = try_join_all(names.users().map(|user| list(client, user))).await?;
    Ok(lists.into_iter().flatten().collect())
}

async fn list(client: &Client<'_>, user: String) -> Result<Vec<Payment>, String> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    let first = format!("/payment?user_id={user}&limit=200");
    let mut path = first.clone();
    loop {
        let answer = client.settle(&Request::get(path)).await;
        let Answer { status, body, .. } = answer.map_err(|error| format!("{first} {error}"))?;
        let page: Page = serde_json::from_str(&body)
            .map_err(|_| format!("{first} was answered with {status}: {body}"))?;
        let mut ids = page.payments.iter().map(|payment| payment.transaction_id.clone());
        let repeats = ids.any(|id| !seen.insert(id));
        all.extend(page.payments);
        // A list that comes round again may have no end.
        let Some(cursor) = page.next_cursor.filter(|_| !repeats) else { return Ok(all) };
        path = format!("{first}&cursor={}", utf8_percent_encode(&cursor, NON_ALPHANUMERIC));
    }
}

/// What is there of what was intended.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Books {
    /// Payments that are there.
    pub(super) found: usize,
    /// Payments that were answered, and are not there.
    pub(super) lost: usize,
}

/// Compares, and adds to what was heard which promises turn out to be broken.
pub(super) fn compare(heard: &mut Heard, names: &Names, intended: u64, there: &[Payment]) -> Books {
    let mut ids: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut listed = BTreeSet::new();
    for Payment { transaction_id, user_id, amount: made } in there {
        if !listed.insert(transaction_id) {
            heard.broken.push(format!("payment {transaction_id} is listed twice"));
            continue;
        }
        let number = made.saturating_sub(1);
        if number < intended && amount(number) == *made && names.user(number) == *user_id {
            ids.entry(number).or_default().insert(transaction_id);
        } else {
            let what =
                format!("payment {transaction_id} of {made} is there, and nobody intended it");
            heard.broken.push(what);
        }
    }
    for (number, ids) in ids.iter().filter(|(_, ids)| ids.len() > 1) {
        heard.twice.insert(*number);
        let key = names.key(*number);
        heard.broken.push(format!("{key} is there as {} payments: {ids:?}", ids.len()));
    }
    let mut lost = 0;
    for (number, id) in &heard.made {
        if !ids.get(number).is_some_and(|ids| ids.contains(id.as_str())) {
            lost += 1;
            let key = names.key(*number);
            heard.broken.push(format!("{key} was answered as payment {id}, which is not there"));
        }
    }
    Books { found: listed.len(), lost }
}
