//! Frames against RFC 6455 and RFC 7692: the connection is failed with the right code, and what follows is not read.

use std::io::Write as _;

use flate2::{Compression, write::DeflateEncoder};
use serde_json::json;

use super::scene::Scene;
use crate::raw::{Length, Raw, frame, header, text};
use crate::{node::Node, token::token};

const DEFLATE: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";

/// Name, bytes, whether compression is agreed on, code and reason of the close.
type Case = (&'static str, Vec<u8>, bool, u16, &'static str);

const UNMASKED: &str = "a frame from the client is not masked; clients mask every frame";
const UTF8: &str = "a text message is not valid UTF-8; send bytes as a binary message";
const TOO_BIG: &str = "a message is larger than 65536 bytes (decompressed), the limit of this server";
const FRAGMENTED: &str = "a control frame is fragmented; close, ping and pong come in one frame";
const TOO_LONG: &str = "a control frame has more than 125 bytes of payload";
const ORPHAN: &str = "a continuation frame came without a message to continue";
const NESTED: &str = "a new message began inside a fragmented one; only continuation and control frames may follow";

fn protocol_errors() -> Vec<Case> {
    let unfinished = || frame(0x01, b"begun");
    let mut cases: Vec<Case> = vec![
        ("an unmasked text", b"\x81\x02hi".to_vec(), false, 1002, UNMASKED),
        ("an unmasked close", b"\x88\x00".to_vec(), false, 1002, UNMASKED),
        ("RSV1 without compression", frame(0xc1, b"hi"), false, 1002, reserved("100")),
        ("RSV2", frame(0xa1, b"hi"), false, 1002, reserved("010")),
        ("RSV3", frame(0x91, b"hi"), false, 1002, reserved("001")),
        ("RSV2 beside RSV1", frame(0xe1, b"hi"), true, 1002, reserved("110")),
        ("RSV1 on a ping", frame(0xc9, b"hi"), true, 1002, reserved("100")),
        ("RSV1 on a continuation", [unfinished(), frame(0xc0, b"hi")].concat(), true, 1002, reserved("100")),
        ("a fragmented ping", frame(0x09, b"hi"), false, 1002, FRAGMENTED),
        ("a fragmented close", frame(0x08, b"\x03\xe8"), false, 1002, FRAGMENTED),
        ("a fragmented pong", frame(0x0a, b""), false, 1002, FRAGMENTED),
        ("a ping of 126 bytes", frame(0x89, &[b'x'; 126]), false, 1002, TOO_LONG),
        ("a close of 200 bytes", frame(0x88, &[b'x'; 200]), false, 1002, TOO_LONG),
        ("a pong that announces 2^62 bytes", header(0x8a, Length::Eight(1 << 62)), false, 1002, TOO_LONG),
        ("a continuation of nothing", frame(0x80, b"hi"), false, 1002, ORPHAN),
        ("a message in a message", [unfinished(), text("hi")].concat(), false, 1002, NESTED),
        (
            "5 bytes as 16 bits",
            header(0x81, Length::Two(5)),
            false,
            1002,
            "a payload length of 5 is not encoded in the fewest bytes possible",
        ),
        (
            "300 bytes as 64 bits",
            header(0x81, Length::Eight(300)),
            false,
            1002,
            "a payload length of 300 is not encoded in the fewest bytes possible",
        ),
        (
            "the top bit of a length",
            header(0x82, Length::Eight(1 << 63)),
            false,
            1002,
            "a payload length of 9223372036854775808 is above the protocol's 2^63 - 1 bytes",
        ),
        (
            "a close of one byte",
            frame(0x88, b"\x03"),
            false,
            1002,
            "a close frame has a payload of one byte; it is empty or begins with a code of two bytes",
        ),
    ];
    for opcode in [0x3, 0x4, 0x5, 0x6, 0x7, 0xb, 0xc, 0xd, 0xe, 0xf] {
        let reason = format!("opcode {opcode:#x} is reserved; allowed are 0x0, 0x1, 0x2, 0x8, 0x9 and 0xa");
        cases.push(("a reserved opcode", frame(0x80 | opcode, b""), false, 1002, reason.leak()));
    }
    for code in [0u16, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65_535] {
        let reason = format!("close code {code} may not be sent; allowed are 1000-1003, 1007-1014 and 3000-4999");
        cases.push(("a bad close code", frame(0x88, &code.to_be_bytes()), false, 1002, reason.leak()));
    }
    cases
}

