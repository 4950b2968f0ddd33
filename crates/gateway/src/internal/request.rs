//! What a request of the API asks to publish. Pure; `data` is passed on byte for byte.

use std::borrow::Cow;

use bytes::Bytes;
use fanfare_broker::Publish;
use fanfare_protocol::{Channel, Data, Envelope, EnvelopeError, ErrorBody, ErrorCode, Tenant};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::ApiLimits;

/// The fields of one publication; those that are not known are passed over, as everywhere in the protocol.
#[derive(Deserialize)]
pub(super) struct Fields<'a> {
    tenant: Option<String>,
    channel: Option<String>,
    channels: Option<Vec<String>>,
    event: String,
    #[serde(borrow, default, deserialize_with = "present")]
    data: Option<&'a RawValue>,
    data_base64: Option<String>,
    timestamp: Option<u64>,
    id: Option<String>,
    key: Option<String>,
    version: Option<u64>,
    exclude: Option<Vec<String>>,
    traceparent: Option<String>,
}

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    publications: Vec<&'a RawValue>,
}

/// One event for many channels.
pub(super) struct Broadcast {
    /// The channels as they were asked for, each with what to publish there.
    pub(super) publishes: Vec<(String, Result<Publish, ErrorBody>)>,
}

/// A `null` is data too; an `Option` alone would take it for nothing.
fn present<'de: 'a, 'a, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Reads the body of `/api/publish`.
pub(super) fn publish(body: &[u8], limits: ApiLimits) -> Result<Publish, ErrorBody> {
    one(std::str::from_utf8(body).map_err(|error| bad_request(format!("the body is not UTF-8: {error}")))?, limits)
}

/// Reads the body of `/api/batch`: each publication is read for itself.
pub(super) fn batch(body: &[u8], limits: ApiLimits) -> Result<Vec<Result<Publish, ErrorBody>>, ErrorBody> {
    let Batch { publications } =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("the body is not valid: {error}")))?;
    check_count("publications", publications.len(), limits)?;
    Ok(publications.into_iter().map(|raw| one(raw.get(), limits)).collect())
}

/// Reads the body of `/api/broadcast`.
pub(super) fn broadcast(body: &[u8], limits: ApiLimits) -> Result<Broadcast, ErrorBody> {
    let fields: Fields<'_> =
        serde_json::from_slice(body).map_err(|error| bad_request(format!("the body is not valid: {error}")))?;
    let channels = match (&fields.channels, &fields.channel) {
        (Some(channels), None) => channels.clone(),
        (None, None) => return Err(bad_request("channels is missing; it must be a list of channels")),
        (_, Some(_)) => return Err(bad_request("channel is for /api/publish; here channels must be given")),
    };
    check_count("channels", channels.len(), limits)?;
    let tenant = tenant(fields.tenant.as_deref())?;
    let id = fields.id.clone();
    // Written once; every channel shares the bytes.
    let body = write(fields, limits)?;
    let publish = |name: &String| {
        let channel = parse_channel(name)?;
        Ok(Publish { tenant: tenant.clone(), channel, body: body.clone(), id: id.clone(), ephemeral: false })
    };
    let publishes = channels.into_iter().map(|name| (publish(&name), name)).map(|(publish, name)| (name, publish));
    Ok(Broadcast { publishes: publishes.collect() })
}

fn one(text: &str, limits: ApiLimits) -> Result<Publish, ErrorBody> {
    let fields: Fields<'_> =
        serde_json::from_str(text).map_err(|error| bad_request(format!("the body is not valid: {error}")))?;
    if fields.channels.is_some() {
        return Err(bad_request("channels is for /api/broadcast; here channel must be given"));
    }
    let channel = fields.channel.as_deref().ok_or_else(|| bad_request("channel is missing"))?;
    let channel = parse_channel(channel)?;
    let tenant = tenant(fields.tenant.as_deref())?;
    let id = fields.id.clone();
    Ok(Publish { tenant, channel, body: write(fields, limits)?, id, ephemeral: false })
}

pub(super) fn tenant(name: Option<&str>) -> Result<Tenant, ErrorBody> {
    match name {
        None => Ok(Tenant::default()),
        Some(name) => {
            Tenant::parse(name).map_err(|reason| bad_request(format!("tenant {:?}: {reason}", shorten(name))))
        }
    }
}

