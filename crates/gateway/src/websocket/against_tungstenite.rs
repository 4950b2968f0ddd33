//! Both directions against an implementation by others, on random input.

use std::io::{self, Read, Write};

use proptest::{collection::vec, prelude::*, sample::Index};
use tokio_tungstenite::tungstenite::{
    Error, Message, WebSocket,
    protocol::{
        CloseFrame, Role,
        frame::{
            Frame,
            coding::{CloseCode, Data, OpCode},
        },
    },
};

use super::{
    MessageKind, Parser, ProtocolError, close, encode,
    test_client::{Outcome, Owned, frame, parse_pieces},
};

const LIMIT: u32 = 1 << 20;

/// The other end of a [`WebSocket`], in memory.
#[derive(Default)]
struct Wire {
    to_read: io::Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.to_read.read(buffer)? {
            0 if !buffer.is_empty() => Err(io::ErrorKind::WouldBlock.into()),
            read => Ok(read),
        }
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn tungstenite(role: Role, to_read: Vec<u8>) -> WebSocket<Wire> {
    let wire = Wire { to_read: io::Cursor::new(to_read), written: Vec::new() };
    WebSocket::from_raw_socket(wire, role, None)
}

/// What tungstenite reads from `bytes`, its errors as the close code that they amount to.
fn read_by_tungstenite(role: Role, bytes: Vec<u8>) -> (Vec<Owned>, Option<u16>) {
    let mut socket = tungstenite(role, bytes);
    let mut events = Vec::new();
    loop {
        let event = match socket.read() {
            Ok(Message::Text(text)) => Owned::Text(text.as_str().into()),
            Ok(Message::Binary(bytes)) => Owned::Binary(bytes.to_vec()),
            Ok(Message::Ping(payload)) => Owned::Ping(payload.to_vec()),
            Ok(Message::Pong(payload)) => Owned::Pong(payload.to_vec()),
            Ok(Message::Close(Some(frame))) if frame.reason == "Protocol violation" => {
                // What it makes of a code that may not be sent.
                return (events, Some(close::PROTOCOL_ERROR));
            }
            Ok(Message::Close(frame)) => {
                let (code, reason) = frame
                    .map_or((None, String::new()), |frame| (Some(frame.code.into()), frame.reason.as_str().into()));
                events.push(Owned::Close(code, reason));
                return (events, None);
            }
            Ok(Message::Frame(_)) => unreachable!("not given out when reading"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                return (events, None);
            }
            Err(Error::Protocol(_)) => return (events, Some(close::PROTOCOL_ERROR)),
            Err(Error::Utf8(_)) => return (events, Some(close::INVALID_PAYLOAD)),
            Err(Error::Capacity(_)) => return (events, Some(close::TOO_BIG)),
            Err(error) => panic!("{error}"),
        };
        events.push(event);
    }
}

/// Parses `bytes`, read in pieces that end at `splits`.
fn parse_split(bytes: &[u8], splits: &[Index]) -> Outcome {
    let mut ends: Vec<usize> = splits.iter().map(|i| i.index(bytes.len() + 1)).collect();
    ends.extend([0, bytes.len()]);
    ends.sort_unstable();
    let pieces = ends.windows(2).map(|ends| &bytes[ends[0]..ends[1]]);
    parse_pieces(&mut Parser::new(LIMIT, false), pieces)
}

/// Something to send.
#[derive(Clone, Debug)]
enum Sent {
    Text(String),
    Binary(Vec<u8>),
    /// A binary message in fragments, with a ping between any two.
    Fragments(Vec<Vec<u8>>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
}

fn sent() -> impl Strategy<Value = Sent> {
    // Around the borders of the length classes, and short ones.
    let len = prop_oneof![4 => 0..40usize, 2 => 120..130usize, 1 => 65530..65540usize];
    let bytes = (len, any::<u8>()).prop_map(|(len, seed)| (0..len).map(|i| (i as u8).wrapping_mul(seed | 1)).collect());
    prop_oneof![
        4 => "\\PC{0,60}".prop_map(Sent::Text),
        4 => bytes.prop_map(Sent::Binary),
        2 => vec(vec(any::<u8>(), 0..40), 2..5).prop_map(Sent::Fragments),
        1 => vec(any::<u8>(), 0..=125).prop_map(Sent::Ping),
        1 => vec(any::<u8>(), 0..=125).prop_map(Sent::Pong),
    ]
}

/// A frame of any kind, mostly permitted, often not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let opcode = prop_oneof![
        4 => Just(0u8), 4 => Just(1), 2 => Just(2), 1 => Just(8), 2 => Just(9), 1 => Just(10),
        1 => 0..16u8,
    ];
    let reserved = prop_oneof![30 => Just(0u8), 1 => 0..8u8];
    let payload = prop_oneof![
        4 => "\\PC{0,8}".prop_map(String::into_bytes),
        // Pieces of characters, so that fragments may be valid only together.
        4 => "[\u{e9}\u{20ac}\u{1f600}]{1,3}".prop_flat_map(|text| {
            let bytes = text.into_bytes();
            (0..bytes.len(), Just(bytes)).prop_map(|(at, bytes)| bytes[at..].to_vec())
        }),
        2 => (990..1020u16).prop_map(|code| code.to_be_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..130),
    ];
    (opcode, reserved, any::<bool>(), payload)
        .prop_map(|(opcode, reserved, fin, payload)| frame(u8::from(fin) << 7 | reserved << 4 | opcode, &payload))
}

