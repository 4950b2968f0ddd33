//! What tests need of a client: frames, and what a parser makes of them.

use super::{Event, Parser, ProtocolError, Scratch, encode};

pub(super) const FIN: u8 = 0x80;
pub(super) const RSV1: u8 = 0x40;
const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// An [`Event`] of its own.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

impl From<Event<'_>> for Owned {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Text(text) => Self::Text(text.to_owned()),
            Event::Binary(bytes) => Self::Binary(bytes.to_owned()),
            Event::Ping(payload) => Self::Ping(payload.to_owned()),
            Event::Pong(payload) => Self::Pong(payload.to_owned()),
            Event::Close { code, reason } => Self::Close(code, reason.to_owned()),
        }
    }
}

/// A client's frame: the first byte as given, a minimal length, masked.
pub(super) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode::binary(payload, &mut bytes);
    let header_bytes = bytes.len() - payload.len();
    bytes[0] = first;
    bytes[1] |= 0x80;
    bytes.splice(header_bytes..header_bytes, KEY);
    for (i, byte) in bytes[header_bytes + 4..].iter_mut().enumerate() {
        *byte ^= KEY[i % 4];
    }
    bytes
}

pub(super) fn text(payload: &str) -> Vec<u8> {
    frame(FIN | 1, payload.as_bytes())
}

pub(super) type Outcome = (Vec<Owned>, Option<ProtocolError>);

pub(super) fn read(
    parser: &mut Parser,
    scratch: &mut Scratch,
    bytes: &[u8],
    events: &mut Vec<Owned>,
) -> Option<ProtocolError> {
    let mut buffer = bytes.to_vec();
    let mut unread = &mut buffer[..];
    loop {
        match parser.next(&mut unread, scratch) {
            Ok(Some(event)) => events.push(event.into()),
            Ok(None) => {
                assert!(unread.is_empty(), "all of the input is consumed");
                return None;
            }
            Err(error) => return Some(error),
        }
    }
}

/// Parses `pieces` one after another, as if each came by its own read.
pub(super) fn parse_pieces<'a>(parser: &mut Parser, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut events, mut scratch) = (Vec::new(), Scratch::new());
    for piece in pieces {
        if let Some(error) = read(parser, &mut scratch, piece, &mut events) {
            return (events, Some(error));
        }
    }
    (events, None)
}