fn bad_payloads() -> Vec<Case> {
    let broken = "a compressed message is not a valid deflate stream without context takeover";
    vec![
        ("an overlong slash", frame(0x81, b"\xc0\xaf"), false, 1007, UTF8),
        ("half a character at the end", frame(0x81, b"ok\xe2\x82"), false, 1007, UTF8),
        ("a surrogate", frame(0x81, b"\xed\xa0\x80"), false, 1007, UTF8),
        // It is told before the message is complete.
        ("a bad byte in a fragment", frame(0x01, b"ok\xff"), false, 1007, UTF8),
        (
            "a character that breaks over fragments",
            [frame(0x01, b"\xe2\x82"), frame(0x80, b"x")].concat(),
            false,
            1007,
            UTF8,
        ),
        ("compressed text that is not UTF-8", frame(0xc1, &deflated(b"\xff\xfe")), true, 1007, UTF8),
        ("compressed nonsense", frame(0xc1, b"\xff\xff\xff\xff"), true, 1007, broken),
        (
            "a close reason that is not UTF-8",
            frame(0x88, b"\x03\xe8\xff"),
            false,
            1007,
            "the reason in a close frame is not valid UTF-8",
        ),
    ]
}

fn too_big() -> Vec<Case> {
    vec![
        // Only the header is sent: nothing more is waited for.
        ("one byte over the limit", header(0x81, Length::Eight(65_537)), false, 1009, TOO_BIG),
        ("2^62 bytes, and a stall", header(0x82, Length::Eight(1 << 62)), false, 1009, TOO_BIG),
        (
            "fragments over the limit",
            [frame(0x01, &[b' '; 40_000]), header(0x80, Length::Two(25_537))].concat(),
            false,
            1009,
            TOO_BIG,
        ),
        // 1 KiB on the wire.
        ("a megabyte in a kilobyte", frame(0xc1, &deflated(&vec![b' '; 1 << 20])), true, 1009, TOO_BIG),
    ]
}

#[tokio::test]
async fn a_violation_fails_the_connection_and_what_follows_is_not_read() {
    let mut scene = Scene::start(Node::builder("memory:")).await;
    let groups = [
        (protocol_errors(), "protocol_error", "protocol_error"),
        (bad_payloads(), "invalid_utf8", "invalid_payload"),
        (too_big(), "message_too_big", "message_too_big"),
    ];
    let open = [("fanfare_connections", 0), ("fanfare_sessions", 0), ("fanfare_malformed_frames_total", 0)];
    for (cases, violation, disconnection) in groups {
        let violation = format!("fanfare_websocket_violations_total{{reason=\"{violation}\"}}");
        let disconnection = format!("fanfare_disconnections_total{{code=\"{disconnection}\"}}");
        let counts = [&[(violation.as_str(), 1), (disconnection.as_str(), 1)], &open[..]].concat();
        for (name, bytes, compressed, code, reason) in cases {
            let act = async |node: &Node| violate(node, &bytes, compressed).await;
            let closed = scene.case(name, &counts, act).await;
            assert_eq!(closed, (code, reason.to_owned()), "{name}");
        }
    }
}

