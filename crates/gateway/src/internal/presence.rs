//! Who is on channels, in the whole cluster, for services.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use fanfare_presence::{Place, Query, User};
use fanfare_protocol::{Channel, ErrorBody, ErrorCode, PresenceReply, Tenant};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;

use super::{
    ApiLimits, InternalState,
    error::ApiError,
    request::{bad_request, parse_channel, parse_flag, parse_limit, shorten, tenant},
};
use crate::presence;

/// Questions of one request that the node works on at one time.
const IN_FLIGHT: usize = 64;
/// Members of an answer that is asked for without a limit.
const MEMBERS: usize = 100;

/// Counts of several channels.
#[derive(Debug, Serialize)]
pub(super) struct Stats {
    results: Vec<Outcome>,
}

/// Counts of one channel, or why there are none.
#[derive(Debug, Serialize)]
struct Outcome {
    channel: String,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    counts: Option<Counts>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorBody>,
}

/// How many are on a channel, in the whole cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    users: u64,
    connections: u64,
    /// The store is away, or was a moment ago: this is what the node knew last.
    stale: bool,
}

/// What `/api/presence` is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Asked {
    tenant: Tenant,
    channel: Channel,
    /// 0 for counts alone.
    limit: usize,
    after: Option<User>,
}

/// `GET /api/presence?channel=…`: members of a channel, page by page.
pub(super) async fn presence(
    State(state): State<InternalState>,
    RawQuery(query): RawQuery,
) -> Result<Json<PresenceReply>, ApiError> {
    let Asked { tenant, channel, limit, after } = Asked::parse(&query.unwrap_or_default(), state.0.limits)?;
    state.check_presence(&channel)?;
    Ok(Json(state.members(Place { tenant, channel }, limit, after).await?))
}

/// `GET /api/presence_stats?channel=…&channel=…`: how many are on each of several channels.
pub(super) async fn stats(
    State(state): State<InternalState>,
    RawQuery(query): RawQuery,
) -> Result<Json<Stats>, ApiError> {
    let (tenant, channels) = parse_stats(&query.unwrap_or_default(), state.0.limits)?;
    let one = async |name: String| {
        let counts = match parse_channel(&name).and_then(|channel| state.check_presence(&channel).map(|()| channel)) {
            Ok(channel) => state.counts(Place { tenant: tenant.clone(), channel }).await,
            Err(error) => Err(error),
        };
        let (counts, error) = match counts {
            Ok(counts) => (Some(counts), None),
            Err(error) => (None, Some(error)),
        };
        Outcome { channel: name, counts, error }
    };
    let results = stream::iter(channels).map(one).buffered(IN_FLIGHT).collect().await;
    Ok(Json(Stats { results }))
}

impl InternalState {
    /// Whether a channel has members at all.
    pub(super) fn check_presence(&self, channel: &Channel) -> Result<(), ErrorBody> {
        let namespace = channel.namespace();
        if self.0.namespaces.get(namespace).presence {
            return Ok(());
        }
        Err(bad_request(format!(
            "channel {:?}: namespace {namespace:?} has no presence; namespaces.{namespace}.presence = true gives it",
            channel.as_str()
        )))
    }

    /// How many are on a channel.
    pub(super) async fn counts(&self, place: Place) -> Result<Counts, ErrorBody> {
        let PresenceReply { users, connections, stale, .. } = self.members(place, 0, None).await?;
        Ok(Counts { users, connections, stale })
    }

    /// Who is on a channel: at most `limit` members behind `after`, none for 0.
    pub(super) async fn members(
        &self,
        place: Place,
        limit: usize,
        after: Option<User>,
    ) -> Result<PresenceReply, ErrorBody> {
        let Some(handle) = &self.0.presence else {
            return Err(ErrorBody::new(ErrorCode::Unavailable, "this node keeps no presence"));
        };
        let query = Query {
            place: place.clone(),
            audience: None,
            after,
            limit,
            bytes: self.0.limits.body_bytes,
            snapshot: false,
        };
        Ok(presence::reply(&place, handle.ask(query).await?))
    }
}

