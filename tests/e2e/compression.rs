//! permessage-deflate on the delivery path (RFC 7692), read by another implementation of deflate than the node's own framing.

use flate2::{Decompress, FlushDecompress};
use serde_json::Value;

use crate::{node::Node, raw::Raw, token::token};

const OFFER: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
/// FIN and text; FIN, RSV1 and text.
const PLAIN: u8 = 0x81;
const COMPRESSED: u8 = 0xc1;

/// A message without context: section 7.2.2 appends what section 7.2.1 took off.
fn inflate(payload: &[u8]) -> String {
    let mut text = Vec::with_capacity(64 * 1024);
    let input = [payload, &[0, 0, 0xff, 0xff]].concat();
    Decompress::new(false).decompress_vec(&input, &mut text, FlushDecompress::Sync).expect("deflate");
    String::from_utf8(text).expect("text is UTF-8")
}

/// Opens a connection that is subscribed, and passes over the greeting.
async fn subscribe(node: &Node, headers: &str) -> Raw {
    let target = format!("/ws?channels=project:news&token={}", token("acme", "alice"));
    let mut raw = Raw::open(node.public(), &target, headers).await;
    for event in ["system:connected", "system:subscribed"] {
        assert!(raw.text().await.contains(event));
    }
    raw
}

#[tokio::test]
async fn long_events_are_compressed_for_those_who_offer_it() {
    let node = Node::start("memory:").await;
    let mut compressing = [subscribe(&node, OFFER).await, subscribe(&node, OFFER).await];
    let mut plain = subscribe(&node, "").await;
    let text = "the same words again and again ".repeat(100);
    // Twice: each message stands alone, so that one frame serves all.
    for number in 0..2 {
        let envelope = serde_json::json!({ "event": "long", "data": { "number": number, "text": text } });
        node.publish("acme", "project:news", &envelope.to_string()).await;
        let expected: Value = serde_json::from_str(&plain.text().await).unwrap();
        assert_eq!(expected["data"]["number"], number);
        let mut frames = Vec::new();
        for raw in &mut compressing {
            let frame = raw.frame().await.unwrap();
            assert_eq!(frame.first, COMPRESSED);
            assert!(frame.payload.len() * 10 < text.len(), "{} bytes", frame.payload.len());
            assert_eq!(serde_json::from_str::<Value>(&inflate(&frame.payload)).unwrap(), expected);
            frames.push(frame);
        }
        assert_eq!(frames[0], frames[1]);
    }
    node.publish("acme", "project:news", r#"{"event":"short"}"#).await;
    for raw in &mut compressing {
        let frame = raw.frame().await.unwrap();
        assert_eq!(frame.first, PLAIN, "below the threshold nothing is gained");
    }
}
