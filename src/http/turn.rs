//! Passes pipelined requests to actix one at a time.
//!
//! actix-http 3.20 decodes every request that has arrived, and writes each response with the method, version and
//! connection option of the request that it decoded last (`Codec::decode` and `Codec::encode` in `h1/codec.rs`). If
//! `POST` and `HEAD` arrive together, the response to `POST` has a length and no body. So actix gets the next request
//! only after it has answered the one before.

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::Rc,
    task::Waker,
};

use tokio::time::Instant;

/// The bytes that actix may read now: the variants say which.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// A head.
    Head(Line),
    /// None: a head is complete, and actix is about to start its request. `behind` bytes after it were read.
    Complete { behind: u64 },
    /// The rest of a body with a length.
    Sized(u64),
    /// A chunked body up to the next empty line, because every chunked body ends with one.
    Chunked { line: Line, read: u64 },
    /// None until actix has decoded the empty line.
    EmptyLine { read: u64 },
    /// None: the request is being answered. `begun` if the beginning of the next one was read.
    Answering { begun: bool },
    /// None: the connection closes after the current response.
    Closed,
}

/// The position in a line, for finding empty lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// Before a head, where empty lines are ignored (RFC 9112 §2.2).
    Before,
    /// At the beginning of a line.
    Empty,
    /// After some text of a line.
    Text,
}

/// The length of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Length {
    Bytes(u64),
    Chunked,
}

/// The state that a connection shares with its requests.
#[derive(Debug)]
pub(super) struct Turn {
    /// The address that the server listens on.
    listener: SocketAddr,
    phase: Cell<Phase>,
    /// Limit of a chunked body in bytes, with sizes, extensions and trailers.
    chunked_limit: u64,
    is_too_long: Cell<bool>,
    /// `None` while a request is in progress.
    idle_since: Cell<Option<Instant>>,
    /// Bytes wait until a phase allows them to be read.
    holds: Cell<bool>,
    reader: RefCell<Option<Waker>>,
}

impl Turn {
    pub(super) fn new(listener: SocketAddr, chunked_limit: u64) -> Rc<Self> {
        Rc::new(Self {
            listener,
            phase: Cell::new(Phase::Head(Line::Before)),
            chunked_limit,
            is_too_long: Cell::new(false),
            idle_since: Cell::new(Some(Instant::now())),
            holds: Cell::new(false),
            reader: RefCell::new(None),
        })
    }

    pub(super) fn listener(&self) -> SocketAddr {
        self.listener
    }

    /// Returns when the last request ended, or `None` while one is in progress.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        self.idle_since.get()
    }

    /// Returns whether nothing is read any more.
    pub(super) fn is_closed(&self) -> bool {
        self.phase.get() == Phase::Closed
    }

    /// Returns whether some bytes may be read now.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.phase.get(), Phase::Head(_) | Phase::Sized(_) | Phase::Chunked { .. })
    }

    /// Continues after an empty line of a chunked body. Returns whether actix has to decode it first.
    pub(super) fn passes_empty_line(&self) -> bool {
        let Phase::EmptyLine { read } = self.phase.get() else { return false };
        self.phase.set(Phase::Chunked { line: Line::Empty, read });
        true
    }

    /// Notes the task that waits for bytes, and whether some are held back.
    pub(super) fn wait(&self, reader: &Waker, holds: bool) {
        self.holds.set(holds);
        let mut noted = self.reader.borrow_mut();
        if !noted.as_ref().is_some_and(|noted| noted.will_wake(reader)) {
            *noted = Some(reader.clone());
        }
    }

    /// Returns the number of these bytes that may be read: at least one while [`Self::is_open`].
    pub(super) fn admit(&self, bytes: &[u8]) -> usize {
        let (admitted, phase) = match self.phase.get() {
            Phase::Head(line) => match find_empty_line(line, bytes) {
                Err(line) => (bytes.len(), Phase::Head(line)),
                Ok(end) => {
                    // Most bodies are a single line. Without a line end there is no second head, and no part of an
                    // empty line before it.
                    let rest = bytes.get(end..).unwrap_or_default();
                    let lines = rest.iter().any(|byte| matches!(byte, b'\r' | b'\n'));
                    let behind = if lines { 0 } else { rest.len() };
                    (end + behind, Phase::Complete { behind: count(behind) })
                }
            },
            Phase::Sized(left) => {
                let admitted =
                    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                (admitted, sized(left - count(admitted)))
            }
            Phase::Chunked { line, read } => {
                let (admitted, line) = match find_empty_line(line, bytes) {
                    Err(line) => (bytes.len(), Some(line)),
                    Ok(end) => (end, None),
                };
                let read = read + count(admitted);
                (
                    admitted,
                    line.map_or(Phase::EmptyLine { read }, |line| Phase::Chunked { line, read }),
                )
            }
            phase => (0, phase),
        };
        self.phase.set(phase);
        if let Phase::Chunked { read, .. } | Phase::EmptyLine { read } = phase
            && read > self.chunked_limit
        {
            self.is_too_long.set(true);
            self.enter(Phase::Closed);
        }
        admitted
    }

    fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        if (self.holds.get() || phase == Phase::Closed)
            && let Some(reader) = &*self.reader.borrow()
        {
            reader.wake_by_ref();
        }
    }
}

/// A request in progress, until this is dropped.
pub(super) struct UnderWay {
    turn: Rc<Turn>,
    is_last: bool,
}

