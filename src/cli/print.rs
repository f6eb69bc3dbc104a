//! Output on stdout.

use std::io::{self, ErrorKind, Write};

use chrono::SecondsFormat;
use serde::Serialize;

use crate::{db::timestamp::Timestamp, payments::currency::exponent, text::escaped};

/// Prints a text with a newline. A reader that stops reading, such as `head`, is no error.
pub(super) fn text(text: &str) -> io::Result<()> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        done => done,
    }
}

/// Prints one of many lines. False if the reader has stopped reading: then the rest is for nobody.
pub(super) fn line(text: &str) -> io::Result<bool> {
    match writeln!(io::stdout(), "{text}") {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        done => done.map(|()| true),
    }
}

/// Prints a text that is shown only once: a closed stdout is an error.
pub(super) fn secret(text: &str) -> io::Result<()> {
    writeln!(io::stdout(), "{text}")
}

/// Prints JSON, for programs.
pub(super) fn json(value: &impl Serialize) -> io::Result<()> {
    text(&pretty(value)?)
}

/// JSON as it is printed for programs.
pub(super) fn pretty(value: &impl Serialize) -> io::Result<String> {
    Ok(serde_json::to_string_pretty(value)?)
}

/// Prints rows below headings.
pub(super) fn table<const N: usize>(
    headings: [&str; N],
    rows: impl IntoIterator<Item = [String; N]>,
) -> io::Result<()> {
    text(&aligned(std::iter::once(headings.map(str::to_owned)).chain(rows)))
}

/// Prints fields, one a line, without those that have no value.
pub(super) fn members<const N: usize>(members: [(&str, Option<String>); N]) -> io::Result<()> {
    let said = members.into_iter().filter_map(|(name, value)| Some([name.to_owned(), value?]));
    text(&aligned(said))
}

/// Each column is as wide as its widest cell. Cells have text of clients: what would not show in them, or reorder
/// the line, is escaped.
fn aligned<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.map(|row| row.map(|cell| escaped(&cell))).collect();
    let mut widths = [0; N];
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = cell.chars().count().max(*width);
        }
    }
    let lines = rows.iter().map(|row| {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

/// A time, to the second.
pub(super) fn seconds(time: Timestamp) -> String {
    time.0.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// An amount in units of its currency: 100 is 1.00 where there are cents, and 100 in yen.
pub(super) fn units(minor: i64, currency: &str) -> String {
    match exponent(currency) {
        None => format!("{minor} minor units"),
        Some(0) => minor.to_string(),
        Some(digits) => {
            let unit = 10_i64.saturating_pow(digits);
            let width = usize::try_from(digits).unwrap_or(0);
            format!("{}.{:0width$}", minor / unit, minor % unit)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{aligned, units};

    #[test]
    fn an_amount_is_shown_in_units_of_its_currency() {
        for (minor, currency, shown) in [
            (100, "USD", "1.00"),
            (5, "USD", "0.05"),
            (9_007_199_254_740_991, "EUR", "90071992547409.91"),
            (100, "JPY", "100"),
            (1234, "KWD", "1.234"),
            (1, "CLF", "0.0001"),
            // Withdrawn: no new payments, but old ones are listed.
            (100, "HRK", "1.00"),
            (100, "???", "100 minor units"),
        ] {
            assert_eq!(units(minor, currency), shown, "{minor} {currency}");
        }
    }

    #[test]
    fn columns_stand_below_each_other() {
        let rows = [["ID", "NAME"], ["1", "größe"], ["23", "b"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(rows.into_iter()), "ID  NAME\n1   größe\n23  b");
        assert_eq!(aligned(std::iter::once(["ID".to_owned()])), "ID");
    }

    #[test]
    fn what_would_reorder_a_line_is_escaped_in_it() {
        let rows = [["\u{202e}evil", "1"], ["ada", "2"]].map(|row| row.map(str::to_owned));
        assert_eq!(aligned(rows.into_iter()), "\\u{202e}evil  1\nada           2");
    }
}
