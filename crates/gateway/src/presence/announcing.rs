//! Announcements as publications: `presence:change` and `presence:count`, encoded once for all who are told.

use fanfare_presence::{Counts, MemberChange, Place, User};
use fanfare_protocol::{Data, Delivery, Envelope};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};

use crate::{clock::unix_millis, encoding::EncodedPublication};

/// `data` of `presence:change`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ChangeData<'a> {
    user_id: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    anonymous: bool,
    status: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    info: Option<&'a RawValue>,
    connections: u32,
    version: u64,
}

/// `data` of `presence:count`.
#[derive(Serialize)]
struct CountData {
    users: usize,
    connections: usize,
    version: u64,
}

/// The announcement that one member has changed.
pub(super) fn change(place: &Place, change: &MemberChange) -> EncodedPublication {
    let (user, anonymous) = user_id(&change.user);
    let data = ChangeData {
        user_id: &user,
        anonymous,
        status: &change.status,
        info: change.info.as_deref(),
        connections: change.connections,
        version: change.version,
    };
    encode(place, "presence:change", &data, &change.user.to_cursor())
}

/// The announcement of how many there are.
pub(super) fn count(place: &Place, counts: Counts) -> EncodedPublication {
    let Counts { users, connections, version } = counts;
    encode(place, "presence:count", &CountData { users, connections, version }, "")
}

/// How clients are told who a user is, and whether it is one without a name.
pub(super) fn user_id(user: &User) -> (String, bool) {
    match user {
        User::Named(name) => (name.to_string(), false),
        User::Anonymous(connection) => (connection.to_string(), true),
    }
}

/// Of those with the same `key` a client that does not keep up gets only the newest, where its namespace conflates.
fn encode(place: &Place, event: &'static str, data: &impl Serialize, key: &str) -> EncodedPublication {
    let data = to_raw_value(data).expect("words and numbers are written as JSON");
    let envelope = Envelope {
        event: event.into(),
        data: Data::Json(&data),
        timestamp: None,
        id: None,
        key: None,
        version: None,
        exclude: Vec::new(),
        traceparent: None,
    };
    let delivery =
        Delivery { envelope: &envelope, channel: place.channel.as_str(), timestamp: unix_millis(), position: None };
    let mut publication = EncodedPublication::new(&delivery);
    publication.key = Some(key.into());
    publication
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use fanfare_presence::ConnectionKey;
    use fanfare_protocol::{Channel, Tenant};

    use super::*;
    use crate::{encoding::Variant, websocket::Deflater};

    fn place() -> Place {
        Place { tenant: Tenant::default(), channel: Channel::parse("crew:1").unwrap() }
    }

    fn json(publication: &EncodedPublication) -> serde_json::Value {
        let frame = publication.frame(Variant::Sse, &mut Deflater::new());
        let text = std::str::from_utf8(frame).unwrap();
        let data = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let mut json: serde_json::Value = serde_json::from_str(data).unwrap();
        assert!(json["timestamp"].take().as_u64().unwrap() > 1_600_000_000_000);
        json
    }

    #[test]
    fn a_change_names_the_member_and_what_it_says_of_itself() {
        let info: Arc<RawValue> = RawValue::from_string(r#"{"name":"Al"}"#.to_owned()).unwrap().into();
        let change_of = |user, info| MemberChange { user, status: "online".into(), info, connections: 2, version: 8 };
        let expected = serde_json::json!({
            "event": "presence:change", "channel": "crew:1", "timestamp": null,
            "data": {"userId": "alice", "status": "online", "info": {"name": "Al"}, "connections": 2, "version": 8}
        });
        let publication = change(&place(), &change_of(User::Named("alice".into()), Some(info)));
        assert_eq!(json(&publication), expected);
        assert_eq!(publication.position, None);
        let anonymous = change(&place(), &change_of(User::Anonymous(ConnectionKey(0xab)), None));
        let data = json(&anonymous)["data"].take();
        assert_eq!(data["userId"], "000000000000000000000000000000ab");
        assert_eq!((&data["anonymous"], data.get("info")), (&serde_json::Value::Bool(true), None));
    }

    #[test]
    fn counts_are_told_without_names() {
        let publication = count(&place(), Counts { users: 812, connections: 900, version: 9 });
        let expected = serde_json::json!({
            "event": "presence:count", "channel": "crew:1", "timestamp": null,
            "data": {"users": 812, "connections": 900, "version": 9}
        });
        assert_eq!(json(&publication), expected);
    }
}
