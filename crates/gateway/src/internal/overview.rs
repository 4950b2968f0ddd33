//! Which channels and connections there are, for operators and services.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use fanfare_presence::{ConnectionKey, Place, User};
use fanfare_protocol::{ErrorBody, Info, MemberJson, PresenceReply, Tenant, Topic};
use fanfare_session::SessionId;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    ApiLimits, InternalState,
    error::ApiError,
    presence::Counts,
    request::{bad_request, parse_limit, shorten, tenant},
};
use crate::{
    hub::message::ConnectionReport,
    presence::connections::{self, transport},
};

/// Entries of an answer that is asked for without a limit.
const ENTRIES: usize = 100;
/// Questions of one request that the node works on at one time.
const IN_FLIGHT: usize = 64;

/// Channels that this node has subscribers of.
#[derive(Debug, Serialize)]
pub(super) struct Channels {
    /// Whose subscribers are counted.
    node: String,
    channels: Vec<ChannelEntry>,
    /// What to go on behind, where these were not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A channel or a pattern.
#[derive(Debug, Serialize)]
struct ChannelEntry {
    channel: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pattern: bool,
    node: OfNode,
    /// Only for channels with presence.
    #[serde(skip_serializing_if = "Option::is_none")]
    cluster: Option<OfCluster>,
}

/// What this node alone has.
#[derive(Debug, Serialize)]
struct OfNode {
    subscribers: usize,
}

/// What all nodes together have, or why that is not known.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum OfCluster {
    Counts(Counts),
    Unknown { error: ErrorBody },
}

/// A user's connections.
#[derive(Debug, Serialize)]
pub(super) struct Connections {
    user: String,
    /// Whose connections these are.
    scope: &'static str,
    node: String,
    connections: Vec<ConnectionEntry>,
    /// The session to go on behind, where these were not all.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// The presence store is away, or was a moment ago: this is what the node knew last.
    stale: bool,
}

/// One of them.
#[derive(Debug, Serialize)]
struct ConnectionEntry {
    session: String,
    node: String,
    transport: String,
    #[serde(flatten)]
    details: Details,
}

/// What is known of a connection, by where it was found.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Details {
    /// On this node.
    Own {
        subscriptions: usize,
        /// Some of what it is subscribed to.
        channels: Vec<String>,
    },
    /// In the presence store.
    Stored {
        /// Since when it is connected, in milliseconds since the Unix epoch.
        since: u64,
    },
}

