//! Reading the JSON object in a request's body, strictly, and saying of each member what was expected.

use std::fmt;

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, Visitor},
};
use serde_json::value::RawValue;

use crate::problem::{Kind, MemberError, Problem};

/// The members of a JSON object, to be taken one by one. What is wrong is gathered, so that one
/// answer names all of it.
#[derive(Debug)]
pub struct Members<'a> {
    left: Vec<(String, &'a RawValue)>,
    errors: Vec<MemberError>,
    /// Of what problem the errors are.
    kind: Kind,
}

impl<'a> Members<'a> {
    /// Reads a body.
    ///
    /// # Errors
    /// `malformed-json` when it isn't JSON; `kind` when it is JSON, but not an object.
    pub fn read(body: &'a [u8], kind: Kind) -> Result<Self, Problem> {
        let whole = |kind, detail| {
            Problem::new(kind).with_errors(vec![MemberError { pointer: String::new(), detail }])
        };
        let malformed = |error: serde_json::Error| whole(Kind::MalformedJson, error.to_string());
        let json: &RawValue = serde_json::from_slice(body).map_err(malformed)?;
        if !json.get().starts_with('{') {
            return Err(whole(kind, "expected a JSON object".to_owned()));
        }
        let Object(left) = serde_json::from_str(json.get()).map_err(malformed)?;
        Ok(Self { left, errors: Vec::new(), kind })
    }

    /// Takes the member of this name and reads its JSON with `read`, which gives nothing when it
    /// isn't what was `expected`. A member that is missing, or there twice, is an error too.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        let named: Vec<&RawValue> =
            self.left.extract_if(.., |(found, _)| found == name).map(|(_, json)| json).collect();
        match named.as_slice() {
            [json] => {
                read(json.get()).or_else(|| self.wrong(name, &format!("expected {expected}")))
            }
            [] => self.wrong(name, &format!("is missing: expected {expected}")),
            [..] => self.wrong(name, "occurs more than once"),
        }
    }

    fn wrong<T>(&mut self, name: &str, detail: &str) -> Option<T> {
        self.errors.push(MemberError { pointer: pointer(name), detail: detail.to_owned() });
        None
    }

    /// Ends the reading: `complete` is what was made of the members.
    ///
    /// # Errors
    /// When anything was wrong, or members are left that nobody took.
    pub fn finish<T>(mut self, complete: Option<T>) -> Result<T, Problem> {
        for (name, _) in std::mem::take(&mut self.left) {
            self.wrong::<()>(&name, "is not known here");
        }
        match complete {
            Some(complete) if self.errors.is_empty() => Ok(complete),
            _ => Err(Problem::new(self.kind).with_errors(self.errors)),
        }
    }
}

/// The JSON Pointer to a member of the body (RFC 6901 §3).
fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The members of an object as they are written, repeated ones included.
struct Object<'a>(Vec<(String, &'a RawValue)>);

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
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }

        deserializer.deserialize_map(ObjectVisitor)
    }
}
