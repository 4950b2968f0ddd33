//! Presence and signals.

use serde::Serialize;

use super::write;
use crate::{MemberJson, PresenceReply};

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
