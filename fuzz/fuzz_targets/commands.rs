//! Any bytes through everything that reads a client's frame or a service's body: no panic, both dialects agree, and what
//! comes out of a transcoder can be read again.
#![no_main]

use fanfare_protocol::{
    ClientMessage, DecodeError, Envelope, EnvelopeHeaders, json, limits,
    msgpack::{self, json_to_msgpack, msgpack_to_json},
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

fuzz_target!(|bytes: &[u8]| {
    decoders(bytes);
    envelopes(bytes);
    from_msgpack(bytes);
    from_json(bytes);
});

fn decoders(bytes: &[u8]) {
    let mut answers = 0;
    msgpack::decode_frame(bytes, |one| answers += check(one));
    assert!(answers > 0, "a frame is always answered");
    if let Ok(text) = std::str::from_utf8(bytes) {
        let mut answers = 0;
        json::decode_frame(text, |one| answers += check(one));
        assert!(answers > 0, "a frame is always answered");
    }
}

fn check(decoded: Result<ClientMessage, DecodeError>) -> usize {
    match decoded {
        Ok(ClientMessage::Command(command)) => assert!(command.id <= limits::COMMAND_ID),
        Ok(ClientMessage::Pong) => {}
        Err(error) => assert!(error.message.len() <= limits::ERROR_MESSAGE_BYTES),
    }
    1
}

fn envelopes(bytes: &[u8]) {
    for (event, content_type) in
        [(None, None), (Some("e"), None), (Some("e"), Some("application/octet-stream"))]
    {
        let headers = EnvelopeHeaders { event, content_type };
        let Ok(envelope) = Envelope::parse(bytes, headers, limits::PUBLICATION_BYTES) else { continue };
        let mut written = Vec::new();
        envelope.write_json(&mut written);
        let again = Envelope::parse(&written, EnvelopeHeaders::default(), usize::MAX)
            .expect("what was written is an envelope");
        assert_eq!(again.event, envelope.event);
        // Every publication can go to a MessagePack client.
        json_to_msgpack(&written, &mut Vec::new()).expect("what was written is JSON");
    }
}

fn from_msgpack(bytes: &[u8]) {
    let mut json = Vec::new();
    if msgpack_to_json(bytes, &mut json).is_err() {
        return assert!(json.is_empty(), "nothing is left behind");
    }
    let raw: &RawValue = serde_json::from_slice(&json).expect("what was transcoded is JSON");
    let mut back = Vec::new();
    json_to_msgpack(raw.get().as_bytes(), &mut back).expect("what was transcoded is JSON");
    let mut again = Vec::new();
    msgpack_to_json(&back, &mut again).expect("what came from MessagePack goes back");
    assert_eq!(String::from_utf8_lossy(&again), raw.get());
}

fn from_json(bytes: &[u8]) {
    let mut packed = Vec::new();
    let is_json = serde_json::from_slice::<&RawValue>(bytes).is_ok();
    assert_eq!(json_to_msgpack(bytes, &mut packed).is_ok(), is_json, "exactly JSON is transcoded");
    assert!(is_json || packed.is_empty(), "nothing is left behind");
}
