//! One publication as the frames that connections need, each made at most once per node and shared by all shards.

use std::sync::OnceLock;

use fanfare_protocol::{
    Delivery, Dialect, Envelope, ErrorBody, ErrorCode, Position, Push, RecordedJson, ServerMessage, json, msgpack,
};
use fanfare_session::SessionId;

use crate::{
    sse,
    websocket::{Deflater, Header, MessageKind, encode},
};

/// How frames on one connection look: the dialect, and whether it compresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Variant {
    Json = 0,
    JsonDeflate = 1,
    MessagePack = 2,
    MessagePackDeflate = 3,
    /// An event of a stream, without its id.
    Sse = 4,
}

impl Variant {
    /// How many there are, for tables by variant.
    pub(crate) const COUNT: usize = 5;

    pub(crate) const fn new(dialect: Dialect, deflate: bool) -> Self {
        match (dialect, deflate) {
            (Dialect::Json, false) => Self::Json,
            (Dialect::Json, true) => Self::JsonDeflate,
            (Dialect::MessagePack, false) => Self::MessagePack,
            (Dialect::MessagePack, true) => Self::MessagePackDeflate,
        }
    }

    pub(crate) const fn dialect(self) -> Dialect {
        match self {
            Self::Json | Self::JsonDeflate | Self::Sse => Dialect::Json,
            Self::MessagePack | Self::MessagePackDeflate => Dialect::MessagePack,
        }
    }

    pub(crate) const fn deflates(self) -> bool {
        matches!(self, Self::JsonDeflate | Self::MessagePackDeflate)
    }

    pub(crate) const fn message_kind(self) -> MessageKind {
        match self.dialect() {
            Dialect::Json => MessageKind::Text,
            Dialect::MessagePack => MessageKind::Binary,
        }
    }
}

/// Room for the longest header (RFC 6455 section 5.2) in front, so that the payload is written once and never moved.
const HEADER_ROOM: usize = 10;

/// A publication, ready to be written to sockets.
///
/// The plain JSON frame is made by the hub, the others by the first shard that has a connection which wants one.
#[derive(Debug)]
pub(crate) struct EncodedPublication {
    /// The frame of [`Variant::Json`] from `start` on; its payload begins at [`HEADER_ROOM`].
    json: Vec<u8>,
    start: usize,
    others: [OnceLock<Vec<u8>>; Variant::COUNT - 1],
    recorded: OnceLock<RecordedJson>,
    /// Sessions that do not get it.
    pub(crate) exclude: Box<[SessionId]>,
    /// Where it stands, on channels with history.
    pub(crate) position: Option<Position>,
    /// What it replaces where clients get only the newest.
    pub(crate) key: Option<Box<str>>,
}

impl EncodedPublication {
    pub(crate) fn new(delivery: &Delivery<'_>) -> Self {
        let mut json = Vec::with_capacity(HEADER_ROOM + 192 + data_bytes(delivery) + optional_bytes(delivery));
        json.resize(HEADER_ROOM, 0);
        delivery.write_json(&mut json);
        let start = write_header(&mut json);
        let exclude = delivery.envelope.exclude.iter().filter_map(|id| session_id(id)).collect();
        let position = delivery.position.cloned();
        let key = delivery.envelope.key.as_deref().map(Box::from);
        Self { json, start, others: Default::default(), recorded: OnceLock::new(), exclude, position, key }
    }

    /// What the node itself tells many at once.
    pub(crate) fn of_push(push: Push) -> Self {
        let mut json = vec![0; HEADER_ROOM];
        json::write_message(&ServerMessage::Push(push), &mut json);
        let start = write_header(&mut json);
        let (others, recorded) = (Default::default(), OnceLock::new());
        Self { json, start, others, recorded, exclude: Box::default(), position: None, key: None }
    }

    /// The frame for a variant: WebSocket header and payload.
    pub(crate) fn frame(&self, variant: Variant, deflater: &mut Deflater) -> &[u8] {
        match variant {
            Variant::Json => &self.json[self.start..],
            other => self.others[other as usize - 1].get_or_init(|| self.encode(other, deflater)),
        }
    }

    /// The publication as replies contain it.
    pub(crate) fn recorded(&self) -> &RecordedJson {
        self.recorded.get_or_init(|| {
            let json = String::from_utf8_lossy(&self.json[HEADER_ROOM..]).into_owned();
            RecordedJson::new(json).expect("a delivery is written as one JSON object")
        })
    }

    /// The channel that it was published on.
    pub(crate) fn channel(&self) -> &str {
        sse::channel_of_publication(&self.json[HEADER_ROOM..]).unwrap_or_default()
    }

    /// Bytes that it holds at the least, for the accounting of queues.
    pub(crate) fn bytes(&self) -> usize {
        self.json.len()
    }