pub(super) fn parse_channel(name: &str) -> Result<Channel, ErrorBody> {
    Channel::parse(name).map_err(|reason| bad_request(format!("channel {:?}: {reason}", shorten(name))))
}

fn write(fields: Fields<'_>, limits: ApiLimits) -> Result<Bytes, ErrorBody> {
    let data = match (fields.data, fields.data_base64) {
        (Some(_), Some(_)) => return Err(refuse(&EnvelopeError::TwoPayloads)),
        (Some(raw), None) => Data::Json(raw),
        (None, Some(text)) => Data::Base64(text.into()),
        (None, None) => Data::None,
    };
    let envelope = Envelope {
        event: fields.event.into(),
        data,
        timestamp: fields.timestamp,
        id: fields.id.map(Cow::Owned),
        key: fields.key.map(Cow::Owned),
        version: fields.version,
        exclude: fields.exclude.unwrap_or_default().into_iter().map(Cow::Owned).collect(),
        traceparent: fields.traceparent.map(Cow::Owned),
    };
    envelope.check().map_err(|error| refuse(&error))?;
    let mut out = Vec::new();
    envelope.write_json(&mut out);
    if out.len() > limits.publication_bytes {
        return Err(refuse(&EnvelopeError::TooLarge { bytes: out.len(), limit: limits.publication_bytes }));
    }
    Ok(out.into())
}

fn check_count(name: &str, count: usize, limits: ApiLimits) -> Result<(), ErrorBody> {
    if (1..=limits.batch).contains(&count) {
        return Ok(());
    }
    let code = if count == 0 { ErrorCode::BadRequest } else { ErrorCode::LimitExceeded };
    Err(ErrorBody::new(
        code,
        format!("{name} has {count} entries; allowed are 1 to {} (limits.api_batch)", limits.batch),
    ))
}

fn refuse(error: &EnvelopeError) -> ErrorBody {
    let code = match error {
        EnvelopeError::TooLarge { .. } => ErrorCode::LimitExceeded,
        _ => ErrorCode::BadRequest,
    };
    ErrorBody::new(code, error.to_string())
}

pub(super) fn bad_request(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorCode::BadRequest, message)
}

/// A number of entries in a query: 1 to what a key of the configuration allows.
pub(super) fn parse_limit(text: &str, allowed: usize, key: &str) -> Result<usize, ErrorBody> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(limit) if (1..=allowed).contains(&limit) => Ok(limit),
        _ => {
            let message = format!("limit is {}; allowed are 1 to {allowed} ({key})", shorten(text));
            let too_large = is_number && text.bytes().any(|digit| digit != b'0');
            let code = if too_large { ErrorCode::LimitExceeded } else { ErrorCode::BadRequest };
            Err(ErrorBody::new(code, message))
        }
    }
}

/// A flag in a query.
pub(super) fn parse_flag(name: &str, text: &str) -> Result<bool, ErrorBody> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(bad_request(format!("{name} is {:?}; allowed are true and false", shorten(text)))),
    }
}

