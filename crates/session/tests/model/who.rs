//! What there is, and who may do what with it.

use std::collections::BTreeSet;

use fanfare_protocol::{Pattern, Tenant};
use fanfare_session::{Allow, Grant, Permission, Time};
use serde_json::value::RawValue;

const TOKEN_LIFE: u64 = 6_000;

/// Channels and patterns of every kind of access; the last one is no name at all.
pub(crate) const NAMES: [&str; 15] = [
    "open:a",
    "open:b",
    "open:*",
    "project:a",
    "project:b",
    "project:*",
    "user:alice",
    "user:bob",
    "room:a",
    "crew:a",
    "crew:b",
    "crew:*",
    "log:a",
    "closed:a",
    "open:",
];

/// Those whose namespaces keep history.
pub(crate) const WITH_HISTORY: [&str; 3] = ["project:a", "project:b", "log:a"];

/// Those whose namespaces have presence.
pub(crate) const WITH_MEMBERS: [&str; 4] = ["project:a", "project:b", "crew:a", "crew:b"];

/// Whose token a completion brings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Who {
    Anonymous,
    /// `project:*`, without an end.
    Alice,
    /// `project:a` only, with an end.
    AliceWithLess,
    /// `project:**`, history included.
    Bob,
}

impl Who {
    /// Written out by hand, so that it is not the session's own reading of a grant.
    pub(crate) fn may_subscribe(self, name: &str) -> bool {
        match name {
            "open:a" | "open:b" | "open:*" | "room:a" | "log:a" | "crew:a" | "crew:b" | "crew:*" => true,
            "project:a" => self != Self::Anonymous,
            "project:b" | "project:*" => matches!(self, Self::Alice | Self::Bob),
            "user:alice" => matches!(self, Self::Alice | Self::AliceWithLess),
            "user:bob" => self == Self::Bob,
            _ => false,
        }
    }

    pub(crate) fn may_publish(self, name: &str, hub: &BTreeSet<String>) -> bool {
        match name {
            "room:a" => hub.contains("room:a"),
            name => self.may_subscribe(name) && !name.contains('*'),
        }
    }

    /// Who is there.
    pub(crate) fn may_see(self, name: &str) -> bool {
        match name {
            "crew:a" | "crew:b" => true,
            "project:a" => matches!(self, Self::Alice | Self::AliceWithLess),
            "project:b" => self == Self::Alice,
            _ => false,
        }
    }

    pub(crate) fn may_signal(self, name: &str, hub: &BTreeSet<String>) -> bool {
        match name {
            "crew:a" | "crew:b" => true,
            "room:a" => hub.contains("room:a"),
            "project:a" | "project:b" => self.may_subscribe(name),
            _ => false,
        }
    }

    /// What the token says of the user.
    pub(crate) fn info(self) -> Option<&'static str> {
        match self {
            Self::Alice => Some(r#"{"name":"Alice"}"#),
            Self::AliceWithLess => Some(r#""less""#),
            Self::Anonymous | Self::Bob => None,
        }
    }

    pub(crate) fn may_read(self, name: &str) -> bool {
        match name {
            "log:a" => true,
            "project:a" | "project:b" => self == Self::Bob,
            _ => false,
        }
    }

    pub(crate) fn may_become(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Alice | Self::AliceWithLess, Self::Alice | Self::AliceWithLess) | (Self::Bob, Self::Bob)
        )
    }

    pub(crate) fn grant(self, now: u64) -> Grant {
        let (user, pattern, expires_at) = match self {
            Self::Anonymous => return Grant::anonymous(Tenant::default()),
            Self::Alice => ("alice", "project:*", None),
            Self::AliceWithLess => ("alice", "project:a", Some(Time::from_millis(now + TOKEN_LIFE))),
            Self::Bob => ("bob", "project:**", None),
        };
        let more = if self == Self::Bob { Allow::HISTORY } else { Allow::PRESENCE };
        let allow = Allow::SUBSCRIBE.union(Allow::PUBLISH).union(more);
        Grant {
            user: Some(user.into()),
            expires_at,
            info: self.info().map(|json| RawValue::from_string(json.to_owned()).expect("JSON").into()),
            subscribe: if self == Self::Alice {
                ["project:b".into(), "closed:a".into()].into()
            } else {
                Box::default()
            },
            permissions: [Permission { pattern: Pattern::parse(pattern).expect("a pattern"), allow }].into(),
            ..Grant::anonymous(Tenant::default())
        }
    }
}
