//! One event: its id and its JSON.

use std::{
    hash::{Hash as _, Hasher as _},
    sync::Arc,
};

use fanfare_broker::{Lifecycle, LifecycleKind};
use fanfare_protocol::Tenant;
use fanfare_session::SessionId;
use serde::Serialize;

/// Something that happened to a connection or a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LifecycleEvent {
    pub(super) tenant: Tenant,
    /// The node that the connection was on; of a channel, the node that tells.
    pub(super) node: Arc<str>,
    /// In milliseconds since the Unix epoch.
    pub(super) timestamp: u64,
    pub(super) what: What,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum What {
    Connected(Who),
    /// `duration_ms` is not known of a connection whose node is gone.
    Disconnected {
        who: Who,
        reason: &'static str,
        duration_ms: Option<u64>,
    },
    /// `since` tells one subscription of a session to a channel from another; it is when it began.
    Subscribed {
        who: Who,
        channel: Box<str>,
        since: u64,
    },
    Unsubscribed {
        who: Who,
        channel: Box<str>,
        since: u64,
        reason: &'static str,
    },
    /// `number` is random.
    Occupied {
        channel: Box<str>,
        number: u64,
    },
    Vacated {
        channel: Box<str>,
        number: u64,
    },
}

/// Whose connection it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    pub(super) session: SessionId,
    /// The token's subject; `None` for an anonymous client.
    pub(super) user: Option<Arc<str>>,
}

/// As it is told; docs/subjects.md describes it.
#[derive(Serialize)]
struct Told<'a> {
    id: &'a str,
    kind: &'static str,
    tenant: &'a str,
    node: &'a str,
    timestamp: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    session: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<u64>,
}

impl LifecycleEvent {
    /// Events of one lane are told one after the other: those of a session, and those of a channel.
    pub(super) fn lane(&self) -> u128 {
        match &self.what {
            What::Connected(who)
            | What::Disconnected { who, .. }
            | What::Subscribed { who, .. }
            | What::Unsubscribed { who, .. } => who.session.0,
            What::Occupied { channel, .. } | What::Vacated { channel, .. } => {
                // Two that share a lane by chance wait for each other, no more.
                let mut hasher = std::hash::DefaultHasher::new();
                (self.tenant.as_str(), channel).hash(&mut hasher);
                u128::from(hasher.finish())
            }
        }
    }

    /// As the broker takes it.
    pub(super) fn to_lifecycle(&self) -> Lifecycle {
        let kind = self.kind();
        let id = self.id();
        let (who, channel, reason, duration_ms) = match &self.what {
            What::Connected(who) => (Some(who), None, None, None),
            What::Disconnected { who, reason, duration_ms } => (Some(who), None, Some(*reason), *duration_ms),
            What::Subscribed { who, channel, .. } => (Some(who), Some(channel), None, None),
            What::Unsubscribed { who, channel, reason, .. } => (Some(who), Some(channel), Some(*reason), None),
            What::Occupied { channel, .. } | What::Vacated { channel, .. } => (None, Some(channel), None, None),
        };
        let told = Told {
            id: &id,
            kind: kind.as_str(),
            tenant: self.tenant.as_str(),
            node: &self.node,
            timestamp: self.timestamp,
            session: who.map(|who| who.session.to_string()),
            user: who.and_then(|who| who.user.as_deref()),
            channel: channel.map(|channel| &**channel),
            reason,
            duration_ms,
        };
        let body = serde_json::to_vec(&told).expect("texts and numbers can be written as JSON").into();
        Lifecycle { tenant: self.tenant.clone(), kind, id, body }
    }

    fn kind(&self) -> LifecycleKind {
        match &self.what {
            What::Connected(_) => LifecycleKind::Connected,
            What::Disconnected { .. } => LifecycleKind::Disconnected,
            What::Subscribed { .. } => LifecycleKind::Subscribed,
            What::Unsubscribed { .. } => LifecycleKind::Unsubscribed,
            What::Occupied { .. } => LifecycleKind::Occupied,
            What::Vacated { .. } => LifecycleKind::Vacated,
        }
    }

    fn id(&self) -> String {
        let kind = self.kind().as_str();
        match &self.what {
            What::Connected(who) | What::Disconnected { who, .. } => format!("{}:{kind}", who.session),
            What::Subscribed { who, channel, since } | What::Unsubscribed { who, channel, since, .. } => {
                format!("{}:{channel}:{since}:{kind}", who.session)
            }
            What::Occupied { channel, number } | What::Vacated { channel, number } => {
                format!("{}:{channel}:{number:016x}:{kind}", self.tenant)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(what: What) -> (String, String) {
        let event =
            LifecycleEvent { tenant: Tenant::parse("acme").unwrap(), node: "n1".into(), timestamp: 1_700, what };
        let Lifecycle { id, body, kind, tenant } = event.to_lifecycle();
        assert_eq!((tenant.as_str(), kind), ("acme", event.kind()));
        (id, String::from_utf8(body.into()).unwrap())
    }

    #[test]
    fn each_kind_has_its_id_and_its_fields() {
        let session = "000000000000000000000000000000ab";
        let who = Who { session: SessionId(0xab), user: Some("alice".into()) };
        let anonymous = Who { user: None, ..who.clone() };
        let channel: Box<str> = "crew:1".into();
        let cases = [
            (
                What::Connected(who.clone()),
                format!("{session}:connected"),
                format!(r#""session":"{session}","user":"alice""#),
            ),
            (
                What::Disconnected { who: anonymous, reason: "ping_timeout", duration_ms: Some(250) },
                format!("{session}:disconnected"),
                format!(r#""session":"{session}","reason":"ping_timeout","duration_ms":250"#),
            ),
            (
                What::Subscribed { who: who.clone(), channel: channel.clone(), since: 1_600 },
                format!("{session}:crew:1:1600:subscribed"),
                format!(r#""session":"{session}","user":"alice","channel":"crew:1""#),
            ),
            (
                What::Unsubscribed { who, channel: channel.clone(), since: 1_600, reason: "node_lost" },
                format!("{session}:crew:1:1600:unsubscribed"),
                format!(r#""session":"{session}","user":"alice","channel":"crew:1","reason":"node_lost""#),
            ),
            (
                What::Occupied { channel: channel.clone(), number: 255 },
                "acme:crew:1:00000000000000ff:occupied".to_owned(),
                r#""channel":"crew:1""#.to_owned(),
            ),
            (
                What::Vacated { channel, number: 255 },
                "acme:crew:1:00000000000000ff:vacated".to_owned(),
                r#""channel":"crew:1""#.to_owned(),
            ),
        ];
        for (what, id, fields) in cases {
            let kind = id.rsplit(':').next().unwrap().to_owned();
            let body =
                format!(r#"{{"id":"{id}","kind":"{kind}","tenant":"acme","node":"n1","timestamp":1700,{fields}}}"#);
            assert_eq!(told(what), (id, body));
        }
    }
}
