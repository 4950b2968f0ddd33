//! The parser against texts, and against itself on random cuts.

use proptest::prelude::*;

use super::*;

/// All operations of what is read in these pieces, and the error that ends them.
fn parse<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Operation>, Option<WireError>) {
    let (mut parser, mut buffer, mut operations) = (Parser::new(), BytesMut::new(), Vec::new());
    for piece in pieces {
        buffer.extend_from_slice(piece);
        loop {
            match parser.next(&mut buffer) {
                Ok(Some(operation)) => operations.push(operation),
                Ok(None) => break,
                Err(error) => return (operations, Some(error)),
            }
        }
    }
    (operations, None)
}

fn one(text: &[u8]) -> Result<Operation, WireError> {
    match parse([text]) {
        (_, Some(error)) => Err(error),
        (mut operations, None) => Ok(operations.pop().expect("one operation")),
    }
}

fn parts(message: Message) -> (u64, Vec<u8>, Vec<u8>, Vec<u8>) {
    let (subject, headers) = (message.subject().to_vec(), message.headers().to_vec());
    (message.sid, subject, headers, message.into_payload().to_vec())
}

fn message(text: &[u8]) -> (u64, Vec<u8>, Vec<u8>, Vec<u8>) {
    match one(text) {
        Ok(Operation::Message(message)) => parts(message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_a_server_writes() {
    assert_eq!(one(b"PING\r\n"), Ok(Operation::Ping));
    assert_eq!(one(b"PONG\n"), Ok(Operation::Pong));
    assert_eq!(one(b"+OK\r\n"), Ok(Operation::Ok));
    assert_eq!(one(b"-ERR 'Stale Connection'\r\n"), Ok(Operation::Error("'Stale Connection'".to_owned())));
    assert_eq!(one(b"-ERR \xff\r\n"), Ok(Operation::Error("\u{fffd}".to_owned())));
    assert_eq!(one(b"INFO {\"a\":1} \r\n"), Ok(Operation::Info(Bytes::from_static(b" {\"a\":1} "))));
}

#[test]
fn messages_with_and_without_headers_and_replies() {
    let expected = |headers: &[u8], payload: &[u8]| (7, b"a.b".to_vec(), headers.to_vec(), payload.to_vec());
    assert_eq!(message(b"MSG a.b 7 2\r\nhi\r\n"), expected(b"", b"hi"));
    assert_eq!(message(b"MSG a.b 7 _INBOX.1 2\r\n\r\n\r\n"), expected(b"", b"\r\n"));
    assert_eq!(message(b"MSG a.b 7 0\r\n\r\n"), expected(b"", b""));
    assert_eq!(message(b"HMSG a.b 7 12 14\r\nNATS/1.0\r\n\r\nhi\r\n"), expected(b"NATS/1.0\r\n\r\n", b"hi"));
    assert_eq!(message(b"HMSG a.b  7\t_INBOX.1 12 12\r\nNATS/1.0\r\n\r\n\r\n"), expected(b"NATS/1.0\r\n\r\n", b""));
}

#[test]
fn what_is_no_nats_ends_it() {
    for text in [
        &b"HTTP/1.1 400 Bad Request\r\n"[..],
        b"\r\n",
        b"INFORM\r\n",
        b"MSG a.b 7\r\n",
        b"MSG a.b x 2\r\nhi\r\n",
        b"MSG a.b 7 r s 2\r\nhi\r\n",
        b"MSG a.b 7 -2\r\nhi\r\n",
        b"MSG a.b 99999999999999999999 2\r\nhi\r\n",
        b"MSG a.b 7 99999999999999999999\r\n",
        b"HMSG a.b 7 2\r\nhi\r\n",
        b"HMSG a.b 7 3 2\r\nhi\r\n",
        b"HMSG a.b 7 r s 1 2\r\nhi\r\n",
    ] {
        assert!(matches!(one(text), Err(WireError::Unknown(_))), "{}", String::from_utf8_lossy(text));
    }
    assert_eq!(one(b"MSG a.b 7 2\r\nhigh\r\n"), Err(WireError::Unended));
}

#[test]
fn lines_and_messages_have_limits() {
    let line = vec![b'x'; MAX_LINE_BYTES + 1];
    assert_eq!(one(&line), Err(WireError::LongLine));
    assert_eq!(one(&[&line[..], b"\r\n"].concat()), Err(WireError::LongLine));
    let mut parser = Parser::new();
    parser.allow_payload(10);
    let limit = 10 + HEADER_ROOM_BYTES;
    let mut buffer = BytesMut::from(&*format!("MSG a.b 7 {limit}\r\n"));
    assert_eq!(parser.next(&mut buffer), Ok(None));
    assert_eq!(parser.missing(&buffer), limit + 2);
    let mut parser = Parser::new();
    parser.allow_payload(10);
    let mut buffer = BytesMut::from(&*format!("MSG a.b 7 {}\r\n", limit + 1));
    assert_eq!(parser.next(&mut buffer), Err(WireError::TooLarge { bytes: limit + 1, limit }));
}

#[test]
fn a_message_is_a_slice_of_the_buffer() {
    let mut buffer = BytesMut::with_capacity(1024);
    buffer.extend_from_slice(b"MSG a.b 7 2\r\nhi\r\nMSG a.b 7 2\r\nho\r\n");
    let place = buffer.as_ptr() as usize;
    let mut parser = Parser::new();
    for (at, text) in [(13, "hi"), (30, "ho")] {
        let Ok(Some(Operation::Message(message))) = parser.next(&mut buffer) else { panic!() };
        let payload = message.into_payload();
        assert_eq!((payload.as_ptr() as usize - place, &payload[..]), (at, text.as_bytes()));
    }
}

fn operation() -> impl Strategy<Value = Vec<u8>> {
    let bytes = |most| proptest::collection::vec(any::<u8>(), 0..most);
    let text = |operation: &str| operation.as_bytes().to_vec();
    prop_oneof![
        Just(text("PING\r\n")),
        Just(text("PONG\r\n")),
        Just(text("+OK\r\n")),
        Just(text("INFO {\"max_payload\":5}\r\n")),
        "-ERR '[a-z \"]{0,30}'\r\n".prop_map(String::into_bytes),
        ("[a-z.]{1,20}", any::<u64>(), proptest::option::of("[A-Z.]{1,9}"), bytes(40), bytes(200)).prop_map(
            |(subject, sid, reply, headers, payload)| {
                let reply = reply.map(|reply| format!("{reply} ")).unwrap_or_default();
                let total = headers.len() + payload.len();
                let line = match headers.is_empty() {
                    true => format!("MSG {subject} {sid} {reply}{total}\r\n"),
                    false => format!("HMSG {subject} {sid} {reply}{} {total}\r\n", headers.len()),
                };
                [line.into_bytes(), headers, payload, b"\r\n".to_vec()].concat()
            }
        ),
    ]
}

proptest! {
    /// However what was written is cut, the same comes out, all of it.
    #[test]
    fn cuts_do_not_matter(operations in proptest::collection::vec(operation(), 1..20), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..20)) {
        let bytes = operations.concat();
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len())).collect();
        cuts.sort_unstable();
        let mut pieces = Vec::new();
        let mut from = 0;
        for cut in cuts.into_iter().chain([bytes.len()]) {
            pieces.push(&bytes[from..cut]);
            from = cut;
        }
        let whole = parse([&bytes[..]]);
        prop_assert_eq!(&whole.1, &None);
        prop_assert_eq!(whole.0.len(), operations.len());
        prop_assert_eq!(&parse(pieces), &whole);
        prop_assert_eq!(&parse(bytes.chunks(1)), &whole);
    }

    /// Nothing makes it panic, and the same error comes at the same place.
    #[test]
    fn anything_at_all(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'M'), Just(b' '), Just(b'1')], 0..300)) {
        let whole = parse([&bytes[..]]);
        prop_assert_eq!(parse(bytes.chunks(1)), whole);
    }
}
