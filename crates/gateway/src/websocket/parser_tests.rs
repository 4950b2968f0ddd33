use super::*;
use crate::websocket::{
    Deflater, MAX_CONTROL_PAYLOAD_BYTES, close,
    test_client::{FIN, Outcome, Owned, RSV1, frame, parse_pieces, read, text},
};

const LIMIT: u32 = 1 << 20;

/// Parses `bytes` whole, byte by byte, and in two pieces split everywhere; the outcome has to be
/// the same.
fn parse_with(limit: u32, compression: bool, bytes: &[u8]) -> Outcome {
    let new = || Parser::new(limit, compression);
    let whole = parse_pieces(&mut new(), [bytes]);
    let single = parse_pieces(&mut new(), bytes.chunks(1));
    assert_eq!(single, whole, "byte by byte");
    let step = (bytes.len() / 300).max(1);
    for split in (0..bytes.len()).step_by(step) {
        let (head, tail) = bytes.split_at(split);
        assert_eq!(parse_pieces(&mut new(), [head, tail]), whole, "split at {split}");
    }
    whole
}

fn parse(bytes: &[u8]) -> Outcome {
    parse_with(LIMIT, false, bytes)
}

fn events(bytes: &[u8]) -> Vec<Owned> {
    let (events, error) = parse(bytes);
    assert_eq!(error, None);
    events
}

/// The error, after a message that has to arrive and before one that must not.
fn refused(bytes: &[u8]) -> ProtocolError {
    refused_with(LIMIT, false, bytes)
}

fn refused_with(limit: u32, compression: bool, bytes: &[u8]) -> ProtocolError {
    let stream = [&text("before"), bytes, &text("after")].concat();
    let (events, error) = parse_with(limit, compression, &stream);
    assert_eq!(events, [Owned::Text("before".into())]);
    error.expect("an error")
}

#[test]
fn a_parser_is_small() {
    assert!(size_of::<Parser>() <= 16, "{} bytes", size_of::<Parser>());
}

/// RFC 6455 section 5.7.
#[test]
fn the_standards_examples() {
    let hello = b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(events(hello), [Owned::Text("Hello".into())]);
    let pong = b"\x8a\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
    assert_eq!(events(pong), [Owned::Pong(b"Hello".into())]);
    let fragmented = [frame(1, b"Hel"), frame(FIN, b"lo")].concat();
    assert_eq!(events(&fragmented), [Owned::Text("Hello".into())]);
}

#[test]
fn messages_of_every_length_class() {
    for len in [0usize, 1, 7, 8, 9, 125, 126, 127, 1000, 65535, 65536, 70_000] {
        let payload: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
        let bytes = frame(FIN | 2, &payload);
        assert_eq!(events(&bytes), [Owned::Binary(payload)], "{len} bytes");
    }
}

#[test]
fn control_frames_between_fragments() {
    let stream = [
        frame(1, "\u{20ac}".as_bytes().split_at(1).0),
        frame(FIN | 9, b"are you there?"),
        frame(0, b""),
        frame(FIN | 10, &[7; MAX_CONTROL_PAYLOAD_BYTES]),
        frame(FIN, "\u{20ac}".as_bytes().split_at(1).1),
        frame(FIN | 2, b""),
        frame(FIN | 8, b"\x03\xe9bye"),
    ]
    .concat();
    assert_eq!(
        events(&stream),
        [
            Owned::Ping(b"are you there?".into()),
            Owned::Pong(vec![7; MAX_CONTROL_PAYLOAD_BYTES]),
            Owned::Text("\u{20ac}".into()),
            Owned::Binary(Vec::new()),
            Owned::Close(Some(close::GOING_AWAY), "bye".into()),
        ]
    );
}

#[test]
fn nothing_is_read_after_a_close_frame_or_an_error() {
    let stream = [frame(FIN | 8, b""), text("after"), vec![0xff; 20]].concat();
    assert_eq!(events(&stream), [Owned::Close(None, String::new())]);

    let mut parser = Parser::new(LIMIT, false);
    let bad = frame(FIN | 3, b"");
    let (_, error) = parse_pieces(&mut parser, [&bad[..]]);
    assert!(error.is_some() && parser.is_finished());
    assert_eq!(parse_pieces(&mut parser, [&text("after")[..]]), (vec![], None));
}

