//! The response that is stored with its key and replayed to every duplicate of the request.

use bytes::Bytes;
use thiserror::Error;

/// The response of a command: stored in the transaction that executes it, replayed byte for byte.
///
/// The body is `application/json` unless a header says otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    status: u16,
    headers: Vec<(String, String)>,
    body: Bytes,
}

/// A header that can't stand in a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a header to store is not `name: value` in printable ASCII")]
pub struct MalformedHeader;

impl Response {
    /// A response with this HTTP status (100–599) and body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Bytes>) -> Self {
        Self { status, headers: Vec::new(), body: body.into() }
    }

    /// Adds a header. One that isn't printable ASCII fails when the response is stored.
    #[must_use]
    pub fn with_header(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// The HTTP status.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// Returns whether the status is 2xx; SQL decides the same. Other responses are refusals, kept as long as their key.
    pub(super) fn is_of_success(&self) -> bool {
        (200..=299).contains(&self.status)
    }

    /// Names and values, in the order in which they were added.
    pub fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// The body, to the byte as it was first sent.
    #[must_use]
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The headers as they are stored: `name: value`, a line each.
    pub(super) fn header_lines(&self) -> Result<String, MalformedHeader> {
        let mut lines = String::new();
        for (name, value) in self.headers() {
            let printable = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
            if name.is_empty() || name.contains([':', ' ']) || !printable(name) || !printable(value)
            {
                return Err(MalformedHeader);
            }
            lines.extend([name, ": ", value, "\n"]);
        }
        Ok(lines)
    }

    /// The response of which these are the stored parts.
    pub(super) fn from_stored(
        status: u16,
        header_lines: &str,
        body: Vec<u8>,
    ) -> Result<Self, MalformedHeader> {
        let mut response = Self::new(status, body);
        for line in header_lines.lines() {
            let (name, value) = line.split_once(": ").ok_or(MalformedHeader)?;
            response = response.with_header(name, value);
        }
        Ok(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_response_comes_back_as_it_was() {
        let response =
            Response::new(201, "{}").with_header("location", "/payment/1").with_header("x", "a: b");
        let lines = response.header_lines().unwrap();
        assert_eq!(Response::from_stored(201, &lines, b"{}".to_vec()), Ok(response));
    }

    #[test]
    fn a_header_that_would_split_the_response_is_refused() {
        for (name, value) in
            [("a", "b\r\nc: d"), ("a\n", "b"), ("a: b", "c"), ("", "b"), ("a", "é")]
        {
            let response = Response::new(200, "").with_header(name, value);
            assert_eq!(response.header_lines(), Err(MalformedHeader), "{name:?}: {value:?}");
        }
    }
}