/// Sends what breaks the connection, and behind it an event that must not be published; gives code and reason of the close.
async fn violate(node: &Node, bytes: &[u8], compressed: bool) -> (u16, String) {
    let target = format!("/ws?token={}", token("acme", "mallory"));
    let mut raw = Raw::open(node.public(), &target, if compressed { DEFLATE } else { "" }).await;
    let intrusion = json!({ "id": 1, "type": "publish", "channel": "board:calm", "event": "intrusion" });
    raw.write([bytes, &text(&intrusion.to_string())].concat()).await;
    raw.closed().await
}

#[tokio::test]
async fn a_message_of_the_wrong_kind_closes() {
    let mut scene = Scene::start(Node::builder("memory:")).await;
    let msgpack = "Sec-WebSocket-Protocol: fanfare.v1.msgpack\r\n";
    let counts = [(r#"fanfare_disconnections_total{code="unsupported_data"}"#, 1), ("fanfare_connections", 0)];
    let cases = [
        ("binary in JSON", "", frame(0x82, br#"{"id":1,"type":"ping"}"#), "this connection takes text frames"),
        ("text in MessagePack", msgpack, text(r#"{"id":1,"type":"ping"}"#), "fanfare.v1.msgpack takes binary frames"),
    ];
    for (name, headers, bytes, reason) in cases {
        let act = async |node: &Node| {
            let mut raw = Raw::open(node.public(), "/ws", headers).await;
            raw.write(bytes).await;
            raw.closed().await
        };
        assert_eq!(scene.case(name, &counts, act).await, (1003, reason.to_owned()));
    }
}

#[tokio::test]
async fn what_is_allowed_at_the_edge_is_taken() {
    let scene = Scene::start(Node::builder("memory:")).await;
    let connect = r#"{"id":1,"type":"connect"}"#;
    let refused = r#"{"id":1,"type":"error","code":"UNAUTHORIZED","message":"a token is required: anonymous clients are not allowed","retryable":false}"#;
    // A message of just the limit, in one frame, in fragments with a ping between them, and compressed.
    let padded = connect.to_owned() + &" ".repeat(65_536 - connect.len());
    let (begin, rest) = padded.as_bytes().split_at(10);
    let whole = text(&padded);
    let fragments = [frame(0x01, begin), frame(0x89, b"between"), frame(0x80, rest)].concat();
    let compressed = frame(0xc1, &deflated(padded.as_bytes()));
    for (bytes, headers) in [(whole, ""), (fragments, ""), (compressed, DEFLATE)] {
        let mut raw = Raw::open(scene.node().public(), "/ws", headers).await;
        raw.write(bytes).await;
        let mut frame = raw.frame().await.expect("an answer");
        if frame.first == 0x8a {
            assert_eq!(frame.payload, b"between");
            frame = raw.frame().await.expect("an answer");
        }
        if frame.first == 0x81 {
            assert_eq!(String::from_utf8(frame.payload).unwrap(), refused);
        } else {
            assert_eq!((frame.first, headers), (0xc1, DEFLATE));
        }
        assert_eq!(raw.closed().await.0, 4500);
    }
    // A close without a code is answered by 1000, and so is one with any code that may be sent.
    for payload in [&b""[..], b"\x03\xe8", b"\x0b\xb8bye", b"\x13\x87"] {
        let mut raw = Raw::open(scene.node().public(), "/ws", "").await;
        raw.write(frame(0x88, payload)).await;
        assert_eq!(raw.closed().await, (1000, String::new()));
    }
}

fn reserved(bits: &str) -> &'static str {
    format!(
        "reserved bits {bits} are set; only RSV1, on the first frame of a message, and only with permessage-deflate"
    )
    .leak()
}

/// A payload as RFC 7692 section 7.2.1 has it: without the last four bytes of the flush.
fn deflated(payload: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(payload).expect("a Vec takes every byte");
    encoder.flush().expect("a Vec takes every byte");
    let mut bytes = encoder.get_ref().clone();
    assert_eq!(bytes.split_off(bytes.len() - 4), [0x00, 0x00, 0xff, 0xff]);
    bytes
}
