//! deliveries.json: from a service's body to a client's frame; envelopes.json: what is an envelope and what is not.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_protocol::{Body, ChangeJson, CountJson, Data, Delivery, MemberJson, Position, SignalJson, limits};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Differences, pack, read,
    server_frames::{alice, anonymous_member},
    unhex, unpack,
};

/// A body as text or, where it is not UTF-8, in hexadecimal, and its headers.
#[derive(Deserialize)]
struct Published {
    name: String,
    body: Option<String>,
    body_hex: Option<String>,
    #[serde(default)]
    headers: Headers,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct Headers {
    event: Option<Box<str>>,
    content_type: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Delivered {
    #[serde(flatten)]
    published: Published,
    channel: String,
    timestamp: u64,
    position: Option<Position>,
    json: String,
    msgpack: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelopes {
    accepted: Vec<Accepted>,
    refused: Vec<Refused>,
}

#[derive(Deserialize)]
struct Accepted {
    #[serde(flatten)]
    published: Published,
    /// The envelope, written again.
    written: String,
}

#[derive(Deserialize)]
struct Refused {
    #[serde(flatten)]
    published: Published,
    limit: Option<usize>,
    reason: String,
    message: String,
}

impl Published {
    fn into_body(self) -> Body {
        let bytes = match (self.body, self.body_hex) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(hex)) => unhex(&hex),
            _ => panic!("{}: either body or body_hex", self.name),
        };
        Body { event: self.headers.event, content_type: self.headers.content_type, ..Body::new(bytes) }
    }
}

#[test]
fn every_publication_is_delivered_byte_for_byte() {
    let mut differences = Differences::default();
    for delivered in read::<Vec<Delivered>>("deliveries.json") {
        let name = delivered.published.name.clone();
        let body = delivered.published.into_body();
        let envelope = body.envelope(limits::PUBLICATION_BYTES).unwrap_or_else(|error| panic!("{name}: {error}"));
        let position = delivered.position.as_ref();
        let delivery =
            Delivery { envelope: &envelope, channel: &delivered.channel, timestamp: delivered.timestamp, position };
        let mut json = Vec::new();
        delivery.write_json(&mut json);
        differences.expect(&name, "JSON", String::from_utf8(json).unwrap(), delivered.json.clone());
        differences.expect(&name, "MessagePack", pack(&delivered.json), delivered.msgpack.clone());
        // Not byte for byte: MessagePack keeps neither whitespace nor how a number was written.
        let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        differences.expect(&name, "MessagePack in JSON", value(&unpack(&delivered.msgpack)), value(&delivered.json));
    }
    differences.report();
}

fn text(data: &impl Serialize) -> String {
    serde_json::to_string(data).unwrap()
}

/// What the node itself says on a channel is an envelope like any other.
#[test]
fn the_data_of_presence_and_signals_is_written_as_in_its_vector() {
    let mut differences = Differences::default();
    let change = |member: MemberJson, version| ChangeJson {
        user_id: member.user_id,
        anonymous: member.anonymous,
        status: member.status,
        info: member.info,
        connections: member.connections,
        version,
    };
    let offline = ChangeJson {
        user_id: "bob".to_owned(),
        anonymous: false,
        status: "offline".to_owned(),
        info: None,
        connections: 0,
        version: 10,
    };
    let signal = SignalJson { user_id: "alice", anonymous: false, data: None, expires_in_ms: None };
    let moved = RawValue::from_string(r#"{"x":1.5,"y":-2}"#.to_owned()).unwrap();
    let session = anonymous_member().user_id;
    let mut expected = BTreeMap::from([
        ("presence-change", text(&change(alice(), 8))),
        ("presence-change-anonymous", text(&change(anonymous_member(), 9))),
        ("presence-change-offline", text(&offline)),
        ("presence-count", text(&CountJson { users: 812, connections: 900, version: 11 })),
        ("signal-start", text(&SignalJson { expires_in_ms: Some(6_000), ..signal })),
        ("signal-stop", text(&SignalJson { user_id: "alice", ..signal })),
        ("signal", text(&SignalJson { user_id: &session, anonymous: true, data: Some(&moved), ..signal })),
    ]);
    for delivered in read::<Vec<Delivered>>("deliveries.json") {
        let name = delivered.published.name.clone();
        let Some(data) = expected.remove(name.as_str()) else { continue };
        let body = delivered.published.into_body();
        let envelope = body.envelope(limits::PUBLICATION_BYTES).unwrap();
        let Data::Json(in_vector) = &envelope.data else { panic!("{name} has no data") };
        differences.expect(&name, "the data", data, in_vector.get().to_owned());
    }
    assert!(expected.is_empty(), "without a vector: {:?}", expected.keys());
    differences.report();
}

#[test]
fn envelopes_that_are_accepted() {
    let mut differences = Differences::default();
    for accepted in read::<Envelopes>("envelopes.json").accepted {
        let name = accepted.published.name.clone();
        let body = accepted.published.into_body();
        let envelope = body.envelope(limits::PUBLICATION_BYTES).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut written = Vec::new();
        envelope.write_json(&mut written);
        differences.expect(&name, "the envelope", String::from_utf8(written).unwrap(), accepted.written);
    }
    differences.report();
}

#[test]
fn envelopes_that_are_refused() {
    let mut differences = Differences::default();
    let mut seen = BTreeSet::new();
    for refused in read::<Envelopes>("envelopes.json").refused {
        let name = refused.published.name.clone();
        let body = refused.published.into_body();
        let error = match body.envelope(refused.limit.unwrap_or(limits::PUBLICATION_BYTES)) {
            Ok(envelope) => panic!("{name} is accepted: {envelope:?}"),
            Err(error) => error,
        };
        seen.insert(error.reason());
        differences.expect(&name, "the reason", error.reason(), &refused.reason);
        differences.expect(&name, "the message", error.to_string(), refused.message);
    }
    differences.report();
    assert_eq!(seen, BTreeSet::from(REASONS), "every reason has a vector");
}

/// The words of `EnvelopeError::reason`, as docs/subjects.md lists them.
pub(crate) const REASONS: [&str; 8] = [
    "too_large",
    "not_an_envelope",
    "not_json",
    "field_length",
    "reserved_event",
    "two_payloads",
    "base64",
    "too_many_excluded",
];
