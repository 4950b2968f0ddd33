//! Bytes from a client, through the WebSocket parser.
//!
//! The first byte of the input chooses the parser's settings, the second how the rest is cut into
//! reads. The rest is the client's bytes, or (by a bit of the first byte) a list of frames that are
//! masked and given their lengths here, so that the fuzzer does not have to find that out.
#![no_main]

#[path = "../../crates/gateway/src/websocket/mod.rs"]
#[allow(dead_code, unused_imports, unreachable_pub, reason = "only the parser is used here")]
mod websocket;

use libfuzzer_sys::fuzz_target;
use websocket::{Deflater, Event, Parser, ProtocolError, Scratch, encode};

const COMPRESSION: u8 = 1;
const LIST_OF_FRAMES: u8 = 2;
const LIMITS: [u32; 4] = [20, 300, 5_000, 1 << 20];

/// What a parser holds beside payload, with room for a control frame.
const OVERHEAD_BYTES: usize = 512;

#[derive(Clone, Debug, PartialEq)]
enum Owned {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    Close(Option<u16>, String),
}

type Outcome = (Vec<Owned>, Option<ProtocolError>);

fuzz_target!(|input: &[u8]| {
    let [settings, cut, bytes @ ..] = input else {
        return;
    };
    let compression = settings & COMPRESSION != 0;
    let limit = LIMITS[usize::from(settings >> 2) % LIMITS.len()];
    let bytes = if settings & LIST_OF_FRAMES != 0 { frames(bytes) } else { bytes.to_vec() };

    // Shared, as by the connections of a shard.
    let scratch = &mut Scratch::new();
    let whole = parse(limit, compression, [&bytes[..]], scratch);
    let pieces = cut_into_pieces(&bytes, *cut);
    assert_eq!(parse(limit, compression, pieces, scratch), whole, "read in pieces");
    if bytes.len() < 200 {
        assert_eq!(parse(limit, compression, bytes.chunks(1), scratch), whole, "read byte by byte");
    }

    // What was understood is understood again when it is written down.
    let (events, _) = whole;
    let again: Vec<u8> = events.iter().flat_map(|event| masked(&encoded(event))).collect();
    assert_eq!(parse(limit, compression, [&again[..]], scratch), (events, None), "written and read");
});

fn parse<'a>(
    limit: u32,
    compression: bool,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    scratch: &mut Scratch,
) -> Outcome {
    let mut parser = Parser::new(limit, compression);
    let (mut events, mut error) = (Vec::new(), None);
    for piece in pieces {
        let mut buffer = piece.to_vec();
        let mut unread = &mut buffer[..];
        loop {
            match parser.next(&mut unread, scratch) {
                Ok(Some(event)) => {
                    assert!(error.is_none(), "an event after an error");
                    events.push(owned(event, limit));
                }
                Ok(None) => break,
                Err(first) => {
                    assert!(error.is_none() && parser.is_finished(), "one error");
                    error = Some(first);
                }
            }
        }
        assert!(unread.is_empty(), "all is consumed");
        let most = limit as usize + limit as usize / 256 + OVERHEAD_BYTES;
        assert!(parser.held_bytes() <= most, "{} bytes held", parser.held_bytes());
        assert!(!parser.is_finished() || parser.held_bytes() == 0, "memory is given back");
    }
    (events, error)
}

fn owned(event: Event<'_>, limit: u32) -> Owned {
    match event {
        Event::Text(text) => {
            assert!(text.len() <= limit as usize);
            Owned::Text(text.into())
        }
        Event::Binary(bytes) => {
            assert!(bytes.len() <= limit as usize);
            Owned::Binary(bytes.into())
        }
        Event::Ping(payload) => Owned::Ping(payload.into()),
        Event::Pong(payload) => Owned::Pong(payload.into()),
        Event::Close { code, reason } => Owned::Close(code, reason.into()),
    }
}

/// Pieces of 0 to 15 bytes and some longer ones, by a small generator with `seed`.
fn cut_into_pieces(mut bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed).wrapping_mul(0x9e37_79b9) | 1;
    let mut pieces = Vec::new();
    while !bytes.is_empty() {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        let len = (state >> 8) as usize % if state & 7 == 0 { 5_000 } else { 16 };
        let (piece, rest) = bytes.split_at(len.min(bytes.len()));
        pieces.push(piece);
        bytes = rest;
    }
    pieces
}

/// Frames from a description: the first byte of the frame, a length up to 127 with a bit that says
/// "compress it", the payload.
fn frames(mut description: &[u8]) -> Vec<u8> {
    let mut deflater = None;
    let mut out = Vec::new();
    while let [first, length, rest @ ..] = description {
        let (payload, rest) = rest.split_at(usize::from(length & 0x7f).min(rest.len()));
        description = rest;
        let long = payload.repeat(9);
        let compress = length & 0x80 != 0;
        let compressed = compress.then(|| deflater.get_or_insert_with(Deflater::new).compress(&long)).flatten();
        let payload = compressed.unwrap_or(payload);
        let mut frame = Vec::new();
        encode::binary(payload, &mut frame);
        frame[0] = *first;
        out.extend(masked(&frame));
    }
    out
}

fn encoded(event: &Owned) -> Vec<u8> {
    let mut out = Vec::new();
    match event {
        Owned::Text(text) => encode::text(text, &mut out),
        Owned::Binary(bytes) => encode::binary(bytes, &mut out),
        Owned::Ping(payload) => encode::ping(payload, &mut out),
        Owned::Pong(payload) => encode::pong(payload, &mut out),
        Owned::Close(code, reason) => encode::close(*code, reason, &mut out),
    }
    out
}

/// A server's frame as a client would send it.
fn masked(frame: &[u8]) -> Vec<u8> {
    const KEY: [u8; 4] = [0x5a, 0x01, 0xff, 0x80];
    let header_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    let (header, payload) = frame.split_at(header_bytes);
    let mut out = header.to_vec();
    out[1] |= 0x80;
    out.extend(KEY);
    out.extend(payload.iter().zip(KEY.into_iter().cycle()).map(|(byte, key)| byte ^ key));
    out
}
