//! Bytes from a NATS server, through the intake's parser.
//!
//! The first byte of the input says how the rest is cut into reads, the second how large a payload may be.
#![no_main]

#[path = "../../crates/broker/src/nats/intake/headers.rs"]
#[allow(dead_code, reason = "it is only called")]
mod headers;
#[path = "../../crates/broker/src/nats/intake/wire.rs"]
#[allow(dead_code, reason = "only the parser is used here")]
mod wire;

use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;
use wire::{Operation, Parser, WireError};

const PAYLOADS: [usize; 3] = [0, 100, 1 << 20];

type Outcome = (Vec<Operation>, Option<WireError>);

fuzz_target!(|input: &[u8]| {
    let [cut, payload, bytes @ ..] = input else {
        return;
    };
    let payload = PAYLOADS[usize::from(*payload) % PAYLOADS.len()];
    let whole = parse(payload, [bytes]);
    assert_eq!(parse(payload, bytes.chunks(usize::from(*cut) + 1)), whole, "read in pieces");
    for operation in whole.0 {
        let Operation::Message(message) = operation else { continue };
        assert!(!message.subject().is_empty());
        let headers = headers::Headers::read(message.headers());
        assert!(headers.event.is_none_or(|event| event.len() <= message.headers().len()));
        let length = message.into_payload().len();
        assert!(length <= bytes.len());
    }
});

fn parse<'a>(payload: usize, pieces: impl IntoIterator<Item = &'a [u8]>) -> Outcome {
    let (mut parser, mut buffer, mut operations) = (Parser::new(), BytesMut::new(), Vec::new());
    parser.allow_payload(payload);
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(operation)) => operations.push(operation),
                Ok(None) => break,
                Err(error) => return (operations, Some(error)),
            }
        }
        assert!(parser.missing(&buffer) <= payload + wire::HEADER_ROOM_BYTES + 2, "more is waited for than is allowed");
    }
    (operations, None)
}