proptest! {
    /// A client by others sends, we read.
    #[test]
    fn we_read_what_tungstenite_writes(all in vec(sent(), 0..12), splits: Vec<Index>) {
        let mut client = tungstenite(Role::Client, Vec::new());
        let mut expected = Vec::new();
        for sent in all {
            match sent {
                Sent::Text(text) => {
                    client.send(Message::text(&text)).unwrap();
                    expected.push(Owned::Text(text));
                }
                Sent::Binary(bytes) => {
                    client.send(Message::binary(bytes.clone())).unwrap();
                    expected.push(Owned::Binary(bytes));
                }
                Sent::Fragments(parts) => {
                    for (i, part) in parts.iter().enumerate() {
                        let data = if i == 0 { Data::Binary } else { Data::Continue };
                        let last = i + 1 == parts.len();
                        let fragment = Frame::message(part.clone(), OpCode::Data(data), last);
                        client.send(Message::Frame(fragment)).unwrap();
                        if !last {
                            client.send(Message::Ping("between".into())).unwrap();
                            expected.push(Owned::Ping(b"between".into()));
                        }
                    }
                    expected.push(Owned::Binary(parts.concat()));
                }
                Sent::Ping(payload) => {
                    client.send(Message::Ping(payload.clone().into())).unwrap();
                    expected.push(Owned::Ping(payload));
                }
                Sent::Pong(payload) => {
                    client.send(Message::Pong(payload.clone().into())).unwrap();
                    expected.push(Owned::Pong(payload));
                }
            }
        }
        let goodbye = CloseFrame { code: CloseCode::Library(4001), reason: "bye".into() };
        client.close(Some(goodbye)).unwrap();
        expected.push(Owned::Close(Some(4001), "bye".into()));
        prop_assert_eq!(parse_split(&client.get_ref().written, &splits), (expected, None));
    }

    /// We send, a client by others reads.
    #[test]
    fn tungstenite_reads_what_we_write(all in vec(sent(), 0..12)) {
        let mut bytes = Vec::new();
        let mut expected = Vec::new();
        for sent in all {
            match sent {
                Sent::Text(text) => {
                    encode::text(&text, &mut bytes);
                    expected.push(Owned::Text(text));
                }
                Sent::Binary(payload) => {
                    encode::binary(&payload, &mut bytes);
                    expected.push(Owned::Binary(payload));
                }
                // A server never needs to fragment: it has the whole message.
                Sent::Fragments(parts) => {
                    encode::message(MessageKind::Binary, &parts.concat(), &mut bytes);
                    expected.push(Owned::Binary(parts.concat()));
                }
                Sent::Ping(payload) => {
                    encode::ping(&payload, &mut bytes);
                    expected.push(Owned::Ping(payload));
                }
                Sent::Pong(payload) => {
                    encode::pong(&payload, &mut bytes);
                    expected.push(Owned::Pong(payload));
                }
            }
        }
        encode::close(Some(4001), "bye", &mut bytes);
        expected.push(Owned::Close(Some(4001), "bye".into()));
        prop_assert_eq!(read_by_tungstenite(Role::Client, bytes), (expected, None));
    }

    /// Two servers read the same frames, right and wrong ones, and come to the same verdict.
    #[test]
    fn both_judge_any_frames_alike(
        frames in vec(any_frame(), 1..8),
        unmasked in prop::option::weighted(0.05, any::<Index>()),
        splits: Vec<Index>,
    ) {
        let mut frames = frames;
        if let Some(index) = unmasked {
            index.get_mut(&mut frames)[1] &= 0x7f;
        }
        let bytes = frames.concat();
        let (events, error) = parse_split(&bytes, &splits);
        let code = error.map(ProtocolError::close_code);
        // Registered with IANA after tungstenite's list was made.
        prop_assume!(!events.contains(&Owned::Close(Some(1014), String::new())));
        let theirs = read_by_tungstenite(Role::Server, bytes);
        // A close frame with a bad code and a bad reason: both answers are right.
        prop_assume!(!(matches!(error, Some(ProtocolError::CloseCode { .. }))
            && theirs.1 == Some(close::INVALID_PAYLOAD)));
        prop_assert_eq!((events, code), theirs);
    }
}

/// The generators reach what they are for: without that the comparison above would say little.
#[test]
fn any_frames_are_of_every_kind() {
    use proptest::{strategy::ValueTree, test_runner::TestRunner};

    let mut runner = TestRunner::deterministic();
    let (mut codes, mut texts, mut closes) = (std::collections::BTreeSet::new(), 0, 0);
    for _ in 0..2000 {
        let frames = vec(any_frame(), 1..8).new_tree(&mut runner).unwrap().current();
        let (events, error) = parse_split(&frames.concat(), &[]);
        codes.extend(error.map(ProtocolError::close_code));
        texts += events.iter().filter(|e| matches!(e, Owned::Text(_))).count();
        closes += events.iter().filter(|e| matches!(e, Owned::Close(..))).count();
    }
    assert_eq!(codes.into_iter().collect::<Vec<_>>(), [1002, 1007]);
    assert!(texts > 100 && closes > 10, "{texts} texts, {closes} close frames");
}
