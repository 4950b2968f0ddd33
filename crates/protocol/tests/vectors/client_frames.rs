//! client-frames.json: what a client may send, and what it is answered where it may not.

use std::collections::BTreeSet;

use fanfare_protocol::{ClientMessage, Command, CommandKind, DecodeError, json, msgpack};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{Differences, pack, read, unhex, unpack};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClientFrame {
    name: String,
    json: Option<String>,
    msgpack: Option<String>,
    decoded: Vec<Value>,
}

#[test]
fn every_client_frame_decodes_as_written() {
    let mut differences = Differences::default();
    let mut names = BTreeSet::new();
    for frame in read::<Vec<ClientFrame>>("client-frames.json") {
        let name = &frame.name;
        assert!(names.insert(name.clone()), "{name} is there twice");
        if let Some(text) = &frame.json {
            let mut decoded = Vec::new();
            json::decode_frame(text, |one| decoded.push(describe(one)));
            differences.expect(name, "the JSON frame", &decoded, &frame.decoded);
        }
        if let Some(hex) = &frame.msgpack {
            let mut decoded = Vec::new();
            msgpack::decode_frame(&unhex(hex), |one| decoded.push(describe(one)));
            differences.expect(name, "the MessagePack frame", &decoded, &frame.decoded);
        }
        if let (Some(text), Some(hex)) = (&frame.json, &frame.msgpack) {
            differences.expect(name, "JSON in MessagePack", &pack(text), hex);
            let value = |text: &str| serde_json::from_str::<Value>(text).unwrap();
            differences.expect(name, "MessagePack in JSON", value(&unpack(hex)), value(text));
        }
    }
    differences.report();
}

#[test]
fn every_kind_of_command_has_a_frame() {
    let frames = read::<Vec<ClientFrame>>("client-frames.json");
    let seen: BTreeSet<&str> = frames
        .iter()
        .flat_map(|frame| &frame.decoded)
        .filter_map(|one| one["command"]["type"].as_str().or(one.as_str()))
        .collect();
    let all = ["connect", "subscribe", "unsubscribe", "publish", "refresh", "ping", "pong"];
    assert_eq!(seen, BTreeSet::from(all));
}

/// In the vectors' words: `"pong"`, `{"command":…}` as it was sent, or `{"error":…}`.
fn describe(decoded: Result<ClientMessage, DecodeError>) -> Value {
    match decoded {
        Ok(ClientMessage::Pong) => json!("pong"),
        Ok(ClientMessage::Command(command)) => json!({ "command": describe_command(command) }),
        Err(DecodeError { id, code, message }) => {
            json!({ "error": { "id": id, "code": code.as_str(), "message": message } })
        }
    }
}

fn describe_command(Command { id, kind }: Command) -> Value {
    let (name, fields) = match kind {
        CommandKind::Connect { token } => ("connect", json!({ "token": token })),
        CommandKind::Subscribe { channel } => ("subscribe", json!({ "channel": channel })),
        CommandKind::SubscribeMany { channels } => ("subscribe", json!({ "channels": channels })),
        CommandKind::Unsubscribe { channel } => ("unsubscribe", json!({ "channel": channel })),
        CommandKind::UnsubscribeMany { channels } => ("unsubscribe", json!({ "channels": channels })),
        CommandKind::Refresh { token } => ("refresh", json!({ "token": token })),
        CommandKind::Ping => ("ping", json!({})),
        CommandKind::Publish(publish) => (
            "publish",
            json!({
                "channel": publish.channel, "event": publish.event,
                "data": publish.data.map(|data| data.get().to_owned()),
                "key": publish.key, "version": publish.version, "publication_id": publish.publication_id,
                "echo": publish.echo,
            }),
        ),
    };
    let Value::Object(fields) = fields else { unreachable!("every kind is described by an object") };
    let mut all = Map::from_iter([("id".to_owned(), json!(id)), ("type".to_owned(), json!(name))]);
    all.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
    all.into()
}
