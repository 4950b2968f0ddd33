//! Where a user is connected, in the whole cluster: a place in the store for each user, on which each connection is a member of its
//! own. No client can name it: its namespace is the node's.

use std::borrow::Cow;

use aws_lc_rs::digest::{SHA256, digest};
use fanfare_presence::{ConnectionKey, Place, Row, State, User};
use fanfare_protocol::{Channel, Tenant, escape_segment};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

/// The namespace of such places. The configuration gives it to nobody.
pub(crate) const NAMESPACE: &str = "=connections";

/// What a row says of a connection.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ConnectionInfo<'a> {
    /// On which node.
    #[serde(borrow)]
    pub(crate) node: Cow<'a, str>,
    /// `websocket` or `sse`.
    #[serde(borrow)]
    pub(crate) transport: Cow<'a, str>,
    /// Whose; the place's name may hold no more than a digest of it.
    #[serde(borrow)]
    pub(crate) user: Cow<'a, str>,
}

/// How a connection's transport is called.
pub(crate) fn transport(is_stream: bool) -> &'static str {
    if is_stream { "sse" } else { "websocket" }
}

/// The place of a user's connections.
pub(crate) fn place_of(tenant: &Tenant, user: &str) -> Place {
    let readable = Channel::parse(&format!("{NAMESPACE}:u:{}", escape_segment(user)));
    // Too long for a segment.
    let channel = readable.unwrap_or_else(|_| {
        let hex: String = digest(&SHA256, user.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Channel::parse(&format!("{NAMESPACE}:h:{hex}")).expect("64 hexadecimal digits are a segment")
    });
    Place { tenant: tenant.clone(), channel }
}

/// A connection, as the place of its user holds it.
pub(crate) fn row(connection: ConnectionKey, since: u64, info: &ConnectionInfo<'_>) -> Row {
    let info = to_raw_value(info).expect("texts are written as JSON");
    Row { connection, user: User::Anonymous(connection), state: State::Online, info: Some(info.into()), since }
}

/// Reads what a row says; `None` where it is none of a connection.
pub(crate) fn read(info: Option<&RawValue>) -> Option<ConnectionInfo<'_>> {
    serde_json::from_str(info?.get()).ok()
}

/// Whether a place holds a user's connections.
pub(crate) fn is_place(place: &Place) -> bool {
    place.channel.namespace() == NAMESPACE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_of_each_tenant_has_a_place_of_its_own() {
        let name = |user: &str| place_of(&Tenant::default(), user).channel.to_string();
        assert_eq!(name("alice"), "=connections:u:alice");
        assert_eq!(name("a:b.c"), "=connections:u:a=3Ab=2Ec");
        let long = "x".repeat(65);
        assert!(name(&long).starts_with("=connections:h:") && name(&long).len() == "=connections:h:".len() + 64);
        assert_ne!(name(&long), name(&"x".repeat(66)));
        // A user who is called like a digest is not the one with that digest.
        let digest = name(&long).split_off("=connections:h:".len());
        assert_ne!(name(&digest), name(&long));
        assert_ne!(place_of(&Tenant::parse("a").unwrap(), "u"), place_of(&Tenant::parse("b").unwrap(), "u"));
        assert!(is_place(&place_of(&Tenant::default(), "alice")));
        let other = Place { tenant: Tenant::default(), channel: Channel::parse("connections:u:alice").unwrap() };
        assert!(!is_place(&other));
    }

    #[test]
    fn a_row_says_where_its_connection_is() {
        let info = ConnectionInfo { node: "gate-1".into(), transport: transport(true).into(), user: "a\"b".into() };
        let row = row(ConnectionKey(7), 9, &info);
        assert_eq!((row.user, row.since), (User::Anonymous(ConnectionKey(7)), 9));
        let text = row.info.unwrap();
        assert_eq!(text.get(), r#"{"node":"gate-1","transport":"sse","user":"a\"b"}"#);
        assert_eq!(read(Some(&text)), Some(info));
        assert_eq!(read(None), None);
    }
}