#[test]
fn violations_of_the_header() {
    use ProtocolError as E;
    assert_eq!(refused(b"\x81\x05Hello"), E::Unmasked);
    for bits in 1..8u8 {
        let bytes = frame(FIN | (bits << 4) | 1, b"x");
        assert_eq!(refused(&bytes), E::ReservedBits { bits });
    }
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15u8] {
        let bytes = frame(FIN | opcode, b"x");
        assert_eq!(refused(&bytes), E::ReservedOpcode { opcode });
    }
    assert_eq!(refused(b"\x82\xfe\x00\x7dkeyk"), E::NonMinimalLength { length: 125 });
    assert_eq!(refused(b"\x82\xff\x00\x00\x00\x00\x00\x00\xff\xffkeyk"), E::NonMinimalLength { length: 65535 });
    assert_eq!(refused(b"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x00keyk"), E::LengthOutOfRange { length: 1 << 63 });
    for opcode in [8, 9, 10] {
        assert_eq!(refused(&frame(opcode, b"")), E::FragmentedControl);
        assert_eq!(refused(&frame(FIN | opcode, &[0; 126])), E::ControlTooLong);
    }
    assert_eq!(refused(&frame(FIN, b"x")), E::UnexpectedContinuation);
    assert_eq!(refused(&frame(0, b"x")), E::UnexpectedContinuation);
    for opcode in [1, 2, FIN | 1, FIN | 2] {
        let bytes = [frame(1, b"x"), frame(opcode, b"y")].concat();
        assert_eq!(refused(&bytes), E::ExpectedContinuation);
    }
}

#[test]
fn violations_of_close_frames() {
    use ProtocolError as E;
    assert_eq!(refused(&frame(FIN | 8, b"\x03")), E::ClosePayload);
    assert_eq!(refused(&frame(FIN | 8, b"\x03\xed")), E::CloseCode { code: 1005 });
    assert_eq!(refused(&frame(FIN | 8, b"\x03\xe8\xff")), E::CloseReason);
}

#[test]
fn violations_of_utf8() {
    assert_eq!(refused(&frame(FIN | 1, b"\xce\xba\xff")), ProtocolError::InvalidUtf8);
    // An incomplete character at the end.
    assert_eq!(refused(&frame(FIN | 1, b"\xce\xba\xe1\xbd")), ProtocolError::InvalidUtf8);
    let bytes = [frame(1, b"\xe1"), frame(FIN, b"\xbd")].concat();
    assert_eq!(refused(&bytes), ProtocolError::InvalidUtf8);
    // A surrogate and an overlong form; binary messages may hold anything.
    assert_eq!(refused(&frame(FIN | 1, b"\xed\xa0\x80")), ProtocolError::InvalidUtf8);
    assert_eq!(refused(&frame(FIN | 1, b"\xc0\xaf")), ProtocolError::InvalidUtf8);
    assert_eq!(events(&frame(FIN | 2, b"\xed\xa0\x80")), [Owned::Binary(b"\xed\xa0\x80".into())]);
}

/// Autobahn 6.4: as soon as the text cannot become valid, in the middle of a frame too.
#[test]
fn invalid_utf8_fails_before_the_frame_is_complete() {
    let mut payload = b"valid until here \xf4\x90".to_vec();
    payload.resize(1000, b'.');
    let bytes = frame(FIN | 1, &payload);
    let header_bytes = bytes.len() - payload.len();
    let (_, error) = parse_pieces(&mut Parser::new(LIMIT, false), [&bytes[..header_bytes + 18]]);
    assert_eq!(error, None, "f4 may begin a character");
    let (_, error) = parse_pieces(&mut Parser::new(LIMIT, false), [&bytes[..header_bytes + 19]]);
    assert_eq!(error, Some(ProtocolError::InvalidUtf8));
}

#[test]
fn a_message_over_the_limit_fails_with_its_header() {
    let limit = 100;
    let too_big = ProtocolError::MessageTooBig { limit };
    assert_eq!(parse_with(limit, false, &frame(FIN | 2, &[0; 100])).1, None);
    assert_eq!(refused_with(limit, false, &frame(FIN | 2, &[0; 101])), too_big);
    // Fragments count together, and the announcement is enough.
    let fragments = [frame(2, &[0; 60]), frame(FIN, &[0; 40])].concat();
    assert_eq!(parse_with(limit, false, &fragments).1, None);
    let fragments = [frame(2, &[0; 60]), frame(0, &[0; 41])[..2].to_vec()].concat();
    let (_, error) = parse_with(limit, false, &fragments);
    assert_eq!(error, Some(too_big));
    let huge = b"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff";
    assert_eq!(parse_with(limit, false, huge).1, Some(too_big));
    // Control frames have a limit of their own.
    let control = [frame(2, &[0; 60]), frame(FIN | 9, &[1; 125]), frame(FIN, &[0; 40])].concat();
    assert_eq!(parse_with(limit, false, &control).1, None);
}

#[test]
fn close_codes_of_errors() {
    use ProtocolError as E;
    for (bytes, code) in [
        (frame(FIN | 3, b""), 1002),
        (frame(FIN | 1, b"\xff"), 1007),
        (frame(FIN | 8, b"\x03\xe8\xff"), 1007),
        (b"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00".to_vec(), 1009),
    ] {
        assert_eq!(refused(&bytes).close_code(), code);
    }
    assert_eq!(E::InvalidDeflate.close_code(), 1007);
}

