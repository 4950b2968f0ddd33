//! What is announced is the same for every dialect, and made once for each.

use std::time::Instant;

use flate2::{Decompress, FlushDecompress};
use serde_json::{Value, json};

use super::{claims, node};
use crate::{
    SOON,
    handshake::{Handshake, TokenPlace},
    msgpack,
    raw::{Frame, Raw},
    token,
};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate\r\n";
const COMPRESSED_TEXT: u8 = 0xc1;
const COMPRESSED_BINARY: u8 = 0xc2;

/// A compressed message (RFC 7692 section 7.2.2).
fn inflate(payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 * 1024);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&input, &mut bytes, FlushDecompress::Sync).expect("deflate");
    bytes
}

fn read(frame: &Frame) -> Value {
    match frame.first {
        0x81 => serde_json::from_slice(&frame.payload).expect("JSON"),
        0x82 => msgpack::decode(&frame.payload),
        COMPRESSED_TEXT => serde_json::from_slice(&inflate(&frame.payload)).expect("JSON"),
        COMPRESSED_BINARY => msgpack::decode(&inflate(&frame.payload)),
        other => panic!("a frame that begins with {other:#x}"),
    }
}

/// The announcement that bob is editing, and how its frame began.
async fn told_of_bob(raw: &mut Raw) -> (u8, Value) {
    let begun = Instant::now();
    loop {
        assert!(begun.elapsed() < SOON, "bob is not announced");
        let frame = raw.frame().await.expect("a frame before the end");
        let object = read(&frame);
        if object["event"] == "presence:change" && object["data"]["status"] == "editing" {
            return (frame.first, object);
        }
    }
}

#[tokio::test]
async fn all_are_told_the_same() {
    let node = node("a", "memory:", "memory:").start().await;
    let target = format!("/ws?channels=crew:1&presence=true&token={}", token::sign(&claims("alice")));
    let msgpack = "Sec-WebSocket-Protocol: fanfare.v1.msgpack\r\n";
    let mut watching = Vec::new();
    for headers in [String::new(), OFFER.to_owned(), msgpack.to_owned(), format!("{msgpack}{OFFER}")] {
        let mut raw = Raw::open(node.public(), &target, &headers).await;
        for event in ["system:connected", "system:subscribed", "presence:snapshot"] {
            let object = read(&raw.frame().await.expect("a frame"));
            assert_eq!(object["event"], event, "{object}");
        }
        watching.push(raw);
    }
    let signed = token::sign(&claims("bob"));
    let mut bob = Handshake::new(node.public()).connect_with(&signed, TokenPlace::Query).await;
    bob.subscribe("crew:1").await;
    let info = json!({ "about": "the same words again and again ".repeat(25) });
    let set = json!({ "type": "set_presence", "channel": "crew:1", "state": "editing", "info": info });
    assert_eq!(bob.command(set).await["result"], json!({}));
    let mut told = Vec::new();
    for raw in &mut watching {
        told.push(told_of_bob(raw).await);
    }
    let firsts: Vec<u8> = told.iter().map(|(first, _)| *first).collect();
    assert_eq!(firsts, [0x81, COMPRESSED_TEXT, 0x82, COMPRESSED_BINARY]);
    let data = &told[0].1["data"];
    assert_eq!((&data["userId"], &data["connections"], &data["info"]), (&"bob".into(), &1.into(), &info));
    assert!(told.iter().all(|(_, object)| object == &told[0].1), "{told:?}");
}
