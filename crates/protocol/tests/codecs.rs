//! Properties of the codecs: what is written reads the same, in both dialects, and no input makes a decoder panic.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use fanfare_protocol::{
    ClientMessage, Data, DecodeError, Envelope, EnvelopeHeaders, json, limits,
    msgpack::{self, json_to_msgpack, msgpack_to_json},
};
use proptest::prelude::*;
use serde_json::{Map, Value, value::RawValue};

fn pack(json: &str) -> Vec<u8> {
    let mut out = Vec::new();
    json_to_msgpack(json.as_bytes(), &mut out).unwrap();
    out
}

fn unpack(msgpack: &[u8]) -> String {
    let mut out = Vec::new();
    msgpack_to_json(msgpack, &mut out).unwrap();
    String::from_utf8(out).unwrap()
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-200_i64..200).prop_map(Value::from),
        prop::num::f64::NORMAL.prop_map(Value::from),
        ".{0,40}".prop_map(Value::from),
        "[a-z\"\\\\\n\u{1}ü]{0,300}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..40).prop_map(bin),
    ];
    leaf.prop_recursive(6, 200, 20, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..20).prop_map(Value::from),
            prop::collection::vec(("[a-z$]{0,6}|.{0,4}", inner), 0..20)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn bin(bytes: Vec<u8>) -> Value {
    use base64::Engine as _;
    serde_json::json!({ "$bin": base64::engine::general_purpose::STANDARD.encode(bytes) })
}

/// The same text with other whitespace and escapes: what a publisher may as well have written.
fn restyled(value: &Value) -> String {
    let pretty = serde_json::to_string_pretty(value).unwrap();
    pretty.replace('ü', "\\u00fc").replace("\n", "\r\n\t")
}

fn decode_json(text: &str) -> Vec<Result<ClientMessage, DecodeError>> {
    let mut all = Vec::new();
    json::decode_frame(text, |one| all.push(one));
    all
}

fn decode_msgpack(frame: &[u8]) -> Vec<Result<ClientMessage, DecodeError>> {
    let mut all = Vec::new();
    msgpack::decode_frame(frame, |one| all.push(one));
    all
}

