//! Reading history through the internal port.

use axum::{
    Json,
    extract::{RawQuery, State},
};
use fanfare_protocol::{Channel, Epoch, ErrorBody, HistoryReply, Position, Tenant, limits};
use fanfare_session::HistoryRange;

use super::{
    ApiLimits, InternalState,
    error::ApiError,
    request::{bad_request, parse_channel, parse_limit, shorten, tenant},
};

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Query {
    tenant: Tenant,
    channel: Channel,
    range: HistoryRange,
    limit: usize,
}

/// `GET /api/history?channel=…`: a part of a channel's history, as clients read it.
pub(super) async fn history(
    State(state): State<InternalState>,
    RawQuery(query): RawQuery,
) -> Result<Json<HistoryReply>, ApiError> {
    let Query { tenant, channel, range, limit } = Query::parse(&query.unwrap_or_default(), state.0.limits)?;
    Ok(Json(state.0.history.read(&tenant, &channel, range, limit).await?))
}

impl Query {
    /// Parameters that are not known are passed over, as everywhere.
    fn parse(query: &str, api: ApiLimits) -> Result<Self, ErrorBody> {
        let (mut tenant_name, mut channel, mut since, mut before) = (None, None, None, None);
        let mut limit = usize::try_from(limits::HISTORY_PUBLICATIONS).unwrap_or(usize::MAX).min(api.history);
        for (name, value) in url::form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "tenant" => tenant_name = Some(value.into_owned()),
                "channel" => channel = Some(parse_channel(&value)?),
                "since" => since = Some(position("since", &value)?),
                "before" => before = Some(position("before", &value)?),
                "limit" => limit = parse_limit(&value, api.history, "limits.recovery_publications")?,
                _ => {}
            }
        }
        let range = match (since, before) {
            (Some(since), None) => HistoryRange::Since(since),
            (None, before) => HistoryRange::Before(before),
            (Some(_), Some(_)) => return Err(bad_request("since and before are given; allowed is one of them")),
        };
        let channel = channel.ok_or_else(|| bad_request("channel is missing"))?;
        Ok(Self { tenant: tenant(tenant_name.as_deref())?, channel, range, limit })
    }
}

/// A position as the query writes it: `EPOCH.OFFSET`.
fn position(name: &str, text: &str) -> Result<Position, ErrorBody> {
    let parsed = text.split_once('.').and_then(|(epoch, offset)| {
        let is_number = offset.bytes().all(|byte| byte.is_ascii_digit());
        let offset = offset.parse().ok().filter(|_| is_number)?;
        Some(Position { offset, epoch: Epoch::parse(epoch).ok()? })
    });
    parsed.ok_or_else(|| {
        bad_request(format!("{name} is {:?}; it must be a position as EPOCH.OFFSET, such as b7f2.41", shorten(text)))
    })
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::ErrorCode;

    use super::*;

    const LIMITS: ApiLimits = ApiLimits { body_bytes: 1, publication_bytes: 1, batch: 1, history: 500, members: 1 };

    fn at(offset: u64) -> Position {
        Position { offset, epoch: Epoch::parse("b7_-2").unwrap() }
    }

    fn parsed(query: &str) -> Query {
        Query::parse(query, LIMITS).unwrap()
    }

    #[test]
    fn a_channel_is_enough_and_everything_can_be_said() {
        let query = parsed("channel=project%3Aa");
        assert_eq!((query.tenant.as_str(), query.channel.as_str(), query.limit), ("default", "project:a", 100));
        assert_eq!(query.range, HistoryRange::Before(None));
        let query = parsed("tenant=acme&channel=project:a&limit=500&since=b7_-2.41&later=1");
        assert_eq!((query.tenant.as_str(), query.limit), ("acme", 500));
        assert_eq!(query.range, HistoryRange::Since(at(41)));
        assert_eq!(parsed("channel=a&before=b7_-2.0").range, HistoryRange::Before(Some(at(0))));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let refused =
            |query: &str| Query::parse(query, LIMITS).map_err(|error| (error.code, error.message)).unwrap_err();
        let bad = |query: &str, message: &str| assert_eq!(refused(query), (ErrorCode::BadRequest, message.to_owned()));
        bad("", "channel is missing");
        bad("channel=a&since=e.1&before=e.1", "since and before are given; allowed is one of them");
        for text in ["41", "e", "e.", "e.-1", "e.+1", "a b.1", ".1", "e.1.2"] {
            let query = format!("channel=a&since={}", text.replace('+', "%2B"));
            bad(&query, &format!("since is {text:?}; it must be a position as EPOCH.OFFSET, such as b7f2.41"));
        }
        let limit = |text: &str| refused(&format!("channel=a&limit={text}"));
        let message = |text: &str| format!("limit is {text}; allowed are 1 to 500 (limits.recovery_publications)");
        for text in ["0", "-1", "many", ""] {
            assert_eq!(limit(text), (ErrorCode::BadRequest, message(text)));
        }
        for text in ["501", "99999999999999999999999"] {
            assert_eq!(limit(text), (ErrorCode::LimitExceeded, message(text)));
        }
        assert!(refused("channel=a:*").1.starts_with("channel \"a:*\": a wildcard is not allowed here"));
        assert!(refused("channel=a&tenant=x:y").1.starts_with("tenant \"x:y\": "));
    }
}
