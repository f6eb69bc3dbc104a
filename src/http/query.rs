//! Reads a query, as strictly as a body: unknown and repeated parameters are errors.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::http::{
    json::{Fields, wrong_as_a_whole},
    problem::{Kind, Problem},
};

/// Enough for the longest user id with every byte escaped.
const MAX_LENGTH: usize = 4096;

/// Reads the part after `?`: percent-encoded, with `+` for a space, as forms send it.
///
/// # Errors
/// `invalid-query` for a query that is too long or not UTF-8.
pub fn read(query: &str) -> Result<Fields<'_>, Problem> {
    if query.len() > MAX_LENGTH {
        let detail = format!("too long; expected at most {MAX_LENGTH} characters");
        return Err(wrong_as_a_whole(Kind::InvalidQuery, detail));
    }
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let fields = parameters.map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        Some((decoded(name)?, decoded(value)?.into()))
    });
    match fields.collect() {
        Some(fields) => Ok(Fields::new(fields, Kind::InvalidQuery)),
        None => Err(wrong_as_a_whole(Kind::InvalidQuery, "expected UTF-8".to_owned())),
    }
}

fn decoded(text: &str) -> Option<String> {
    let spaced = text.replace('+', " ");
    percent_decode_str(&spaced).decode_utf8().ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use percent_encoding::{NON_ALPHANUMERIC, percent_encode};
    use proptest::prelude::*;

    use super::read;

    proptest! {
        #[test]
        fn nothing_makes_it_panic(query in ".{0,64}") {
            if let Ok(mut fields) = read(&query) {
                let a = fields.optional("a", "text", |text| Some(text.to_owned()));
                let _ = fields.finish(a);
            }
        }

        #[test]
        fn parameters_are_read_as_they_were_escaped(value in ".{0,64}") {
            let escaped: String = percent_encode(value.as_bytes(), NON_ALPHANUMERIC).collect();
            let query = format!("a={escaped}");
            let mut fields = read(&query).unwrap();
            let read = fields.required("a", "text", |text| Some(text.to_owned()));
            prop_assert_eq!(fields.finish(read), Ok(value));
        }
    }
}
