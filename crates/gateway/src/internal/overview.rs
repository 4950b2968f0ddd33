//! Which channels and connections there are, for operators and services.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use fanfare_presence::Place;
use fanfare_protocol::{ErrorBody, Tenant, Topic};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    ApiLimits, InternalState,
    error::ApiError,
    presence::Counts,
    request::{bad_request, parse_limit, tenant},
};
use crate::hub::message::ConnectionReport;

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
    /// Whether there are more than the limit allowed.
    more: bool,
}

/// One of them.
#[derive(Debug, Serialize)]
struct ConnectionEntry {
    session: String,
    transport: &'static str,
    subscriptions: usize,
    /// Some of what it is subscribed to.
    channels: Vec<String>,
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
    let AskedConnections { tenant, user, limit } = AskedConnections::parse(&query.unwrap_or_default(), state.0.limits)?;
    let (reports, more) = state.0.shards.connections(&tenant, &user, limit).await?;
    let connections = reports.into_iter().map(ConnectionEntry::from).collect();
    Ok(Json(Connections { user, scope: "node", node: state.0.node.clone(), connections, more }))
}

impl From<ConnectionReport> for ConnectionEntry {
    fn from(report: ConnectionReport) -> Self {
        Self {
            session: report.session.to_string(),
            transport: if report.is_stream { "sse" } else { "websocket" },
            subscriptions: report.subscriptions,
            channels: report.topics.iter().map(|topic| topic.as_str().to_owned()).collect(),
        }
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
        let (mut tenant_name, mut user) = (None, None);
        let mut limit = ENTRIES.min(api.batch);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "tenant" => tenant_name = Some(value.into_owned()),
                "user" => user = Some(value.into_owned()),
                "limit" => limit = parse_limit(&value, api.batch, "limits.api_batch")?,
                _ => {}
            }
        }
        let user = user.filter(|user| !user.is_empty()).ok_or_else(|| bad_request("user is missing"))?;
        Ok(Self { tenant: tenant(tenant_name.as_deref())?, user, limit })
    }
}