/// A command, or nearly one.
fn command() -> impl Strategy<Value = Value> {
    let kind = prop::sample::select(vec![
        "connect",
        "subscribe",
        "unsubscribe",
        "publish",
        "history",
        "presence",
        "set_presence",
        "signal",
        "refresh",
        "ping",
        "pong",
        "rpc",
    ]);
    let field = prop::sample::select(vec![
        "id",
        "type",
        "channel",
        "channels",
        "token",
        "event",
        "data",
        "key",
        "version",
        "publication_id",
        "echo",
        "since",
        "before",
        "rewind",
        "latest",
        "limit",
        "presence",
        "counts",
        "after",
        "state",
        "info",
        "active",
    ]);
    let position = ("[a-z_]{0,3}|a b", any::<u64>())
        .prop_map(|(epoch, offset)| serde_json::json!({ "epoch": epoch, "offset": offset, "later": true }));
    let asked = position.clone().prop_map(|since| serde_json::json!(["a:b", { "channel": "c", "since": since }]));
    let value = prop_oneof![2 => value(), 1 => position, 1 => asked, 1 => (0..9_u32).prop_map(Value::from)];
    (any::<u32>(), kind, prop::collection::vec((field, value), 0..4)).prop_map(|(id, kind, odd)| {
        let mut object = serde_json::json!({ "id": id, "type": kind, "channel": "a:b", "event": "e", "token": "t" });
        for (field, value) in odd {
            object[field] = value;
        }
        object
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn json_to_msgpack_and_back_is_the_same(value in value()) {
        // Texts, since equal texts are equal values, and serde_json itself reads some floats a last bit off.
        let text = value.to_string();
        prop_assert_eq!(unpack(&pack(&text)), &text[..]);
    }

    #[test]
    fn whitespace_and_escapes_do_not_matter(value in value()) {
        prop_assert_eq!(pack(&restyled(&value)), pack(&value.to_string()));
    }

    #[test]
    fn exactly_json_is_transcoded(text in r#"[\[\]{}",:0-9eE.+\\untrfalse \n-]{0,24}"#) {
        let is_json = serde_json::from_str::<&RawValue>(&text).is_ok();
        let mut out = Vec::new();
        let done = json_to_msgpack(text.as_bytes(), &mut out);
        prop_assert_eq!(done.is_ok(), is_json, "{:?}: {:?}", text, done);
    }

    #[test]
    fn broken_json_is_refused_by_both_readers(value in value(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut text = value.to_string().into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let is_json = serde_json::from_slice::<&RawValue>(&text).is_ok();
        prop_assert_eq!(json_to_msgpack(&text, &mut Vec::new()).is_ok(), is_json, "{}", String::from_utf8_lossy(&text));
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut out = Vec::new();
        if msgpack_to_json(&bytes, &mut out).is_ok() {
            prop_assert!(serde_json::from_slice::<&RawValue>(&out).is_ok(), "{:?}", String::from_utf8_lossy(&out));
        } else {
            prop_assert!(out.is_empty());
        }
        let _ = json_to_msgpack(&bytes, &mut out);
        let _ = decode_msgpack(&bytes);
        let _ = decode_json(&String::from_utf8_lossy(&bytes));
        let _ = Envelope::parse(&bytes, EnvelopeHeaders::default(), limits::PUBLICATION_BYTES);
        let headers = EnvelopeHeaders { event: Some("e"), content_type: None };
        let _ = Envelope::parse(&bytes, headers, limits::PUBLICATION_BYTES);
    }

    #[test]
    fn mutated_frames_never_panic(command in command(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut frame = pack(&command.to_string());
        let at = at.index(frame.len());
        frame[at] = byte;
        prop_assert!(!decode_msgpack(&frame).is_empty());
        frame.truncate(at);
        prop_assert!(decode_msgpack(&frame).iter().all(Result::is_err));
        let mut text = command.to_string().into_bytes();
        let at = at.min(text.len() - 1);
        text[at] = byte;
        prop_assert!(!decode_json(&String::from_utf8_lossy(&text)).is_empty());
    }

    #[test]
    fn both_dialects_decode_the_same(commands in prop::collection::vec(command(), 0..5), single in command()) {
        for text in [Value::from(commands).to_string(), single.to_string()] {
            let json = format!("{:?}", decode_json(&text));
            prop_assert_eq!(format!("{:?}", decode_msgpack(&pack(&text))), json);
        }
    }

    #[test]
    fn an_envelope_is_written_as_it_was_read(
        event in "[^\\x00]{1,30}", data in prop::option::of(value()), bytes in prop::collection::vec(any::<u8>(), 0..40),
        timestamp in any::<Option<u64>>(), version in any::<Option<u64>>(),
        id in prop::option::of(".{0,40}"), key in prop::option::of(".{0,40}"),
        traceparent in prop::option::of("[0-9a-f-]{0,55}"), exclude in prop::collection::vec("[0-9a-f]{32}", 0..4),
    ) {
        prop_assume!(!event.starts_with("system:"));
        let text = data.as_ref().map(restyled);
        let raw = text.as_deref().map(|text| serde_json::from_str::<&RawValue>(text).unwrap());
        let envelope = Envelope {
            timestamp, version, id: id.map(Into::into), key: key.map(Into::into),
            traceparent: traceparent.map(Into::into), exclude: exclude.into_iter().map(Into::into).collect(),
            ..Envelope::bare(&event, raw.map_or(Data::Bytes(&bytes), Data::Json))
        };
        let mut written = Vec::new();
        envelope.write_json(&mut written);
        let read = Envelope::parse(&written, EnvelopeHeaders::default(), limits::PUBLICATION_BYTES).unwrap();
        let mut again = Vec::new();
        read.write_json(&mut again);
        prop_assert_eq!(String::from_utf8(again).unwrap(), String::from_utf8(written.clone()).unwrap());
        prop_assert_eq!(&read.event, &event);
        prop_assert_eq!(
            (read.timestamp, read.version, read.id, read.key, read.traceparent, read.exclude),
            (timestamp, version, envelope.id, envelope.key, envelope.traceparent, envelope.exclude)
        );
        if let Some(text) = text {
            prop_assert!(matches!(read.data, Data::Json(raw) if raw.get() == text), "data is byte for byte");
        }
    }
}
