//! What sockets remember when they are cut, and what they have to get to be back.

use std::time::Duration;

use memchr::memmem::Finder;

use crate::{
    LoadError,
    engine::{Hooks, frame::Frame},
    literal::Literal,
};

/// Where a node says a position: of a subscription, as an object behind it.
const POSITION: &[u8] = br#""position":"#;

/// Sockets before the storm: what position each was told.
pub(super) struct First {
    positions: Vec<Option<Box<str>>>,
}

impl First {
    pub(super) fn new(sockets: usize) -> Self {
        Self { positions: vec![None; sockets] }
    }

    /// The position of a socket, as JSON.
    pub(super) fn position(&self, socket: usize) -> Result<&str, LoadError> {
        let missing =
            || LoadError::Failed(format!("socket {socket} was told no position: does its namespace keep history?"));
        self.positions[socket].as_deref().ok_or_else(missing)
    }
}

impl Hooks for First {
    fn message(&mut self, socket: usize, frame: &Frame<'_>) {
        if let Some(position) = position(frame.payload) {
            self.positions[socket] = Some(position.into());
        }
    }

    /// The engine fails for it.
    fn closed(&mut self, _: usize, _: &str) {}
}

/// The position in a subscription's answer, an object without others in it.
fn position(payload: &[u8]) -> Option<&str> {
    let begin = memchr::memmem::find(payload, POSITION)? + POSITION.len();
    let end = begin + memchr::memchr(b'}', &payload[begin..])? + 1;
    std::str::from_utf8(&payload[begin..end]).ok()
}

