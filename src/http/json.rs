//! Reading the JSON object in a request's body, strictly, and saying of each member what was expected.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::http::problem::{Kind, MemberError, Problem};

/// So many things that are wrong are named: a body of nothing but mistakes would else be answered with twenty times as
/// much.
const MOST_ERRORS: usize = 20;

/// The members of a JSON object, or of a [query](crate::http::query), to be taken one by one. What is wrong is
/// gathered, so that one answer names it, up to twenty mistakes.
#[derive(Debug)]
pub struct Members<'a> {
    /// Names with values: the JSON of each as it is written, or the text of a query's parameter.
    left: Vec<(String, Cow<'a, str>)>,
    /// Those that were asked for.
    names: Vec<&'static str>,
    errors: Vec<MemberError>,
    /// How many more there are.
    unnamed: usize,
    /// Of what problem the errors are.
    kind: Kind,
}

impl<'a> Members<'a> {
    /// Reads a body. `expected` says what object it should be.
    ///
    /// # Errors
    /// `malformed-json` when it isn't JSON; `kind` when it is JSON, but not an object.
    pub fn read(body: &'a [u8], kind: Kind, expected: &str) -> Result<Self, Problem> {
        let malformed = |error: serde_json::Error| malformed(&error.to_string(), expected);
        let json: &RawValue = serde_json::from_slice(body).map_err(malformed)?;
        if !json.get().starts_with('{') {
            return Err(wrong_as_a_whole(kind, format!("expected {expected}")));
        }
        let Object(left) = serde_json::from_str(json.get()).map_err(malformed)?;
        Ok(Self::new(left, kind))
    }

    /// Members that were read elsewhere.
    pub(crate) fn new(left: Vec<(String, Cow<'a, str>)>, kind: Kind) -> Self {
        Self { left, names: Vec::new(), errors: Vec::new(), unnamed: 0, kind }
    }

    /// Takes the member of this name and reads its value with `read`, which gives nothing when it
    /// isn't what was `expected`. A member that is missing, or there twice, is an error too.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.optional(name, expected, read) {
            Some(None) => self.wrong(name, &format!("is missing: expected {expected}")),
            taken => taken.flatten(),
        }
    }

    /// The same for a member that may be missing: `None` where it is wrong, `Some(None)` where it is missing.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        self.names.push(name);
        let named: Vec<Cow<'a, str>> =
            self.left.extract_if(.., |(found, _)| found == name).map(|(_, value)| value).collect();
        match named.as_slice() {
            [] => Some(None),
            [value] => match read(value) {
                None => self.wrong(name, &format!("expected {expected}")),
                right => Some(right),
            },
            [..] => self.wrong(name, "occurs more than once: expected it once"),
        }
    }

    /// Adds an error of the object as a whole.
    pub fn refuse<T>(&mut self, detail: &str) -> Option<T> {
        self.wrong_at(String::new(), detail)
    }

    fn wrong<T>(&mut self, name: &str, detail: &str) -> Option<T> {
        self.wrong_at(pointer(name), detail)
    }

    fn wrong_at<T>(&mut self, pointer: String, detail: &str) -> Option<T> {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(MemberError { pointer, detail: detail.to_owned() });
        } else {
            self.unnamed += 1;
        }
        None
    }

    /// Ends the reading: `complete` is what was made of the members.
    ///
    /// # Errors
    /// When anything was wrong, or members are left that nobody took.
    pub fn finish<T>(mut self, complete: Option<T>) -> Result<T, Problem> {
        for (name, _) in std::mem::take(&mut self.left) {
            let unknown = match self.names.as_slice() {
                [] => "is not known here: expected nothing".to_owned(),
                names => format!("is not known here: expected no others than {}", names.join(", ")),
            };
            self.wrong::<()>(&name, &unknown);
        }
        if self.unnamed > 0 {
            let detail = format!("{} more are wrong: expected none", self.unnamed);
            self.errors.push(MemberError { pointer: String::new(), detail });
        }
        match complete {
            Some(complete) if self.errors.is_empty() => Ok(complete),
            _ => Err(Problem::new(self.kind).with_errors(self.errors)),
        }
    }
}

/// A body that isn't JSON: what is wrong, and where it is, and what was expected.
pub(crate) fn malformed(wrong: &str, expected: &str) -> Problem {
    let detail = format!(
        "The body is not JSON: {wrong}. Send {expected}. This request has not used the key: send the corrected one with the \
         same key."
    );
    let error = format!("is not JSON ({wrong}): expected {expected}");
    wrong_as_a_whole(Kind::MalformedJson, error).with_detail(detail)
}

/// A body or a query of which no single member is wrong.
pub(crate) fn wrong_as_a_whole(kind: Kind, detail: String) -> Problem {
    Problem::new(kind).with_errors(vec![MemberError { pointer: String::new(), detail }])
}

/// The JSON Pointer to a member of the body (RFC 6901 §3).
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The members of an object as they are written, repeated ones included.
struct Object<'a>(Vec<(String, Cow<'a, str>)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor;

        impl<'de> Visitor<'de> for ObjectVisitor {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::with_capacity(2);
                while let Some((name, json)) = map.next_entry::<_, &RawValue>()? {
                    members.push((name, json.get().into()));
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;

    fn value(json: &str) -> Option<Value> {
        serde_json::from_str(json).ok()
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 8, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(mut members) = Members::read(&body, Kind::InvalidPayment, "JSON") {
                let a = members.optional("a", "JSON", value);
                let _ = members.finish(a);
            }
        }

        #[test]
        fn nothing_that_looks_like_json_makes_it_panic(body in r#"\{("a"|"b"|:|,|[0-9]|\\|"|\[|\]|\{|\}| ){0,12}\}"#) {
            if let Ok(mut members) = Members::read(body.as_bytes(), Kind::InvalidPayment, "JSON") {
                let a = members.optional("a", "JSON", value);
                let _ = members.finish(a);
            }
        }

        #[test]
        fn members_are_read_as_they_were_written(a in json(), b in prop::option::of(json())) {
            let mut object = Map::from_iter([("a".to_owned(), a.clone())]);
            object.extend(b.clone().map(|b| ("b".to_owned(), b)));
            let body = Value::Object(object).to_string();
            let mut members = Members::read(body.as_bytes(), Kind::InvalidPayment, "JSON").unwrap();
            let read = members.required("a", "JSON", value);
            let read = read.zip(members.optional("b", "JSON", value));
            prop_assert_eq!(members.finish(read), Ok((a, b)));
        }
    }
}
