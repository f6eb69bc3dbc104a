//! The statement that is a whole transaction: it claims keys, executes what is new, stores the responses, and commits.

use chrono::{DateTime, Utc};
use sqlx::{Arguments, AssertSqlSafe, PgConnection, Row};
use uuid::Uuid;

use super::{
    CLAIM, Claim, LOCK, RESPONSE, UNLOCKED, USED_KEY, UsedKey, add_claims, add_responses,
    claim_sql, look_up_sql, remember_sql, used_key,
};
use crate::{columns::Columns, insert::Insert, response::Response};

/// What the statement does about keys that are used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Used {
    /// It finds out what they stand for.
    LookedUp,
    /// It leaves them alone.
    PassedBy,
    /// There should be none, nor any that another server is executing: one is an error, and nothing of the statement
    /// happens. That spares it the look.
    Unexpected,
}

/// What the statement made of a batch.
pub(crate) struct Committed {
    /// The execution ids of those whose keys were new, in the batch's order.
    pub(crate) new: Vec<Uuid>,
    /// Until when their responses can be replayed, where these are of success; `None`: as long as their keys.
    pub(crate) replayable_until: Option<DateTime<Utc>>,
    /// What the others stand for, with their places in the batch; without those that were committed only
    /// while this ran, and without what can't be read.
    pub(crate) used: Vec<(usize, UsedKey)>,
}

/// The columns of [`USED_KEY`] in the row of what is new.
const NO_USED_KEY: &str = ", NULL::bigint AS place, NULL::uuid AS execution_id, NULL AS operation, NULL::bytea AS fingerprint,
                NULL::timestamptz AS created_at, NULL::smallint AS status, NULL AS headers, NULL::bytea AS body,
                NULL::timestamptz AS replayable_until, NULL::boolean AS lasts";

/// Where the statement's three INSERTs take their rows from.
struct Sources {
    /// What they share: a table that comes before them, if anything.
    batch: String,
    /// The execution ids of what is inserted.
    ids: String,
    keys: String,
    commands: String,
    responses: String,
}

impl Sources {
    /// Each INSERT opens the arrays that it needs: rows on the way to three of them cost more.
    fn apart(columns: &Columns, command: &[&str]) -> Self {
        let keys = columns.select(&[&CLAIM[..], &[LOCK]].concat());
        Self {
            batch: String::new(),
            ids: columns.argument("execution_id"),
            keys: format!("({keys}) AS claim WHERE {UNLOCKED}"),
            commands: format!("({}) AS command", columns.select(command)),
            responses: format!("({}) AS response", columns.select(&RESPONSE)),
        }
    }

    /// All of them read those of the batch whose keys the statement's snapshot doesn't have, and that nobody else is
    /// executing. What has its lock is looked for in the index, key by key, whatever the table's size.
    fn unused(columns: &Columns) -> Self {
        let [keys, commands, responses] = ["batch"; 3].map(str::to_owned);
        Self {
            batch: format!(
                "batch AS MATERIALIZED (
                     SELECT * FROM ({all}) AS command
                     WHERE {UNLOCKED} AND (SELECT true FROM idempotency_keys AS k
                                           WHERE k.account_id = command.account_id
                                             AND k.key = command._key COLLATE \"C\") IS NULL
                 ), ",
                all = columns.select(&columns.names()),
            ),
            ids: "(SELECT array_agg(execution_id) FROM batch)".to_owned(),
            keys,
            commands,
            responses,
        }
    }
}

