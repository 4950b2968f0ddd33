//! Presence and signals.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{fields, present, quoted, write};
use crate::{CommandKind, MemberJson, PresenceCommand, PresenceReply, SetPresenceCommand, SignalCommand, Watch};

#[derive(Deserialize)]
struct PresenceFields {
    channel: String,
    counts: Option<bool>,
    limit: Option<u32>,
    after: Option<String>,
}

#[derive(Deserialize)]
struct SetPresenceFields {
    channel: Option<String>,
    state: Option<String>,
    #[serde(default, deserialize_with = "present")]
    info: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct SignalFields {
    channel: String,
    event: String,
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
}

pub(super) fn presence(text: &str) -> Result<CommandKind, String> {
    let PresenceFields { channel, counts, limit, after } = fields("presence", text)?;
    let counts = counts.unwrap_or_default();
    Ok(CommandKind::Presence(Box::new(PresenceCommand { channel, counts, limit, after })))
}

pub(super) fn set_presence(text: &str) -> Result<CommandKind, String> {
    let SetPresenceFields { channel, state, info } = fields("set_presence", text)?;
    if state.is_none() && info.is_none() {
        return Err("set_presence: at least one of state and info must be given".to_owned());
    }
    let info = info.map(|info| (info.get() != "null").then_some(info));
    Ok(CommandKind::SetPresence(Box::new(SetPresenceCommand { channel, state, info })))
}

pub(super) fn signal(text: &str) -> Result<CommandKind, String> {
    let SignalFields { channel, event, data } = fields("signal", text)?;
    Ok(CommandKind::Signal(Box::new(SignalCommand { channel, event, data })))
}

/// `presence` of `subscribe`, or of an entry of its list.
pub(super) fn decode_watch(raw: &RawValue) -> Result<Watch, String> {
    match raw.get() {
        "true" => Ok(Watch::Snapshot),
        "false" => Ok(Watch::Off),
        other if serde_json::from_str::<&str>(other).is_ok_and(|word| word == "names") => Ok(Watch::Names),
        other => Err(format!("subscribe: presence must be true, false or \"names\", not {}", quoted(other))),
    }
}

/// The push beside whose data the channel stands, as in a publication.
pub(super) fn write_snapshot(out: &mut Vec<u8>, snapshot: &PresenceReply) {
    let PresenceReply { channel, users, connections, members, next, version, stale } = snapshot;
    let data = SnapshotData {
        users: *users,
        connections: *connections,
        members: members.as_deref(),
        next: next.as_deref(),
        version: *version,
        stale: *stale,
    };
    write(out, &SnapshotWire { event: "presence:snapshot", channel, data });
}

#[derive(Serialize)]
struct SnapshotWire<'a> {
    event: &'static str,
    channel: &'a str,
    data: SnapshotData<'a>,
}

#[derive(Serialize)]
struct SnapshotData<'a> {
    users: u64,
    connections: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    members: Option<&'a [MemberJson]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    stale: bool,
}
