//! What clients send: frames to the parser, and commands to the decoders.

use fanfare_gateway::websocket::{Parser, Scratch, encode};
use fanfare_protocol::{json, msgpack};

use crate::counter::Counter;

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const MAX_MESSAGE_BYTES: u32 = 64 * 1024;
const SUBSCRIBE: &str = r#"{"id":1,"type":"subscribe","channel":"project:clx000001"}"#;

/// A client's frame, from the server's of the same content.
fn masked(write: impl Fn(&mut Vec<u8>)) -> Vec<u8> {
    let mut frame = Vec::new();
    write(&mut frame);
    let header_bytes = match frame[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    frame[1] |= 0x80;
    frame[header_bytes..].iter_mut().zip(KEY.into_iter().cycle()).for_each(|(byte, key)| *byte ^= key);
    frame.splice(header_bytes..header_bytes, KEY);
    frame
}

pub fn count(counter: &mut Counter) {
    let text = |bytes: usize| super::envelope::data(bytes.max(64))[..bytes].to_owned();
    for (size, bytes, calls) in [("16 B", 16, 256), ("256 B", 256, 256), ("16 KiB", 16 * 1024, 32)] {
        let frame = masked(|out| encode::text(&text(bytes), out));
        parse(counter, format!("frame: parse, text, {size}"), &frame, calls);
    }
    parse(counter, "frame: parse, ping".to_owned(), &masked(|out| encode::ping(b"12345678", out)), 256);
    parse(counter, "frame: parse, close".to_owned(), &masked(|out| encode::close(Some(1000), "bye", out)), 256);
    in_two_reads(counter, &masked(|out| encode::text(&text(256), out)));
    commands(counter);
}

fn parse(counter: &mut Counter, name: String, frame: &[u8], calls: usize) {
    let mut scratch = Scratch::new();
    let make = |_| (Parser::new(MAX_MESSAGE_BYTES, false), frame.to_vec());
    counter.case(name, calls, make, |(parser, frame)| {
        let mut unread = &mut frame[..];
        parser.next(&mut unread, &mut scratch).is_ok_and(|event| event.is_some())
    });
}

fn in_two_reads(counter: &mut Counter, frame: &[u8]) {
    let mut scratch = Scratch::new();
    let make = |_| (Parser::new(MAX_MESSAGE_BYTES, false), frame.to_vec());
    counter.case("frame: parse, text, 256 B in two reads", 256, make, |(parser, frame)| {
        let (mut first, mut second) = frame.split_at_mut(100);
        assert!(matches!(parser.next(&mut first, &mut scratch), Ok(None)), "it is incomplete");
        parser.next(&mut second, &mut scratch).is_ok_and(|event| event.is_some())
    });
}

fn commands(counter: &mut Counter) {
    counter.case(
        "command: decode, subscribe, JSON",
        256,
        |_| (),
        |()| {
            let mut decoded = 0;
            json::decode_frame(SUBSCRIBE, |command| decoded += usize::from(command.is_ok()));
            decoded
        },
    );
    let mut packed = Vec::new();
    msgpack::json_to_msgpack(SUBSCRIBE.as_bytes(), &mut packed).expect("it is JSON");
    counter.case(
        "command: decode, subscribe, MessagePack",
        256,
        |_| (),
        |()| {
            let mut decoded = 0;
            msgpack::decode_frame(&packed, |command| decoded += usize::from(command.is_ok()));
            decoded
        },
    );
}
