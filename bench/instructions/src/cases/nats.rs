//! Messages as a NATS server sends them.

use bytes::BytesMut;
use fanfare_broker::nats::bench::Messages;

use super::envelope::short;
use crate::counter::Counter;

/// Messages that are read from one buffer.
const MESSAGES: usize = 64;

const HEADERS: &str = "NATS/1.0\r\nNats-Stream: rt-project\r\nNats-Subject: rt.pub.default.project.clx000001\r\n\
                       Nats-Sequence: 4711\r\nNats-Time-Stamp: 2026-11-21T23:00:00.123456789Z\r\nNats-Last-Sequence: 4700\r\n\r\n";

pub fn count(counter: &mut Counter) {
    let payload = short(128);
    let plain = format!("MSG rt.pub.default.project.clx000001 17 {}\r\n{payload}\r\n", payload.len());
    read(counter, "nats: message, 128 B", &plain);
    let (headers, total) = (HEADERS.len(), HEADERS.len() + payload.len());
    let recorded = format!("HMSG rt.live.default.project.clx000001 18 {headers} {total}\r\n{HEADERS}{payload}\r\n");
    read(counter, "nats: message of a stream, 128 B", &recorded);
}

fn read(counter: &mut Counter, name: &str, message: &str) {
    let mut messages = Messages::default();
    let mut buffer = BytesMut::new();
    let text = message.repeat(MESSAGES);
    let fill = |index: usize| {
        // One read brings many; each case takes one of them.
        if index.is_multiple_of(MESSAGES) { Some(BytesMut::from(text.as_bytes())) } else { None }
    };
    counter.case(name, 4 * MESSAGES, fill, |filled| {
        if let Some(filled) = filled.take() {
            buffer = filled;
        }
        messages.next(&mut buffer).expect("there is one more").len()
    });
}
