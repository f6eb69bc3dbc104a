//! Reads the JSON object in a request's body, strictly: each wrong field is an error that names the expected value.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::http::problem::{FieldError, Kind, Problem};

/// Limit of listed errors. Without it, a body of many errors gets a response twenty times as large.
const MAX_ERRORS: usize = 20;

/// The fields of a JSON object, or the parameters of a [query](crate::http::query), read one by one. The errors are
/// collected, so that one response lists them.
#[derive(Debug)]
pub struct Fields<'a> {
    /// The unread fields: name and value, as JSON or as the text of a parameter.
    unread: Vec<(String, Cow<'a, str>)>,
    /// The names of the expected fields.
    names: Vec<&'static str>,
    errors: Vec<FieldError>,
    /// The number of errors beyond the limit.
    unlisted: usize,
    /// The problem that reports the errors.
    kind: Kind,
}

impl<'a> Fields<'a> {
    /// Reads a body. `expected` describes the expected object.
    ///
    /// # Errors
    /// `malformed-json` for a body that is not JSON; `kind` for JSON that is not an object.
    pub fn read(body: &'a [u8], kind: Kind, expected: &str) -> Result<Self, Problem> {
        let malformed = |error: serde_json::Error| malformed(&error.to_string(), expected);
        let json: &RawValue = serde_json::from_slice(body).map_err(malformed)?;
        if !json.get().starts_with('{') {
            return Err(wrong_as_a_whole(kind, format!("expected {expected}")));
        }
        let Object(unread) = serde_json::from_str(json.get()).map_err(malformed)?;
        Ok(Self::new(unread, kind))
    }

    /// Fields with their values.
    pub(crate) fn new(unread: Vec<(String, Cow<'a, str>)>, kind: Kind) -> Self {
        Self { unread, names: Vec::new(), errors: Vec::new(), unlisted: 0, kind }
    }

    /// Reads the field of this name with `read`, which returns `None` for a value that is not as `expected`. A missing
    /// or repeated field is also an error.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        match self.optional(name, expected, read) {
            Some(None) => self.wrong(name, &format!("missing; expected {expected}")),
            read => read.flatten(),
        }
    }

    /// Reads a field that may be absent: `None` is an error, `Some(None)` an absent field.
    pub fn optional<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<Option<T>> {
        self.optional_or(name, |value| read(value).ok_or_else(|| format!("expected {expected}")))
    }

    /// As [`optional`](Self::optional), with an error that `read` words.
    pub fn optional_or<T>(
        &mut self,
        name: &'static str,
        read: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        self.names.push(name);
        let named: Vec<Cow<'a, str>> = self
            .unread
            .extract_if(.., |(found, _)| found == name)
            .map(|(_, value)| value)
            .collect();
        match named.as_slice() {
            [] => Some(None),
            [value] => match read(value) {
                Err(error) => self.wrong(name, &error),
                Ok(right) => Some(Some(right)),
            },
            [..] => self.wrong(name, "repeated; expected once"),
        }
    }

    /// Adds an error that concerns no single field.
    pub fn refuse<T>(&mut self, detail: &str) -> Option<T> {
        self.wrong_at(String::new(), detail)
    }

    fn wrong<T>(&mut self, name: &str, detail: &str) -> Option<T> {
        self.wrong_at(pointer(name), detail)
    }

    fn wrong_at<T>(&mut self, pointer: String, detail: &str) -> Option<T> {
        if self.errors.len() < MAX_ERRORS {
            self.errors.push(FieldError { pointer, detail: detail.to_owned() });
        } else {
            self.unlisted += 1;
        }
        None
    }

    /// Returns `complete`, the result of reading all fields.
    ///
    /// # Errors
    /// The errors so far, and one for each unknown field.
    pub fn finish<T>(mut self, complete: Option<T>) -> Result<T, Problem> {
        let noun = if self.kind == Kind::InvalidQuery { "parameter" } else { "field" };
        for (name, _) in std::mem::take(&mut self.unread) {
            let expected = match self.names.as_slice() {
                [] => "none".to_owned(),
                names => names.join(", "),
            };
            let unknown = format!("unknown {noun}; expected {expected}");
            self.wrong::<()>(&name, &unknown);
        }
        if self.unlisted > 0 {
            let detail = format!("{} further errors not listed", self.unlisted);
            self.errors.push(FieldError { pointer: String::new(), detail });
        }
        match complete {
            Some(complete) if self.errors.is_empty() => Ok(complete),
            _ => Err(Problem::new(self.kind).with_errors(self.errors)),
        }
    }
}

/// The problem of a field that can only be checked after the body was read.
pub(crate) fn wrong_field(kind: Kind, name: &str, detail: String) -> Problem {
    Problem::new(kind).with_errors(vec![FieldError { pointer: pointer(name), detail }])
}

/// The problem of a body that is not JSON.
pub(crate) fn malformed(cause: &str, expected: &str) -> Problem {
    let detail = format!(
        "The body is not JSON: {cause}. Send {expected}. This request has not used the key: send the corrected one with the \
         same key."
    );
    let error = format!("not JSON ({cause}); expected {expected}");
    wrong_as_a_whole(Kind::MalformedJson, error).with_detail(detail)
}

/// The problem of a body or query that is wrong as a whole.
pub(crate) fn wrong_as_a_whole(kind: Kind, detail: String) -> Problem {
    Problem::new(kind).with_errors(vec![FieldError { pointer: String::new(), detail }])
}

/// The JSON Pointer to a field of the body (RFC 6901 §3).
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The fields of an object in order, with repeated ones.
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
                let mut fields = Vec::with_capacity(2);
                while let Some((name, json)) = map.next_entry::<_, &RawValue>()? {
                    fields.push((name, json.get().into()));
                }
                Ok(Object(fields))
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
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(body in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(mut fields) = Fields::read(&body, Kind::InvalidPayment, "JSON") {
                let a = fields.optional("a", "JSON", value);
                let _ = fields.finish(a);
            }
        }

        #[test]
        fn nothing_that_looks_like_json_makes_it_panic(body in r#"\{("a"|"b"|:|,|[0-9]|\\|"|\[|\]|\{|\}| ){0,12}\}"#) {
            if let Ok(mut fields) = Fields::read(body.as_bytes(), Kind::InvalidPayment, "JSON") {
                let a = fields.optional("a", "JSON", value);
                let _ = fields.finish(a);
            }
        }

        #[test]
        fn fields_are_read_as_they_were_written(a in json(), b in prop::option::of(json())) {
            let mut object = Map::from_iter([("a".to_owned(), a.clone())]);
            object.extend(b.clone().map(|b| ("b".to_owned(), b)));
            let body = Value::Object(object).to_string();
            let mut fields = Fields::read(body.as_bytes(), Kind::InvalidPayment, "JSON").unwrap();
            let read = fields.required("a", "JSON", value);
            let read = read.zip(fields.optional("b", "JSON", value));
            prop_assert_eq!(fields.finish(read), Ok((a, b)));
        }
    }
}
