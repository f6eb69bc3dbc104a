//! Reading a query, as strictly as a body: unknown and repeated parameters are refused.

use std::borrow::Cow;

use percent_encoding::percent_decode_str;

use crate::http::{
    json::{Members, wrong_as_a_whole},
    problem::{Kind, Problem},
};

/// What the longest user id takes, each of its bytes escaped, and some.
const MAX_LENGTH: usize = 4096;

/// Reads what stands after the `?`, percent-encoded with `+` for a space, as forms send it.
///
/// # Errors
/// `invalid-query` when it is too long, or not UTF-8.
pub fn read(query: &str) -> Result<Members<'_>, Problem> {
    if query.len() > MAX_LENGTH {
        let detail = format!("is too long: expected at most {MAX_LENGTH} characters");
        return Err(wrong_as_a_whole(Kind::InvalidQuery, detail));
    }
    let parameters = query.split('&').filter(|parameter| !parameter.is_empty());
    let members = parameters.map(|parameter| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        Some((decoded(name)?, decoded(value)?.into()))
    });
    match members.collect() {
        Some(members) => Ok(Members::new(members, Kind::InvalidQuery)),
        None => Err(wrong_as_a_whole(Kind::InvalidQuery, "is not text: expected UTF-8".to_owned())),
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
            if let Ok(mut members) = read(&query) {
                let a = members.optional("a", "text", |text| Some(text.to_owned()));
                let _ = members.finish(a);
            }
        }

        #[test]
        fn parameters_are_read_as_they_were_escaped(value in ".{0,64}") {
            let escaped: String = percent_encode(value.as_bytes(), NON_ALPHANUMERIC).collect();
            let query = format!("a={escaped}");
            let mut members = read(&query).unwrap();
            let read = members.required("a", "text", |text| Some(text.to_owned()));
            prop_assert_eq!(members.finish(read), Ok(value));
        }
    }
}