impl Asked {
    /// Parameters that are not known are passed over, as everywhere.
    fn parse(query: &str, api: ApiLimits) -> Result<Self, ErrorBody> {
        let (mut tenant_name, mut channel, mut after, mut counts) = (None, None, None, false);
        let mut limit = MEMBERS.min(api.members);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "tenant" => tenant_name = Some(value.into_owned()),
                "channel" => channel = Some(parse_channel(&value)?),
                "limit" => limit = parse_limit(&value, api.members, "limits.presence_page")?,
                "counts" => counts = parse_flag("counts", &value)?,
                "after" => after = Some(parse_after(&value)?),
                _ => {}
            }
        }
        let channel = channel.ok_or_else(|| bad_request("channel is missing"))?;
        let limit = if counts { 0 } else { limit };
        Ok(Self { tenant: tenant(tenant_name.as_deref())?, channel, limit, after })
    }
}

fn parse_after(text: &str) -> Result<User, ErrorBody> {
    User::from_cursor(text).ok_or_else(|| {
        let text = shorten(text);
        bad_request(format!(
            "after is {text:?}; it must be what next was: \"u:\" and a user, or \"a:\" and a session's id"
        ))
    })
}

fn parse_stats(query: &str, api: ApiLimits) -> Result<(Tenant, Vec<String>), ErrorBody> {
    let (mut tenant_name, mut channels) = (None, Vec::new());
    for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
        match &*name {
            "tenant" => tenant_name = Some(value.into_owned()),
            "channel" => channels.push(value.into_owned()),
            _ => {}
        }
    }
    if channels.is_empty() {
        return Err(bad_request("channel is missing; it may come several times"));
    }
    if channels.len() > api.batch {
        let message =
            format!("channel comes {} times; allowed are 1 to {} (limits.api_batch)", channels.len(), api.batch);
        return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
    }
    Ok((tenant(tenant_name.as_deref())?, channels))
}

#[cfg(test)]
mod tests {
    use fanfare_presence::ConnectionKey;

    use super::*;

    const LIMITS: ApiLimits = ApiLimits { body_bytes: 1, publication_bytes: 1, batch: 2, history: 1, members: 50 };

    fn parsed(query: &str) -> Asked {
        Asked::parse(query, LIMITS).unwrap()
    }

    #[test]
    fn a_channel_is_enough_and_everything_can_be_said() {
        let asked = parsed("channel=crew%3A1");
        assert_eq!((asked.tenant.as_str(), asked.channel.as_str(), asked.limit), ("default", "crew:1", 50));
        assert_eq!(asked.after, None);
        let asked = parsed("tenant=acme&channel=crew:1&limit=7&after=u%3Aa%26b&later=1&counts=false");
        assert_eq!((asked.tenant.as_str(), asked.limit), ("acme", 7));
        assert_eq!(asked.after, Some(User::Named("a&b".into())));
        let after = parsed("channel=a&after=a:000000000000000000000000000000ab").after;
        assert_eq!(after, Some(User::Anonymous(ConnectionKey(0xab))));
        assert_eq!(parsed("channel=a&limit=7&counts=true").limit, 0);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused =
            |query: &str| Asked::parse(query, LIMITS).map_err(|error| (error.code, error.message)).unwrap_err();
        let bad = |query: &str, message: &str| assert_eq!(refused(query), (ErrorCode::BadRequest, message.to_owned()));
        bad("", "channel is missing");
        bad("channel=a&counts=yes", "counts is \"yes\"; allowed are true and false");
        bad(
            "channel=a&after=bob",
            "after is \"bob\"; it must be what next was: \"u:\" and a user, or \"a:\" and a session's id",
        );
        bad("channel=a&limit=0", "limit is 0; allowed are 1 to 50 (limits.presence_page)");
        let message = "limit is 51; allowed are 1 to 50 (limits.presence_page)".to_owned();
        assert_eq!(refused("channel=a&limit=51"), (ErrorCode::LimitExceeded, message));
        assert!(refused("channel=a:*").1.starts_with("channel \"a:*\": "));
        assert!(refused("channel=a&tenant=x:y").1.starts_with("tenant \"x:y\": "));
    }

    #[test]
    fn several_channels_are_counted_up_to_a_bound() {
        let (tenant, channels) = parse_stats("channel=a&channel=b,c&tenant=acme", LIMITS).unwrap();
        assert_eq!((tenant.as_str(), channels), ("acme", vec!["a".to_owned(), "b,c".to_owned()]));
        let refused =
            |query: &str| parse_stats(query, LIMITS).map_err(|error| (error.code, error.message)).unwrap_err();
        assert_eq!(refused(""), (ErrorCode::BadRequest, "channel is missing; it may come several times".into()));
        let message = "channel comes 3 times; allowed are 1 to 2 (limits.api_batch)".to_owned();
        assert_eq!(refused("channel=a&channel=b&channel=c"), (ErrorCode::LimitExceeded, message));
    }
}