#[derive(Debug, PartialEq, Eq)]
struct AskedChannels {
    tenant: Tenant,
    prefix: String,
    after: String,
    limit: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct AskedConnections {
    tenant: Tenant,
    user: String,
    after: Option<SessionId>,
    limit: usize,
}

/// `GET /api/channels`: what this node has subscribers of, in the order of names, page by page.
pub(super) async fn channels(
    State(state): State<InternalState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Channels>, ApiError> {
    let AskedChannels { tenant, prefix, after, limit } =
        AskedChannels::parse(&query.unwrap_or_default(), state.0.limits)?;
    let page = state.0.shards.topics(&tenant, &prefix, &after, limit).await?;
    let last = page.topics.last().map(|(topic, _)| topic.as_str().to_owned());
    let one = async |(topic, subscribers): (Topic, usize)| {
        let cluster = match &topic {
            Topic::Channel(channel) if state.check_presence(channel).is_ok() => {
                let counts = state.counts(Place { tenant: tenant.clone(), channel: channel.clone() }).await;
                Some(counts.map_or_else(|error| OfCluster::Unknown { error }, OfCluster::Counts))
            }
            _ => None,
        };
        let (channel, pattern) = (topic.as_str().to_owned(), topic.is_pattern());
        ChannelEntry { channel, pattern, node: OfNode { subscribers }, cluster }
    };
    let channels = stream::iter(page.topics).map(one).buffered(IN_FLIGHT).collect().await;
    Ok(Json(Channels { node: state.0.node.clone(), channels, next: last.filter(|_| page.more) }))
}

/// `GET /api/connections?user=…`: a user's connections.
pub(super) async fn connections(
    State(state): State<InternalState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Connections>, ApiError> {
    let asked = AskedConnections::parse(&query.unwrap_or_default(), state.0.limits)?;
    let connections = match state.0.lists_connections {
        true => state.connections_in_cluster(asked).await?,
        false => state.connections_here(asked).await?,
    };
    Ok(Json(connections))
}

impl InternalState {
    async fn connections_here(&self, asked: AskedConnections) -> Result<Connections, ErrorBody> {
        let AskedConnections { tenant, user, after, limit } = asked;
        let (reports, more) = self.0.shards.connections(&tenant, &user, after, limit).await?;
        let node = self.0.node.clone();
        let next = reports.last().map(|last| last.session.to_string()).filter(|_| more);
        let entry = |report: ConnectionReport| ConnectionEntry {
            session: report.session.to_string(),
            node: node.clone(),
            transport: transport(report.is_stream).to_owned(),
            details: Details::Own {
                subscriptions: report.subscriptions,
                channels: report.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
            },
        };
        let connections = reports.into_iter().map(entry).collect();
        Ok(Connections { user, scope: "node", node: node.clone(), connections, next, stale: false })
    }

    async fn connections_in_cluster(&self, asked: AskedConnections) -> Result<Connections, ErrorBody> {
        let AskedConnections { tenant, user, after, limit } = asked;
        let after = after.map(|session| User::Anonymous(ConnectionKey(session.0)));
        let PresenceReply { members, next, stale, .. } =
            self.members(connections::place_of(&tenant, &user), limit, after).await?;
        let entry = |member: MemberJson| {
            let info = member.info.map(Info::into_raw);
            let info = connections::read(info.as_deref())?;
            let (node, transport) = (info.node.into_owned(), info.transport.into_owned());
            let details = Details::Stored { since: member.since };
            Some(ConnectionEntry { session: member.user_id, node, transport, details })
        };
        let entries = members.into_iter().flatten().filter_map(entry).collect();
        let next = next.and_then(|next| Some(next.strip_prefix("a:")?.to_owned()));
        Ok(Connections { user, scope: "cluster", node: self.0.node.clone(), connections: entries, next, stale })
    }
}

impl AskedChannels {
    /// Parameters that are not known are passed over, as everywhere.
    fn parse(query: &str, api: ApiLimits) -> Result<Self, ErrorBody> {
        let (mut tenant_name, mut prefix, mut after) = (None, String::new(), String::new());
        let mut limit = ENTRIES.min(api.batch);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "tenant" => tenant_name = Some(value.into_owned()),
                "prefix" => prefix = value.into_owned(),
                "after" => after = value.into_owned(),
                "limit" => limit = parse_limit(&value, api.batch, "limits.api_batch")?,
                _ => {}
            }
        }
        Ok(Self { tenant: tenant(tenant_name.as_deref())?, prefix, after, limit })
    }
}

impl AskedConnections {
    fn parse(query: &str, api: ApiLimits) -> Result<Self, ErrorBody> {
        let (mut tenant_name, mut user, mut after) = (None, None, None);
        let mut limit = ENTRIES.min(api.batch);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "tenant" => tenant_name = Some(value.into_owned()),
                "user" => user = Some(value.into_owned()),
                "after" => after = Some(parse_session(&value)?),
                "limit" => limit = parse_limit(&value, api.batch, "limits.api_batch")?,
                _ => {}
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| bad_request("user is missing"))?;
        Ok(Self { tenant: tenant(tenant_name.as_deref())?, user, after, limit })
    }
}

fn parse_session(text: &str) -> Result<SessionId, ErrorBody> {
    let key = ConnectionKey::parse(text).ok_or_else(|| {
        bad_request(format!("after is {:?}; it must be a session's id, 32 hexadecimal digits", shorten(text)))
    })?;
    Ok(SessionId(key.0))
}