impl UnderWay {
    /// Call it as soon as actix starts a request.
    pub(super) fn begin(turn: &Rc<Turn>, length: Length) -> Self {
        turn.idle_since.set(None);
        turn.enter(match (turn.phase.get(), length) {
            (Phase::Complete { behind }, Length::Bytes(length)) if behind > length => {
                Phase::Answering { begun: true }
            }
            (Phase::Complete { behind }, Length::Bytes(length)) => sized(length - behind),
            (Phase::Complete { behind }, Length::Chunked) => {
                Phase::Chunked { line: Line::Text, read: behind }
            }
            // actix found a head that `admit` did not find.
            _ => Phase::Closed,
        });
        Self { turn: Rc::clone(turn), is_last: false }
    }

    /// Ends the reading of the body. `is_whole` if it was read to its end.
    pub(super) fn end_body(&self, is_whole: bool) {
        match self.turn.phase.get() {
            Phase::Answering { .. } | Phase::Closed if is_whole => {}
            Phase::Chunked { .. } | Phase::EmptyLine { .. } if is_whole => {
                self.turn.enter(Phase::Answering { begun: false });
            }
            _ => self.turn.enter(Phase::Closed),
        }
    }

    /// Returns whether a chunked body exceeded its limit.
    pub(super) fn is_too_long(&self) -> bool {
        self.turn.is_too_long.get()
    }

    /// Closes the connection after this request.
    pub(super) fn make_last(&mut self) {
        self.is_last = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.turn.idle_since.set(Some(Instant::now()));
        self.turn.enter(match self.turn.phase.get() {
            Phase::Answering { begun } if !self.is_last => {
                Phase::Head(if begun { Line::Text } else { Line::Before })
            }
            _ => Phase::Closed,
        });
    }
}

fn sized(left: u64) -> Phase {
    if left == 0 { Phase::Answering { begun: false } } else { Phase::Sized(left) }
}

/// Returns the end of the next empty line, or the position in a line where the bytes end.
fn find_empty_line(mut line: Line, bytes: &[u8]) -> Result<usize, Line> {
    for (place, byte) in bytes.iter().enumerate() {
        line = match (line, byte) {
            (Line::Empty, b'\n') => return Ok(place + 1),
            (Line::Text, b'\n') => Line::Empty,
            (Line::Before, b'\n') | (_, b'\r') => line,
            _ => Line::Text,
        };
    }
    Err(line)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::{Length, Turn, UnderWay};

    const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

    fn turn() -> Rc<Turn> {
        Turn::new(([127, 0, 0, 1], 0).into(), 100)
    }

    #[test]
    fn nothing_is_read_between_a_head_and_the_end_of_its_request() {
        let turn = turn();
        let two = [HEAD, HEAD].concat();
        for _ in 0..3 {
            assert_eq!(turn.admit(&two), HEAD.len());
            assert!(!turn.is_open() && turn.admit(HEAD) == 0);
            let under_way = UnderWay::begin(&turn, Length::Bytes(0));
            under_way.end_body(true);
            assert!(!turn.is_open() && turn.admit(HEAD) == 0);
            drop(under_way);
            assert!(turn.is_open());
        }
    }

    #[test]
    fn the_beginning_of_the_next_head_may_be_read_with_a_body() {
        let turn = turn();
        let (begin, rest) = HEAD.split_at(9);
        let bytes = [HEAD, b"{}", begin].concat();
        assert_eq!(turn.admit(&bytes), bytes.len());
        drop(UnderWay::begin(&turn, Length::Bytes(2)));
        assert_eq!(turn.admit(&[rest, HEAD].concat()), rest.len());
    }

    #[test]
    fn a_line_end_between_two_requests_begins_no_head() {
        for split in 1..4 {
            let turn = turn();
            let (first, second) = b"\r\n\r\n".split_at(split);
            let bytes = [HEAD, b"{}", first].concat();
            assert_eq!(turn.admit(&bytes), HEAD.len());
            let under_way = UnderWay::begin(&turn, Length::Bytes(2));
            assert_eq!(turn.admit(&bytes[HEAD.len()..]), 2);
            under_way.end_body(true);
            drop(under_way);
            turn.admit(first);
            turn.admit(second);
            assert!(turn.is_open(), "{first:?}");
            assert_eq!(turn.admit(&[HEAD, HEAD].concat()), HEAD.len());
        }
    }

    #[test]
    fn a_chunked_body_is_read_from_empty_line_to_empty_line() {
        let turn = turn();
        turn.admit(HEAD);
        let under_way = UnderWay::begin(&turn, Length::Chunked);
        let (line, end) = (b"2\r\nx\n\r\n".as_slice(), b"x\r\n0\r\n\r\n".as_slice());
        assert_eq!(turn.admit(&[line, end, HEAD].concat()), line.len());
        assert!(!turn.is_open() && turn.passes_empty_line() && turn.is_open());
        assert_eq!(turn.admit(&[end, HEAD].concat()), end.len());
        assert!(!turn.is_open());
        under_way.end_body(true);
        drop(under_way);
        assert_eq!(turn.admit(HEAD), HEAD.len());
    }

    #[test]
    fn nothing_is_read_after_the_last_request_a_refused_body_or_an_unknown_head() {
        let closed = |end: fn(&Rc<Turn>)| {
            let turn = turn();
            end(&turn);
            turn.is_closed()
        };
        assert!(closed(|turn| {
            turn.admit(HEAD);
            UnderWay::begin(turn, Length::Bytes(0)).make_last();
        }));
        assert!(closed(|turn| {
            turn.admit(HEAD);
            UnderWay::begin(turn, Length::Bytes(9)).end_body(false);
        }));
        assert!(closed(|turn| {
            turn.admit(HEAD);
            let _under_way = UnderWay::begin(turn, Length::Chunked);
            turn.admit(&[b'x'; 101]);
        }));
        assert!(closed(|turn| drop(UnderWay::begin(turn, Length::Bytes(0)))));
    }
}