/// Claims keys, sorted, runs an INSERT for those that were new, stores their responses, and commits.
///
/// `responses` are in the order of `claims`, whose operations are the same. That each of them got its key, its row and
/// its response is made sure of before anything is committed.
///
/// There is no ON CONFLICT, which writes a record to the log for each row to say that it stays. A key that is
/// inserted and used up breaks the unique constraint, and nothing of the statement happens.
/// The keys are inserted first, since they are counted first: so that is what is heard of a used one, and not what its
/// command comes to now.
pub(crate) async fn commit(
    conn: &mut PgConnection,
    claims: &[Claim<'_>],
    insert: Insert,
    responses: &[Response],
    ttl: Option<f64>,
    used: Used,
) -> Result<Committed, sqlx::Error> {
    let Insert { sql: insert, mut columns, .. } = insert;
    let command = [&["execution_id", "account_id"], &*columns.names()].concat();
    add_claims(&mut columns, claims);
    add_responses(&mut columns, responses)?;
    let sources = if used == Used::Unexpected {
        Sources::apart(&columns, &command)
    } else {
        Sources::unused(&columns)
    };
    let (no_used_key, look_up) = if used == Used::LookedUp {
        let [accounts, keys, ids] =
            ["account_id", "_key", "execution_id"].map(|name| columns.argument(name));
        let used_keys = format!(
            "UNION ALL
             SELECT NULL, NULL, {USED_KEY}
             FROM unnest({accounts}, {keys}, {ids})
                  WITH ORDINALITY AS wanted(account_id, key, execution_id, place)
             {look_up}
             WHERE wanted.execution_id NOT IN (SELECT execution_id FROM batch)",
            look_up = look_up_sql(),
        );
        (NO_USED_KEY, used_keys)
    } else {
        ("", String::new())
    };
    let mut arguments = columns.into_arguments()?;
    arguments.add(claims.first().map(|claim| claim.operation)).map_err(sqlx::Error::Encode)?;
    let operation = arguments.len();
    arguments.add(ttl).map_err(sqlx::Error::Encode)?;
    let seconds = arguments.len();
    let sql = format!(
        "WITH {batch}keyed AS (
             {claim} FROM {keys} RETURNING 1 AS part
         ), claimed AS (
             SELECT {command} FROM {commands}
         ), inserted AS (
             {insert} RETURNING 2 AS part
         ), remembered AS (
             {remember} FROM {responses} RETURNING 3 AS part
         ), counts AS (
             SELECT coalesce({ids}, ARRAY[]::uuid[]) AS ids, count(*) FILTER (WHERE part = 1) AS keyed,
                    count(*) FILTER (WHERE part = 2) AS inserted, count(*) FILTER (WHERE part = 3) AS remembered
             FROM (SELECT part FROM keyed UNION ALL SELECT part FROM inserted
                   UNION ALL SELECT part FROM remembered) AS made
         )
         SELECT CASE WHEN keyed = cardinality(ids) AND inserted = cardinality(ids) AND remembered = cardinality(ids)
                THEN ids
                -- No text is a uuid: an error that tells the numbers, and undoes everything.
                ELSE ARRAY[format('%s wanted, %s claimed, %s inserted, %s remembered',
                                  cardinality(ids), keyed, inserted, remembered)::uuid]
                END AS ids,
                now() + make_interval(secs => ${seconds}) AS new_until {no_used_key}
         FROM counts
         {look_up}",
        batch = sources.batch,
        claim = claim_sql(&format!("${operation}")),
        keys = sources.keys,
        command = command.join(", "),
        commands = sources.commands,
        remember = remember_sql(seconds),
        responses = sources.responses,
        ids = sources.ids,
    );
    // All rows, to the end: that is where PostgreSQL says whether the statement was committed.
    let rows = sqlx::query_with(AssertSqlSafe(sql), arguments).fetch_all(conn).await?;
    let mut committed = Committed { new: Vec::new(), replayable_until: None, used: Vec::new() };
    for row in &rows {
        // All that is new comes in one row: one for each would cost more than what is in it.
        if let Some(new) = row.try_get("ids")? {
            committed.new = new;
            committed.replayable_until = row.try_get("new_until")?;
        } else if let Ok(used) = used_key(row) {
            committed.used.push(used);
        }
    }
    Ok(committed)
}
