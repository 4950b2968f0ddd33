//! Messages of clients and services, through the protocol's decoders.
//!
//! The first byte of the input chooses what the rest is taken for.
#![no_main]

use fanfare_protocol::{
    Channel, ClientMessage, Command, CommandKind, DecodeError, Envelope, EnvelopeHeaders, NatsSubjects, RedisChannels,
    Tenant, json, limits, msgpack,
};
use libfuzzer_sys::fuzz_target;

type Decoded = Vec<Result<ClientMessage, DecodeError>>;

fuzz_target!(|input: &[u8]| {
    let Some((kind, bytes)) = input.split_first() else {
        return;
    };
    match kind % 5 {
        0 => {
            if let Ok(text) = str::from_utf8(bytes) {
                json_frame(text);
            }
        }
        1 => msgpack_frame(bytes),
        2 => envelope(bytes, EnvelopeHeaders::default()),
        3 => envelope(bytes, EnvelopeHeaders { event: Some("project:funded"), content_type: None }),
        _ => {
            if let Ok(text) = str::from_utf8(bytes) {
                channel(text);
            }
        }
    }
});

/// Every frame is answered, and errors are bounded.
fn check(decoded: &Decoded) {
    assert!((1..=limits::COMMANDS_PER_FRAME).contains(&decoded.len()), "{} elements", decoded.len());
    for error in decoded.iter().filter_map(|one| one.as_ref().err()) {
        assert!(error.message.len() <= limits::ERROR_MESSAGE_BYTES, "{} bytes", error.message.len());
        assert!(error.id.is_none_or(|id| id <= limits::COMMAND_ID));
    }
}

fn json_frame(text: &str) {
    let mut decoded = Decoded::new();
    json::decode_frame(text, |one| decoded.push(one));
    check(&decoded);

    // The same frame in MessagePack says the same. `data` is kept byte for byte in JSON and is
    // written anew in MessagePack; nesting has a limit of its own there.
    let comparable = decoded.iter().all(|one| match one {
        Ok(ClientMessage::Command(Command { kind: CommandKind::Publish(_), .. })) | Err(_) => false,
        Ok(_) => true,
    });
    let nesting = text.bytes().filter(|byte| matches!(byte, b'[' | b'{')).count();
    if comparable && nesting < limits::MSGPACK_DEPTH {
        let mut packed = Vec::new();
        msgpack::json_to_msgpack(text.as_bytes(), &mut packed).expect("the frame is JSON");
        let mut again = Decoded::new();
        msgpack::decode_frame(&packed, |one| again.push(one));
        assert_eq!(format!("{again:?}"), format!("{decoded:?}"));
    }
}

fn msgpack_frame(bytes: &[u8]) {
    let mut decoded = Decoded::new();
    msgpack::decode_frame(bytes, |one| decoded.push(one));
    check(&decoded);

    let mut text = Vec::new();
    if msgpack::msgpack_to_json(bytes, &mut text).is_ok() {
        let mut packed = Vec::new();
        msgpack::json_to_msgpack(&text, &mut packed).expect("what was written is JSON");
        let mut again = Vec::new();
        msgpack::msgpack_to_json(&packed, &mut again).expect("what was written is MessagePack");
        assert_eq!(String::from_utf8_lossy(&again), String::from_utf8_lossy(&text));
    } else {
        assert!(text.is_empty(), "a refused value leaves nothing behind");
    }
}

/// What a node understands it can write down, and then understands the same.
fn envelope(body: &[u8], headers: EnvelopeHeaders<'_>) {
    let Ok(envelope) = Envelope::parse(body, headers, limits::PUBLICATION_BYTES) else {
        return;
    };
    envelope.check().expect("parse has checked it");
    let mut written = Vec::new();
    envelope.write_json(&mut written);
    // Bytes grow by base64.
    let again = Envelope::parse(&written, EnvelopeHeaders::default(), 2 * limits::PUBLICATION_BYTES)
        .expect("what was written is an envelope");
    let mut rewritten = Vec::new();
    again.write_json(&mut rewritten);
    assert_eq!(String::from_utf8_lossy(&rewritten), String::from_utf8_lossy(&written));
}

/// A channel's name comes back from its subject.
fn channel(name: &str) {
    let Ok(channel) = Channel::parse(name) else {
        return;
    };
    let tenant = Tenant::parse("acme").expect("a tenant's name");
    let nats = NatsSubjects::new("rt").expect("a prefix");
    let subject = nats.publish(&tenant, &channel);
    assert_eq!(nats.parse_publish(&subject), Ok((tenant.clone(), channel.clone())));
    let redis = RedisChannels::new("rt").expect("a prefix");
    let subject = redis.publish(&tenant, &channel);
    assert_eq!(redis.parse_publish(&subject), Ok((tenant, channel)));
}