/// What a service wrote, short enough for a message.
pub(super) fn shorten(text: &str) -> String {
    text.chars().take(100).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: ApiLimits =
        ApiLimits { body_bytes: 1 << 20, publication_bytes: 200, batch: 3, history: 5, members: 1 };

    fn text(publish: &Publish) -> &str {
        std::str::from_utf8(&publish.body).unwrap()
    }

    fn refused(body: &str) -> (ErrorCode, String) {
        let error = publish(body.as_bytes(), LIMITS).unwrap_err();
        (error.code, error.message)
    }

    #[test]
    fn data_is_passed_on_byte_for_byte() {
        let body = br#"{"channel":"project:a","tenant":"acme","event":"e","data":{ "n" : 1.50 },"id":"i","key":"k","version":2,"timestamp":3,"exclude":["s"],"traceparent":"t","later":1}"#;
        let publish = publish(body, LIMITS).unwrap();
        assert_eq!((publish.tenant.as_str(), publish.channel.as_str()), ("acme", "project:a"));
        assert_eq!(publish.id.as_deref(), Some("i"));
        assert_eq!(
            text(&publish),
            r#"{"event":"e","data":{ "n" : 1.50 },"timestamp":3,"id":"i","key":"k","version":2,"traceparent":"t","exclude":["s"]}"#
        );
    }

    #[test]
    fn data_may_be_null_bytes_or_nothing() {
        let of = |more: &str| {
            let body = format!(r#"{{"channel":"a","event":"e"{more}}}"#);
            text(&publish(body.as_bytes(), LIMITS).unwrap()).to_owned()
        };
        assert_eq!(of(""), r#"{"event":"e"}"#);
        assert_eq!(of(r#","data":null,"exclude":null,"id":null"#), r#"{"event":"e","data":null}"#);
        assert_eq!(of(r#","data_base64":"AAE=""#), r#"{"event":"e","data":{"$bin":"AAE="}}"#);
    }

    #[test]
    fn what_is_wrong_is_named() {
        use ErrorCode::{BadRequest, LimitExceeded};
        let bad = |body: &str, message: &str| assert_eq!(refused(body), (BadRequest, message.to_owned()));
        bad("{", "the body is not valid: EOF while parsing an object at line 1 column 1");
        bad(r#"{"channel":"a"}"#, "the body is not valid: missing field `event` at line 1 column 15");
        bad(r#"{"event":"e"}"#, "channel is missing");
        bad(r#"{"event":"e","channels":["a"]}"#, "channels is for /api/broadcast; here channel must be given");
        bad(
            r#"{"event":"e","channel":"a b"}"#,
            r#"channel "a b": ' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"#,
        );
        bad(
            r#"{"event":"e","channel":"a:*"}"#,
            r#"channel "a:*": a wildcard is not allowed here; '*' stands for one whole segment and '**' for the rest at the end, never for the namespace"#,
        );
        bad(
            r#"{"event":"e","channel":"a","tenant":"x:y"}"#,
            r#"tenant "x:y": ':' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,"#,
        );
        bad(
            r#"{"event":"system:gap","channel":"a"}"#,
            r#"event "system:gap" is refused: names that begin with "system:" are the node's own"#,
        );
        bad(
            r#"{"event":"e","channel":"a","data":1,"data_base64":"AA=="}"#,
            "both data and data_base64 are given; one of them is allowed",
        );
        bad(r#"{"event":"e","channel":"a","data_base64":"?"}"#, "data_base64 is not standard base64 with padding");
        let long = format!(r#"{{"event":"e","channel":"a","data":"{}"}}"#, "x".repeat(200));
        assert_eq!(refused(&long), (LimitExceeded, "the body has 223 bytes; allowed are 200".into()));
    }

    #[test]
    fn a_batch_is_read_one_by_one() {
        let body = br#"{"publications":[{"channel":"a","event":"e"},{"event":"e"},5]}"#;
        let results = batch(body, LIMITS).unwrap();
        assert_eq!(results[0].as_ref().unwrap().channel.as_str(), "a");
        assert_eq!(results[1].as_ref().unwrap_err().message, "channel is missing");
        assert!(results[2].as_ref().unwrap_err().message.starts_with("the body is not valid: invalid type"));
        let four = format!(r#"{{"publications":[{}]}}"#, ["1"; 4].join(","));
        let error = batch(four.as_bytes(), LIMITS).unwrap_err();
        assert_eq!(error.code, ErrorCode::LimitExceeded);
        assert_eq!(error.message, "publications has 4 entries; allowed are 1 to 3 (limits.api_batch)");
        assert_eq!(batch(br#"{"publications":[]}"#, LIMITS).unwrap_err().code, ErrorCode::BadRequest);
    }

    #[test]
    fn a_broadcast_shares_its_bytes() {
        let body = br#"{"channels":["a","b b","c"],"event":"e","data":1,"tenant":"acme"}"#;
        let Broadcast { publishes } = broadcast(body, LIMITS).unwrap();
        let names: Vec<_> = publishes.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b b", "c"]);
        let (first, last) = (publishes[0].1.as_ref().unwrap(), publishes[2].1.as_ref().unwrap());
        assert_eq!(first.body.as_ptr(), last.body.as_ptr());
        assert_eq!(last.tenant.as_str(), "acme");
        assert!(publishes[1].1.as_ref().unwrap_err().message.starts_with(r#"channel "b b": "#));
        let message = |body: &[u8]| broadcast(body, LIMITS).err().unwrap().message;
        assert_eq!(message(br#"{"event":"e"}"#), "channels is missing; it must be a list of channels");
        let both = br#"{"event":"e","channel":"a","channels":["a"]}"#;
        assert_eq!(message(both), "channel is for /api/publish; here channels must be given");
    }
}