    fn encode(&self, variant: Variant, deflater: &mut Deflater) -> Vec<u8> {
        let json = &self.json[HEADER_ROOM..];
        // Each dialect knows how much room it needs.
        let mut frame = Vec::new();
        encode_json(variant, json, deflater, &mut frame);
        frame
    }
}

/// Writes the header before a payload that begins at [`HEADER_ROOM`]; returns where it begins.
fn write_header(json: &mut [u8]) -> usize {
    let header = Header::new(MessageKind::Text, false, json.len() - HEADER_ROOM);
    let start = HEADER_ROOM - header.len();
    json[start..HEADER_ROOM].copy_from_slice(header.as_bytes());
    start
}

/// Appends a reply or push as one frame.
pub(crate) fn encode_message(variant: Variant, message: &ServerMessage, deflater: &mut Deflater, out: &mut Vec<u8>) {
    let mut payload = Vec::with_capacity(256);
    json::write_message(message, &mut payload);
    encode_json(variant, &payload, deflater, out);
}

/// Appends one JSON object as a frame of the variant; compressed where the variant does and the payload gains by it.
fn encode_json(variant: Variant, json: &[u8], deflater: &mut Deflater, out: &mut Vec<u8>) {
    if variant == Variant::Sse {
        return sse::write_event(json, out);
    }
    let transcoded = match variant.dialect() {
        Dialect::Json => None,
        Dialect::MessagePack => {
            let mut packed = Vec::with_capacity(json.len());
            // JSON may be nested deeper than the transcoder follows: then the client is told instead of nothing coming.
            if let Err(error) = msgpack::json_to_msgpack(json, &mut packed) {
                packed = untranscodable(&error.to_string());
            }
            Some(packed)
        }
    };
    let payload = transcoded.as_deref().unwrap_or(json);
    if variant.deflates() {
        encode::compressed_message(variant.message_kind(), payload, deflater, out);
    } else {
        encode::message(variant.message_kind(), payload, out);
    }
}

fn untranscodable(reason: &str) -> Vec<u8> {
    let error = ErrorBody::new(ErrorCode::Internal, format!("an event cannot be written in MessagePack: {reason}"));
    let mut out = Vec::new();
    msgpack::write_message(&ServerMessage::Push(Push::Error { channel: None, error }), &mut out);
    out
}

/// Reads a session's id as envelopes name it; one that is malformed excludes nobody.
fn session_id(text: &str) -> Option<SessionId> {
    u128::from_str_radix(text, 16).ok().filter(|_| text.len() == 32).map(SessionId)
}

/// What fields have that most publications do not; the room for their names is among the rest.
fn optional_bytes(delivery: &Delivery<'_>) -> usize {
    let Envelope { id, key, traceparent, .. } = delivery.envelope;
    [id, key, traceparent].into_iter().flatten().map(|text| text.len() + 20).sum()
}

fn data_bytes(delivery: &Delivery<'_>) -> usize {
    use fanfare_protocol::Data;
    match &delivery.envelope.data {
        Data::None => 0,
        Data::Json(raw) => raw.get().len(),
        Data::Base64(text) => text.len() + 16,
        Data::Bytes(bytes) => bytes.len() * 4 / 3 + 16,
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Body;

    use super::*;

    fn encoded(body: &'static str) -> EncodedPublication {
        let body = Body::new(body.as_bytes());
        let envelope: Envelope<'_> = body.envelope(1 << 20).unwrap();
        EncodedPublication::new(&Delivery { envelope: &envelope, channel: "project:a", timestamp: 1, position: None })
    }

    #[test]
    fn the_json_frame_is_header_and_payload() {
        let publication = encoded(r#"{"event":"x","data":1}"#);
        let payload = br#"{"event":"x","channel":"project:a","data":1,"timestamp":1}"#;
        let frame = publication.frame(Variant::Json, &mut Deflater::new());
        assert_eq!(frame[..2], [0x81, payload.len() as u8]);
        assert_eq!(&frame[2..], payload);
    }

    #[test]
    fn an_event_of_a_stream_is_the_same_object() {
        let publication = encoded(r#"{"event":"x","data":1}"#);
        let expected = "event: x\ndata: {\"event\":\"x\",\"channel\":\"project:a\",\"data\":1,\"timestamp\":1}\n\n";
        assert_eq!(publication.frame(Variant::Sse, &mut Deflater::new()), expected.as_bytes());
    }

    #[test]
    fn a_short_payload_is_not_compressed_and_a_long_one_is() {
        let mut deflater = Deflater::new();
        let short = encoded(r#"{"event":"x"}"#);
        assert_eq!(short.frame(Variant::JsonDeflate, &mut deflater)[0], 0x81);
        let body: &'static str =
            Box::leak(format!(r#"{{"event":"x","data":"{}"}}"#, "a".repeat(2_000)).into_boxed_str());
        let long = encoded(body);
        let frame = long.frame(Variant::JsonDeflate, &mut deflater);
        assert_eq!(frame[0], 0xc1);
        assert!(frame.len() < 200);
    }
}
