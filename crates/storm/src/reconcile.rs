//! Reads all payments of the storm back, and reconciles them with the responses.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::future::try_join_all;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::{
    client::{Client, Request, Response},
    workload::{Names, Observed, Payment, amount},
};

/// A page of `GET /payment`.
#[derive(Deserialize)]
struct Page {
    payments: Vec<Payment>,
    next_cursor: Option<String>,
}

/// All payments of the storm's users, or why they could not be read.
pub(super) async fn read(client: &Client<'_>, names: &Names) -> Result<Vec<Payment>, String> {
    let lists = try_join_all(names.users().map(|user| list(client, user))).await?;
    Ok(lists.into_iter().flatten().collect())
}

async fn list(client: &Client<'_>, user: String) -> Result<Vec<Payment>, String> {
    let (mut all, mut seen) = (Vec::new(), BTreeSet::new());
    let first = format!("/payment?user_id={user}&limit=200");
    let mut path = first.clone();
    loop {
        let response = client.send_until_final(&Request::get(path)).await;
        let Response { status, body, .. } = response.map_err(|error| format!("{first} {error}"))?;
        let page: Page = serde_json::from_str(&body)
            .map_err(|_| format!("{first} was answered with {status}: {body}"))?;
        let mut ids = page.payments.iter().map(|payment| payment.transaction_id.clone());
        let repeats = ids.any(|id| !seen.insert(id));
        all.extend(page.payments);
        // A list that repeats itself may have no end.
        let Some(cursor) = page.next_cursor.filter(|_| !repeats) else { return Ok(all) };
        path = format!("{first}&cursor={}", utf8_percent_encode(&cursor, NON_ALPHANUMERIC));
    }
}

/// The result of a reconciliation.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reconciled {
    /// Payments that exist.
    pub(super) found: usize,
    /// Payments that a response confirmed, and that do not exist.
    pub(super) lost: usize,
}

/// Compares the payments that exist with the responses, and adds the broken promises to what was observed.
pub(super) fn reconcile(
    observed: &mut Observed,
    names: &Names,
    intended: u64,
    existing: &[Payment],
) -> Reconciled {
    let mut ids: BTreeMap<u64, BTreeSet<&str>> = BTreeMap::new();
    let mut listed = BTreeSet::new();
    for Payment { transaction_id, user_id, amount: paid } in existing {
        if !listed.insert(transaction_id) {
            observed.broken.push(format!("payment {transaction_id} is listed twice"));
            continue;
        }
        let number = paid.saturating_sub(1);
        if number < intended && amount(number) == *paid && names.user(number) == *user_id {
            ids.entry(number).or_default().insert(transaction_id);
        } else {
            let what = format!("payment {transaction_id} of {paid} exists, and was never intended");
            observed.broken.push(what);
        }
    }
    for (number, ids) in ids.iter().filter(|(_, ids)| ids.len() > 1) {
        observed.duplicated.insert(*number);
        let key = names.key(*number);
        observed.broken.push(format!("{key} exists as {} payments: {ids:?}", ids.len()));
    }
    let mut lost = 0;
    for (number, id) in &observed.created {
        if !ids.get(number).is_some_and(|ids| ids.contains(id.as_str())) {
            lost += 1;
            let key = names.key(*number);
            observed
                .broken
                .push(format!("{key} was answered as payment {id}, which does not exist"));
        }
    }
    Reconciled { found: listed.len(), lost }
}
