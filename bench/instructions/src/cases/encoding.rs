//! A publication in each dialect: JSON by the hub, the others from it by the first shard that needs one.

use fanfare_gateway::{
    bench::{Encoded, Frame},
    websocket::Deflater,
};
use fanfare_protocol::{Body, Delivery, Epoch, Position, limits};

use super::envelope::{full, short};
use crate::counter::Counter;

/// The channel of what has no other.
const CHANNEL: &str = "project:clx000000";

/// A publication as the hub hands it on.
pub fn encoded(text: &str) -> Encoded {
    let body = Body::new(text.to_owned());
    let envelope = body.envelope(limits::PUBLICATION_BYTES).expect("it is an envelope");
    Encoded::new(&Delivery { envelope: &envelope, channel: CHANNEL, timestamp: 1_696_867_200_000, position: None })
}

pub fn count(counter: &mut Counter) {
    json(counter);
    for (size, bytes) in [("128 B", 128), ("1 KiB", 1024)] {
        for (name, frame) in [("MessagePack", Frame::MessagePack), ("server-sent event", Frame::Sse)] {
            other(counter, format!("encode: {name}, {size}"), frame, 256, bytes);
        }
    }
    // Below half a KiB nothing is compressed.
    other(counter, "encode: JSON, compressed, 1 KiB".to_owned(), Frame::JsonDeflate, 32, 1024);
    other(counter, "encode: MessagePack, compressed, 1 KiB".to_owned(), Frame::MessagePackDeflate, 32, 1024);
}

fn json(counter: &mut Counter) {
    let position = Position { offset: 4_711, epoch: Epoch::parse("01HCB1Q2R3S4T5").expect("an epoch") };
    let cases = [
        ("128 B, required fields", short(128), None),
        ("128 B, all fields and a position", full(128), Some(&position)),
        ("1 KiB, required fields", short(1024), None),
    ];
    for (name, text, position) in cases {
        let body = Body::new(text);
        let envelope = body.envelope(limits::PUBLICATION_BYTES).expect("it is an envelope");
        let delivery = || Delivery { envelope: &envelope, channel: CHANNEL, timestamp: 1_696_867_200_000, position };
        counter.case(format!("encode: JSON, {name}"), 256, |_| delivery(), |delivery| Encoded::new(delivery));
    }
}

fn other(counter: &mut Counter, name: String, frame: Frame, calls: usize, bytes: usize) {
    let text = short(bytes);
    let mut deflater = Deflater::new();
    counter.case(name, calls, |_| encoded(&text), |publication| publication.frame(frame, &mut deflater).len());
}