/// The native command by which a socket comes back.
pub(super) fn subscribe(channel: &str, since: &str) -> Literal {
    let command = format!(r#"{{"id":1,"type":"subscribe","channel":"{channel}","since":{since}}}"#);
    Literal { bytes: command.into_bytes(), binary: false }
}

/// Sockets in the storm.
pub(super) struct Returning {
    /// Events that each socket has to get.
    expected: u64,
    /// Events that each has got since it began to connect.
    got: Vec<u64>,
    open: Vec<bool>,
    back: usize,
    proven: u64,
    retries: u64,
    refused: Vec<usize>,
    reason: Option<String>,
    took: Vec<Duration>,
    marker: Option<Finder<'static>>,
    recovered: Finder<'static>,
}

impl Returning {
    pub(super) fn new(sockets: usize, expected: u64, marker: &[u8]) -> Self {
        Self {
            expected,
            got: vec![0; sockets],
            open: vec![false; sockets],
            back: 0,
            proven: 0,
            retries: 0,
            refused: Vec::new(),
            reason: None,
            took: Vec::new(),
            marker: (!marker.is_empty()).then(|| Finder::new(marker).into_owned()),
            recovered: Finder::new(br#""recovered":true"#),
        }
    }

    pub(super) fn sockets(&self) -> usize {
        self.got.len()
    }

    /// Whether each socket is open and has what it has to get.
    pub(super) fn all_are_back(&self) -> bool {
        self.back == self.got.len()
    }

    /// Sockets that the server ended since this was last asked.
    pub(super) fn refused(&mut self) -> Vec<usize> {
        std::mem::take(&mut self.refused)
    }

    /// Why the server ended the first of them.
    pub(super) fn reason(&self) -> &str {
        self.reason.as_deref().unwrap_or("the server ended none")
    }

    /// How often sockets had to try again.
    pub(super) fn retries(&self) -> u64 {
        self.retries
    }

    /// Events that came to those that had missed them.
    pub(super) fn recovered(&self) -> u64 {
        self.got.iter().sum()
    }

    /// Answers that said `recovered: true`.
    pub(super) fn proven(&self) -> u64 {
        self.proven
    }

    /// Events that did not come.
    pub(super) fn lost(&self) -> u64 {
        self.got.iter().map(|got| self.expected.saturating_sub(*got)).sum()
    }

    /// An error where something came twice.
    pub(super) fn check(&self) -> Result<(), LoadError> {
        match self.got.iter().position(|got| self.expected > 0 && *got > self.expected) {
            None => Ok(()),
            Some(socket) => {
                let (got, expected) = (self.got[socket], self.expected);
                Err(LoadError::Failed(format!("socket {socket} got {got} events of {expected}: some came twice")))
            }
        }
    }

    /// How long each socket took until it was subscribed, sorted.
    pub(super) fn took(&mut self) -> &[Duration] {
        self.took.sort_unstable();
        &self.took
    }

    fn is_back(&self, socket: usize) -> bool {
        self.open[socket] && self.got[socket] >= self.expected
    }
}

impl Hooks for Returning {
    fn message(&mut self, socket: usize, frame: &Frame<'_>) {
        let was_back = self.is_back(socket);
        self.got[socket] += match &self.marker {
            Some(marker) => marker.find_iter(frame.payload).count() as u64,
            None => 1,
        };
        if !self.open[socket] && self.recovered.find(frame.payload).is_some() {
            self.proven += 1;
        }
        self.back += usize::from(!was_back && self.is_back(socket));
    }

    fn opened(&mut self, socket: usize, took: Duration) {
        self.open[socket] = true;
        self.took.push(took);
        self.back += usize::from(self.is_back(socket));
    }

    fn closed(&mut self, socket: usize, reason: &str) {
        self.back -= usize::from(self.is_back(socket));
        self.open[socket] = false;
        self.got[socket] = 0;
        self.retries += 1;
        self.reason.get_or_insert_with(|| reason.to_owned());
        self.refused.push(socket);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn returning(sockets: usize, expected: u64) -> Returning {
        Returning::new(sockets, expected, br#""t":"#)
    }

    fn text(payload: &[u8]) -> Frame<'_> {
        Frame { opcode: 1, compressed: false, payload }
    }

    #[test]
    fn a_position_is_remembered_as_it_was_told() {
        let mut first = First::new(2);
        let told =
            br#"{"event":"system:subscribed","data":{"channel":"bench:1","position":{"offset":43,"epoch":"b7f2"}}}"#;
        first.message(1, &text(told));
        assert_eq!(first.position(1).unwrap(), r#"{"offset":43,"epoch":"b7f2"}"#);
        assert!(first.position(0).is_err());
        let command = subscribe("bench:1", first.position(1).unwrap());
        let expected = br#"{"id":1,"type":"subscribe","channel":"bench:1","since":{"offset":43,"epoch":"b7f2"}}"#;
        assert_eq!(command.bytes, expected);
    }

    #[test]
    fn a_socket_is_back_with_its_last_event_whether_in_the_answer_or_behind_it() {
        let mut storm = returning(2, 2);
        storm.message(0, &text(br#"{"recovered":true,"publications":[{"t":1},{"t":2}]}"#));
        storm.opened(0, Duration::from_millis(2));
        storm.message(1, &text(br#"{"recovered":true,"publications":[{"t":1}]}"#));
        storm.opened(1, Duration::from_millis(1));
        assert!(!storm.all_are_back());
        assert_eq!((storm.recovered(), storm.lost(), storm.proven()), (3, 1, 2));
        storm.message(1, &text(br#"{"t":2}"#));
        assert!(storm.all_are_back());
        assert_eq!(storm.lost(), 0);
        storm.check().unwrap();
        storm.message(1, &text(br#"{"t":2}"#));
        assert!(storm.check().is_err());
    }

    #[test]
    fn a_socket_that_is_ended_begins_anew() {
        let mut storm = returning(1, 1);
        storm.message(0, &text(br#"{"t":1}"#));
        storm.opened(0, Duration::ZERO);
        assert!(storm.all_are_back());
        storm.closed(0, "gone");
        assert!(!storm.all_are_back());
        assert_eq!((storm.refused(), storm.retries(), storm.reason()), (vec![0], 1, "gone"));
        assert!(storm.refused().is_empty());
    }
}
