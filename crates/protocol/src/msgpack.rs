//! The MessagePack dialect: the JSON dialect's objects, transcoded without a document tree.
//!
//! Bytes are `{"$bin":"base64"}` in JSON and `bin` in MessagePack. Everything else maps one to one; docs/protocol.md
//! names the few values that only one of them has.

mod from_json;
mod to_json;

use std::borrow::Cow;

pub use from_json::json_to_msgpack;
pub use to_json::msgpack_to_json;

use crate::{ClientMessage, DecodeError, ServerMessage, json, limits};
use to_json::{Kind, Reader};

/// Why something cannot be transcoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranscodeError {
    /// The text is not JSON.
    #[error("not JSON at byte {at}: {problem}")]
    Json {
        /// Where, in bytes from the start.
        at: usize,
        /// What is wrong, or what is expected.
        problem: &'static str,
    },
    /// The bytes are not MessagePack, or are MessagePack that JSON has no words for.
    #[error("MessagePack at byte {at}: {problem}")]
    MessagePack {
        /// Where, in bytes from the start.
        at: usize,
        /// What is wrong, and what is allowed.
        problem: Cow<'static, str>,
    },
}

/// Reads a client's binary frame: one map, or an array of them. `each` gets every element in order; one that is no
/// command does not disturb the others. Bytes that are not MessagePack at all are one error.
pub fn decode_frame(frame: &[u8], mut each: impl FnMut(Result<ClientMessage, DecodeError>)) {
    match transcode_frame(frame) {
        Ok((json, elements)) => elements.into_iter().for_each(|element| each(element.decode(&json))),
        Err(error) => each(Err(error)),
    }
}

/// Appends a reply or push as one MessagePack map.
pub fn write_message(message: &ServerMessage, out: &mut Vec<u8>) {
    let mut json = Vec::with_capacity(256);
    json::write_message(message, &mut json);
    json_to_msgpack(&json, out).expect("what write_message wrote is JSON");
}

/// One object of a frame: its JSON ends here, and this was refused in it.
struct Element {
    json: std::ops::Range<usize>,
    refused: Option<TranscodeError>,
}

impl Element {
    fn decode(self, json: &str) -> Result<ClientMessage, DecodeError> {
        let text = &json[self.json];
        match self.refused {
            None => json::decode_object(text),
            Some(error) => Err(DecodeError::bad_request(json::command_id(text), error.to_string())),
        }
    }
}

/// The whole frame first, so that a frame that ends in nonsense does nothing at all, as in JSON.
fn transcode_frame(frame: &[u8]) -> Result<(String, Vec<Element>), DecodeError> {
    let malformed = |error: TranscodeError| DecodeError::bad_request(None, error.to_string());
    let mut reader = Reader::new(frame);
    let count = match reader.peek_kind() {
        Some(Kind::Map) => 1,
        Some(Kind::Array) => reader.array_length().map_err(malformed)?,
        _ => return Err(not_a_map("the frame is neither a map nor an array of maps")),
    };
    if count == 0 || count > limits::COMMANDS_PER_FRAME {
        return Err(json::wrong_count(count));
    }
    let mut json = Vec::with_capacity(frame.len() * 2);
    let mut elements = Vec::with_capacity(count);
    for _ in 0..count {
        let start = json.len();
        let is_map = reader.peek_kind() == Some(Kind::Map);
        reader.value(&mut json).map_err(malformed)?;
        let refused = reader.take_refused();
        if !is_map {
            return Err(not_a_map("an element of the frame's array is not a map"));
        }
        elements.push(Element { json: start..json.len(), refused });
    }
    reader.finish().map_err(malformed)?;
    let json = String::from_utf8(json).expect("the reader takes only strings that are UTF-8");
    Ok((json, elements))
}

fn not_a_map(message: &str) -> DecodeError {
    DecodeError::bad_request(None, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CommandKind, ErrorCode};

    fn pack(json: &str) -> Vec<u8> {
        let mut out = Vec::new();
        json_to_msgpack(json.as_bytes(), &mut out).unwrap();
        out
    }

    fn decode(frame: &[u8]) -> Vec<Result<ClientMessage, DecodeError>> {
        let mut all = Vec::new();
        decode_frame(frame, |one| all.push(one));
        all
    }

    #[test]
    fn a_frame_is_a_map_or_an_array_of_maps() {
        let one = decode(&pack(r#"{"id":1,"type":"subscribe","channel":"a:b"}"#));
        assert!(matches!(&one[..], [Ok(ClientMessage::Command(command))]
            if matches!(&command.kind, CommandKind::Subscribe(asked) if asked.name == "a:b")));
        let two = decode(&pack(r#"[{"type":"pong"},{"id":2,"type":"ping"}]"#));
        assert!(matches!(&two[..], [Ok(ClientMessage::Pong), Ok(ClientMessage::Command(_))]));
    }

    #[test]
    fn a_value_that_json_lacks_is_answered_by_id_and_disturbs_no_other_command() {
        // [{"id":7,"type":"publish","data":NaN},{"id":8,"type":"ping"}]
        let mut frame = vec![0x92, 0x83];
        frame.extend_from_slice(b"\xa2id\x07\xa4type\xa7publish\xa4data\xcb\x7f\xf8\0\0\0\0\0\0");
        frame.extend_from_slice(b"\x82\xa2id\x08\xa4type\xa4ping");
        let all = decode(&frame);
        assert_eq!(all.len(), 2);
        let error = all[0].as_ref().unwrap_err();
        assert_eq!((error.id, error.code), (Some(7), ErrorCode::BadRequest));
        assert!(error.message.contains("NaN"), "{}", error.message);
        assert!(matches!(&all[1], Ok(ClientMessage::Command(command)) if command.id == 8));
    }

    #[test]
    fn a_frame_that_ends_early_does_nothing_at_all() {
        let whole = pack(r#"[{"id":1,"type":"ping"},{"id":2,"type":"ping"}]"#);
        for end in 0..whole.len() {
            let all = decode(&whole[..end]);
            assert!(matches!(&all[..], [Err(error)] if error.id.is_none()), "{end}: {all:?}");
        }
        let mut longer = whole.clone();
        longer.push(0xc0);
        assert!(matches!(&decode(&longer)[..], [Err(_)]));
        assert_eq!(decode(&whole).len(), 2);
    }

    #[test]
    fn the_number_of_commands_is_limited_as_in_json() {
        let many = format!("[{}]", vec![r#"{"type":"pong"}"#; limits::COMMANDS_PER_FRAME + 1].join(","));
        for json in ["[]", &many] {
            let mut expected = Vec::new();
            json::decode_frame(json, |one| expected.push(one.unwrap_err()));
            let all: Vec<_> = decode(&pack(json)).into_iter().map(|one| one.unwrap_err()).collect();
            assert_eq!(all, expected);
        }
    }

    #[test]
    fn what_is_no_map_is_refused() {
        for json in ["1", "\"ping\"", "null", "[1]", "[[{}]]", "[{\"type\":\"pong\"},2]"] {
            assert!(matches!(&decode(&pack(json))[..], [Err(error)] if error.message.contains("map")), "{json}");
        }
    }
}
