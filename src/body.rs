//! Reading the JSON object in a request's body, strictly, and saying of each member what was expected.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::problem::{Kind, MemberError, Problem};

/// The members of a JSON object, to be taken one by one. What is wrong is gathered, so that one
/// answer names all of it.
#[derive(Debug)]
pub struct Members {
    left: Vec<(String, Value)>,
    errors: Vec<MemberError>,
    /// Of what problem the errors are.
    kind: Kind,
}

impl Members {
    /// Reads a body.
    ///
    /// # Errors
    /// `malformed-json` when it isn't JSON; `kind` when it is JSON, but not an object.
    pub fn read(body: &[u8], kind: Kind) -> Result<Self, Problem> {
        let whole = |detail: String| vec![MemberError { pointer: String::new(), detail }];
        let read: Top = serde_json::from_slice(body).map_err(|error| {
            Problem::new(Kind::MalformedJson).with_errors(whole(error.to_string()))
        })?;
        match read {
            Top::Object(members) => Ok(Self { left: members, errors: Vec::new(), kind }),
            Top::Other => {
                Err(Problem::new(kind).with_errors(whole("expected a JSON object".to_owned())))
            }
        }
    }

    /// Takes the member of this name and reads it with `read`, which gives nothing when it isn't
    /// what was `expected`. A member that is missing is an error too.
    pub fn required<T>(
        &mut self,
        name: &'static str,
        expected: &str,
        read: impl FnOnce(Value) -> Option<T>,
    ) -> Option<T> {
        match self.take(name) {
            Some(value) => read(value).or_else(|| self.wrong(name, expected)),
            None => self.wrong(name, &format!("is missing: expected {expected}")),
        }
    }

    /// Takes the member of this name, its first occurrence; each further one is an error.
    fn take(&mut self, name: &'static str) -> Option<Value> {
        let mut taken = None;
        let named = self.left.extract_if(.., |(found, _)| found == name).map(|(_, value)| value);
        let named: Vec<Value> = named.collect();
        for value in named {
            if taken.is_some() {
                self.wrong::<()>(name, "occurs more than once");
            } else {
                taken = Some(value);
            }
        }
        taken
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

/// A JSON text, of which only an object's members are of interest; repeated ones are all kept.
enum Top {
    Object(Vec<(String, Value)>),
    Other,
}

impl<'de> Deserialize<'de> for Top {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct TopVisitor;

        impl<'de> Visitor<'de> for TopVisitor {
            type Value = Top;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Top, A::Error> {
                let mut members = Vec::with_capacity(2);
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Top::Object(members))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Top, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Top::Other)
            }

            fn visit_unit<E>(self) -> Result<Top, E> {
                Ok(Top::Other)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Top, E> {
                Ok(Top::Other)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Top, E> {
                Ok(Top::Other)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Top, E> {
                Ok(Top::Other)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Top, E> {
                Ok(Top::Other)
            }

            fn visit_str<E>(self, _: &str) -> Result<Top, E> {
                Ok(Top::Other)
            }
        }

        deserializer.deserialize_any(TopVisitor)
    }
}