#[test]
fn memory_follows_what_arrived_and_is_given_back() {
    let mut parser = Parser::new(LIMIT, false);
    let mut scratch = Scratch::new();
    let mut events = Vec::new();
    assert_eq!(parser.held_bytes(), 0);

    // A frame of 1 MiB is announced; 10 bytes come.
    let payload = vec![7; LIMIT as usize];
    let bytes = frame(FIN | 2, &payload);
    assert_eq!(read(&mut parser, &mut scratch, &bytes[..24], &mut events), None);
    assert!(parser.held_bytes() < 256, "{} bytes", parser.held_bytes());
    for piece in bytes[24..].chunks(4096) {
        assert_eq!(read(&mut parser, &mut scratch, piece, &mut events), None);
        assert!(parser.held_bytes() <= LIMIT as usize + 256);
    }
    assert_eq!(events, [Owned::Binary(payload)]);
    assert_eq!(parser.held_bytes(), 0);

    // The same for the beginning of a header, and after an error.
    assert_eq!(read(&mut parser, &mut scratch, &text("x")[..3], &mut events), None);
    assert!(parser.held_bytes() > 0);
    assert_eq!(read(&mut parser, &mut scratch, &text("x")[3..], &mut events), None);
    assert_eq!(parser.held_bytes(), 0);
    read(&mut parser, &mut scratch, &frame(2, &[1; 1000]), &mut events);
    assert!(parser.held_bytes() >= 1000);
    assert!(read(&mut parser, &mut scratch, &[0xff; 2], &mut events).is_some());
    assert_eq!(parser.held_bytes(), 0);
}

#[test]
fn a_frame_in_the_buffer_is_not_copied() {
    let mut buffer = [text("one"), text("two")].concat();
    let range = buffer.as_ptr_range();
    let (mut parser, mut scratch) = (Parser::new(LIMIT, false), Scratch::new());
    let mut unread = &mut buffer[..];
    for expected in ["one", "two"] {
        let Ok(Some(Event::Text(text))) = parser.next(&mut unread, &mut scratch) else {
            panic!("a text");
        };
        assert_eq!(text, expected);
        assert!(range.contains(&text.as_ptr()));
    }
}

fn compressed(payload: &[u8]) -> Vec<u8> {
    let deflated = Deflater::new().compress(payload).map(<[u8]>::to_vec);
    deflated.expect("worth compressing")
}

#[test]
fn compressed_messages() {
    let long = "All work and no play makes Jack a dull boy. ".repeat(100);
    let payload = compressed(long.as_bytes());
    let (head, tail) = payload.split_at(payload.len() / 2);
    let stream = [
        frame(FIN | RSV1 | 1, &payload),
        text("not compressed"),
        frame(RSV1 | 2, head),
        frame(FIN | 9, b"ping"),
        frame(FIN, tail),
        frame(FIN | RSV1 | 1, b"\x00"),
    ]
    .concat();
    let (events, error) = parse_with(LIMIT, true, &stream);
    assert_eq!(error, None);
    assert_eq!(
        events,
        [
            Owned::Text(long.clone()),
            Owned::Text("not compressed".into()),
            Owned::Ping(b"ping".into()),
            Owned::Binary(long.into_bytes()),
            Owned::Text(String::new()),
        ]
    );
}

#[test]
fn violations_of_compression() {
    use ProtocolError as E;
    let refused = |bytes: &[u8]| refused_with(LIMIT, true, bytes);
    // RSV1 belongs to the first frame of a message only (RFC 7692 section 6.1).
    let bytes = [frame(1, b"x"), frame(FIN | RSV1, b"y")].concat();
    assert_eq!(refused(&bytes), E::ReservedBits { bits: 4 });
    assert_eq!(refused(&frame(FIN | RSV1 | 9, b"")), E::ReservedBits { bits: 4 });
    assert_eq!(refused(&frame(FIN | 0x60 | 1, b"x")), E::ReservedBits { bits: 6 });
    assert_eq!(refused(&frame(FIN | RSV1 | 2, b"\xff\xff")), E::InvalidDeflate);
    let not_text = compressed(&[0xff; 1000]);
    assert_eq!(refused(&frame(FIN | RSV1 | 1, &not_text)), E::InvalidUtf8);
}

#[test]
fn the_limit_counts_decompressed_bytes() {
    let bomb = frame(FIN | RSV1 | 2, &compressed(&vec![0; 2 << 20]));
    assert!(bomb.len() < 4096);
    let error = refused_with(LIMIT, true, &bomb);
    assert_eq!(error, ProtocolError::MessageTooBig { limit: LIMIT });
    let fits = frame(FIN | RSV1 | 2, &compressed(&vec![0; LIMIT as usize]));
    assert_eq!(parse_with(LIMIT, true, &fits).1, None);
}
