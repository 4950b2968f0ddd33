//! client-frames.json: what a client may send, and what it is answered where it may not.

use std::collections::BTreeSet;

use fanfare_protocol::{
    Asked, ClientMessage, Command, CommandKind, DecodeError, HistoryCommand, HistoryRange, PresenceCommand,
    SetPresenceCommand, Watch, json, msgpack,
};
use serde::Deserialize;
use serde_json::{Value, json};

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
    let all = [
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
    ];
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
        CommandKind::Subscribe(asked) => ("subscribe", describe_asked(asked)),
        CommandKind::SubscribeMany { channels } => {
            ("subscribe", json!({ "channels": channels.into_iter().map(describe_entry).collect::<Vec<_>>() }))
        }
        CommandKind::History(history) => {
            let (since, before) = match history.range {
                HistoryRange::Since(position) => (Some(position), None),
                HistoryRange::Before(position) => (None, position),
            };
            let HistoryCommand { channel, limit, .. } = *history;
            ("history", json!({ "channel": channel, "since": since, "before": before, "limit": limit }))
        }
        CommandKind::Unsubscribe { channel } => ("unsubscribe", json!({ "channel": channel })),
        CommandKind::UnsubscribeMany { channels } => ("unsubscribe", json!({ "channels": channels })),
        CommandKind::Refresh { token } => ("refresh", json!({ "token": token })),
        CommandKind::Ping { active } => ("ping", json!({ "active": active.then_some(true) })),
        CommandKind::Presence(presence) => {
            let PresenceCommand { channel, counts, limit, after } = *presence;
            let counts = counts.then_some(true);
            ("presence", json!({ "channel": channel, "counts": counts, "limit": limit, "after": after }))
        }
        CommandKind::SetPresence(set) => {
            let SetPresenceCommand { channel, state, info } = *set;
            // As text, also the null that takes it away.
            let info = info.map(|info| info.map_or_else(|| "null".to_owned(), |info| info.get().to_owned()));
            ("set_presence", json!({ "channel": channel, "state": state, "info": info }))
        }
        CommandKind::Signal(signal) => {
            let data = signal.data.map(|data| data.get().to_owned());
            ("signal", json!({ "channel": signal.channel, "event": signal.event, "data": data }))
        }
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
    let mut all = json!({ "id": id, "type": name });
    let (Value::Object(all_fields), Value::Object(fields)) = (&mut all, without_nulls(fields)) else { unreachable!() };
    all_fields.extend(fields);
    all
}

/// With `latest` as the `rewind` that it is.
fn describe_asked(Asked { name, start, watch }: Asked) -> Value {
    let rewind = (start.rewind > 0).then_some(start.rewind);
    let presence = match watch {
        Watch::Default => None,
        Watch::Off => Some(json!(false)),
        Watch::Snapshot => Some(json!(true)),
        Watch::Names => Some(json!("names")),
    };
    json!({ "channel": name, "since": start.since, "rewind": rewind, "presence": presence })
}

/// An entry of a list that asks for nothing first is its name alone.
fn describe_entry(asked: Asked) -> Value {
    if asked.start.is_live() && asked.watch == Watch::Default {
        asked.name.into()
    } else {
        without_nulls(describe_asked(asked))
    }
}

fn without_nulls(value: Value) -> Value {
    let Value::Object(mut fields) = value else { unreachable!("every kind is described by an object") };
    fields.retain(|_, value| !value.is_null());
    fields.into()
}
