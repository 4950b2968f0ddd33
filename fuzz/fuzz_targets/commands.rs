//! Any bytes through everything that reads a client's frame, a service's body or a name: no panic, both dialects agree,
//! and what is written can be read again.
#![no_main]

use fanfare_protocol::{
    Channel, ClientMessage, Command, CommandKind, DecodeError, Envelope, EnvelopeHeaders, NatsSubjects, RedisChannels,
    Tenant, json, limits,
    msgpack::{self, json_to_msgpack, msgpack_to_json},
};
use libfuzzer_sys::fuzz_target;
use serde_json::value::RawValue;

type Decoded = Vec<Result<ClientMessage, DecodeError>>;

fuzz_target!(|bytes: &[u8]| {
    msgpack_frame(bytes);
    envelopes(bytes);
    from_msgpack(bytes);
    from_json(bytes);
    if let Ok(text) = str::from_utf8(bytes) {
        json_frame(text);
        channel(text);
    }
});

fn msgpack_frame(bytes: &[u8]) -> Decoded {
    let mut decoded = Decoded::new();
    msgpack::decode_frame(bytes, |one| decoded.push(one));
    check(&decoded);
    decoded
}

fn json_frame(text: &str) {
    let mut decoded = Decoded::new();
    json::decode_frame(text, |one| decoded.push(one));
    check(&decoded);

    // The same frame in MessagePack says the same. What a publish, a signal or a state carries is kept byte for byte in JSON and written
    // anew in MessagePack, and nesting has a limit of its own there.
    let comparable = decoded.iter().all(|one| match one {
        Ok(ClientMessage::Command(Command { kind, .. })) => {
            !matches!(kind, CommandKind::Publish(_) | CommandKind::Signal(_) | CommandKind::SetPresence(_))
        }
        Ok(ClientMessage::Pong) => true,
        Err(_) => false,
    });
    let nesting = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if comparable && nesting < limits::MSGPACK_DEPTH {
        let mut packed = Vec::new();
        json_to_msgpack(text.as_bytes(), &mut packed).expect("the frame is JSON");
        // A number beyond `f64`, in a field that nobody reads, is an infinity by now, which a client may not send.
        if msgpack_to_json(&packed, &mut Vec::new()).is_ok() {
            assert_eq!(format!("{:?}", msgpack_frame(&packed)), format!("{decoded:?}"));
        }
    }
}

/// Every frame is answered, and errors are bounded.
fn check(decoded: &Decoded) {
    assert!((1..=limits::COMMANDS_PER_FRAME).contains(&decoded.len()), "{} answers", decoded.len());
    for one in decoded {
        match one {
            Ok(ClientMessage::Command(command)) => assert!(command.id <= limits::COMMAND_ID),
            Ok(ClientMessage::Pong) => {}
            Err(error) => assert!(error.message.len() <= limits::ERROR_MESSAGE_BYTES),
        }
    }
}

fn envelopes(bytes: &[u8]) {
    for (event, content_type) in [(None, None), (Some("e"), None), (Some("e"), Some("application/octet-stream"))] {
        let headers = EnvelopeHeaders { event, content_type };
        let Ok(envelope) = Envelope::parse(bytes, headers, limits::PUBLICATION_BYTES) else { continue };
        let mut written = Vec::new();
        envelope.write_json(&mut written);
        let again =
            Envelope::parse(&written, EnvelopeHeaders::default(), usize::MAX).expect("what was written is an envelope");
        assert_eq!(again.event, envelope.event);
        let mut rewritten = Vec::new();
        again.write_json(&mut rewritten);
        assert_eq!(String::from_utf8_lossy(&rewritten), String::from_utf8_lossy(&written));
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

/// A channel comes back from its subject.
fn channel(name: &str) {
    let Ok(channel) = Channel::parse(name) else { return };
    let tenant = Tenant::parse("acme").expect("a tenant's name");
    let nats = NatsSubjects::new("rt").expect("a prefix");
    let subject = nats.publish(&tenant, &channel);
    assert_eq!(nats.parse_publish(&subject), Ok((tenant.clone(), channel.clone())));
    let redis = RedisChannels::new("rt").expect("a prefix");
    let subject = redis.publish(&tenant, &channel);
    assert_eq!(redis.parse_publish(&subject), Ok((tenant, channel)));
}
