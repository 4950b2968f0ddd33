//! server-frames.json: each reply, error and push; codes.json: each code.

use std::collections::BTreeMap;

use fanfare_protocol::{
    CloseCode, Connected, Delivery, Envelope, EnvelopeHeaders, Epoch, ErrorBody, ErrorCode, HistoryReply, MemberJson,
    Missed, Position, PresenceReply, Push, RecordedJson, Reply, ServerMessage, Subscribed, SubscriptionOutcome, json,
    limits, msgpack,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{Differences, hex, read, unpack};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ServerFrame {
    name: String,
    json: String,
    msgpack: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Codes {
    errors: Vec<ErrorEntry>,
    closes: Vec<CloseEntry>,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct ErrorEntry {
    code: String,
    retryable: bool,
    http_status: u16,
}

#[derive(Deserialize, Debug, PartialEq)]
#[serde(deny_unknown_fields)]
struct CloseEntry {
    code: u16,
    name: String,
    reconnect: bool,
}

#[test]
fn every_server_frame_is_written_byte_for_byte() {
    let mut differences = Differences::default();
    let mut messages = messages();
    for frame in read::<Vec<ServerFrame>>("server-frames.json") {
        let name = &frame.name;
        let message = messages.remove(name).unwrap_or_else(|| panic!("no message is called {name}"));
        let (mut text, mut packed) = (Vec::new(), Vec::new());
        json::write_message(&message, &mut text);
        msgpack::write_message(&message, &mut packed);
        differences.expect(name, "JSON", String::from_utf8(text).unwrap(), frame.json.clone());
        differences.expect(name, "MessagePack", hex(&packed), frame.msgpack.clone());
        differences.expect(name, "MessagePack in JSON", unpack(&frame.msgpack), frame.json);
    }
    assert!(messages.is_empty(), "without a vector: {:?}", messages.keys());
    differences.report();
}

#[test]
fn every_code_has_a_vector() {
    let codes: Codes = read("codes.json");
    let errors = ErrorCode::ALL.map(|code| ErrorEntry {
        code: code.as_str().to_owned(),
        retryable: code.retryable(),
        http_status: code.http_status(),
    });
    assert_eq!(codes.errors, errors);
    let closes = CloseCode::ALL.map(|code| CloseEntry {
        code: code.as_u16(),
        name: code.as_str().to_owned(),
        reconnect: code.reconnect(),
    });
    assert_eq!(codes.closes, closes);
}

/// The message behind each vector, by its name.
fn messages() -> BTreeMap<String, ServerMessage> {
    let mut messages = BTreeMap::new();
    for (name, id, reply) in replies() {
        assert!(name.starts_with(reply_name(&reply)), "{name}");
        messages.insert(name.to_owned(), ServerMessage::Reply { id, outcome: Ok(reply) });
    }
    for code in ErrorCode::ALL {
        let name = format!("error-{}", code.as_str().to_lowercase().replace('_', "-"));
        messages.insert(name, ServerMessage::Reply { id: 2, outcome: Err(error(code)) });
    }
    for (name, push) in pushes() {
        assert!(name.starts_with(push_name(&push)), "{name}");
        messages.insert(name.to_owned(), ServerMessage::Push(push));
    }
    messages
}

fn replies() -> Vec<(&'static str, u64, Reply)> {
    let anonymous = Connected {
        user: None,
        tenant: "default".to_owned(),
        expires_in_ms: None,
        features: Vec::new(),
        ..connected()
    };
    let subscribed =
        |channel: &str| Reply::Subscribed(Subscribed { channel: channel.to_owned(), ..Subscribed::default() });
    let subscriptions = vec![
        SubscriptionOutcome { channel: "project:clx123".to_owned(), error: None },
        SubscriptionOutcome { channel: "user:alice".to_owned(), error: Some(forbidden_channel()) },
    ];
    let history = |more, recovered| {
        Reply::History(HistoryReply { publications: publications(), position: at(43), more, recovered })
    };
    vec![
        ("reply-connected", 1, Reply::Connected(connected())),
        ("reply-connected-anonymous", 1, Reply::Connected(anonymous)),
        ("reply-subscribed", 2, subscribed("project:clx123")),
        ("reply-subscribed-pattern", 3, subscribed("project:*")),
        (
            "reply-subscribed-with-position",
            2,
            Reply::Subscribed(Subscribed { position: Some(at(43)), ..subscription() }),
        ),
        ("reply-subscribed-recovered", 2, Reply::Subscribed(recovered())),
        (
            "reply-subscribed-nothing-missed",
            2,
            Reply::Subscribed(Subscribed { position: Some(at(41)), publications: Some(Vec::new()), ..recovered() }),
        ),
        (
            "reply-subscribed-not-recovered",
            2,
            Reply::Subscribed(Subscribed { recovered: Some(false), publications: Some(Vec::new()), ..recovered() }),
        ),
        (
            "reply-subscribed-latest",
            2,
            Reply::Subscribed(Subscribed {
                recovered: None,
                publications: Some(publications().split_off(1)),
                ..recovered()
            }),
        ),
        ("reply-published", 7, Reply::Published { position: None }),
        ("reply-published-with-position", 7, Reply::Published { position: Some(at(44)) }),
        ("reply-history", 10, history(true, None)),
        ("reply-history-since", 10, history(false, Some(true))),
        ("reply-presence", 1, Reply::Presence(crew(vec![anonymous_member(), alice(), bob()]))),
        (
            "reply-presence-page",
            1,
            Reply::Presence(PresenceReply {
                members: Some(vec![anonymous_member(), alice()]),
                next: Some("u:alice".to_owned()),
                ..crew(vec![anonymous_member(), alice(), bob()])
            }),
        ),
        ("reply-presence-counts", 1, Reply::Presence(PresenceReply { version: None, ..many() })),
        ("reply-presence-stale", 1, Reply::Presence(PresenceReply { version: None, stale: true, ..crew(vec![bob()]) })),
        ("reply-subscribed-many", 4, Reply::SubscribedMany { subscriptions }),
        ("reply-done", 5, Reply::Done {}),
        ("reply-refreshed", 12, Reply::Refreshed { expires_in_ms: Some(3_600_000) }),
        ("reply-refreshed-without-expiry", 12, Reply::Refreshed { expires_in_ms: None }),
    ]
}

fn pushes() -> Vec<(&'static str, Push)> {
    let channel = || "project:clx123".to_owned();
    let narrowed = ErrorBody::new(ErrorCode::Forbidden, "the new token does not allow it");
    let not_json = "the frame is no JSON object: expected value at line 1 column 1";
    let missed = Missed { from: at(41), to: at(97) };
    vec![
        ("push-connected", Push::Connected(connected())),
        ("push-ping", Push::Ping {}),
        ("push-token-expiring", Push::TokenExpiring { expires_in_ms: 30_000 }),
        ("push-subscribed", Push::Subscribed(Subscribed { channel: channel(), ..Subscribed::default() })),
        ("push-unsubscribed", Push::Unsubscribed { channel: channel(), error: narrowed }),
        ("push-gap", Push::Gap { channel: channel(), reason: "broker_interrupted", missed: None }),
        ("push-subscribed-recovered", Push::Subscribed(recovered())),
        ("push-gap-with-positions", Push::Gap { channel: channel(), reason: "not_retained", missed: Some(missed) }),
        ("push-gap-conflated", Push::Gap { channel: "price:btc".to_owned(), reason: "conflated", missed: None }),
        ("presence-snapshot", Push::PresenceSnapshot(crew(vec![alice(), bob()]))),
        ("presence-snapshot-counts", Push::PresenceSnapshot(PresenceReply { version: Some(9), ..many() })),
        ("push-draining", Push::Draining { reconnect_after_ms: 1_500 }),
        ("push-error", Push::Error { channel: None, error: ErrorBody::new(ErrorCode::BadRequest, not_json) }),
        ("push-error-of-a-channel", Push::Error { channel: Some("user:alice".to_owned()), error: forbidden_channel() }),
        ("push-error-unauthorized", Push::Error { channel: None, error: error(ErrorCode::Unauthorized) }),
    ]
}

fn connected() -> Connected {
    Connected {
        session: "5f1d7a84c0e94b6fa2d3e81b9c470516".to_owned(),
        protocol: fanfare_protocol::PROTOCOL_VERSION,
        features: vec!["history", "presence", "signal"],
        user: Some("alice".to_owned()),
        tenant: "acme".to_owned(),
        expires_in_ms: Some(3_600_000),
        ping_interval_ms: 25_000,
    }
}

fn at(offset: u64) -> Position {
    Position { offset, epoch: Epoch::parse("b7f2").unwrap() }
}

fn subscription() -> Subscribed {
    Subscribed { channel: "project:clx123".to_owned(), ..Subscribed::default() }
}

/// Everything behind offset 41.
fn recovered() -> Subscribed {
    Subscribed { position: Some(at(43)), recovered: Some(true), publications: Some(publications()), ..subscription() }
}

/// Two publications, as their deliveries are written.
fn publications() -> Vec<RecordedJson> {
    let publication = |offset: u64, amount: u64| {
        let body = format!(
            r#"{{"event":"project:funded","data":{{"projectId":"clx123","currentAmount":{amount}}},"timestamp":{}}}"#,
            1_696_867_200_000 + offset
        );
        let envelope = Envelope::parse(body.as_bytes(), EnvelopeHeaders::default(), limits::PUBLICATION_BYTES).unwrap();
        let timestamp = envelope.timestamp.unwrap();
        let mut json = Vec::new();
        Delivery { envelope: &envelope, channel: "project:clx123", timestamp, position: Some(&at(offset)) }
            .write_json(&mut json);
        RecordedJson::new(String::from_utf8(json).unwrap()).unwrap()
    };
    vec![publication(42, 75_000), publication(43, 76_000)]
}

/// All members of a channel.
fn crew(members: Vec<MemberJson>) -> PresenceReply {
    PresenceReply {
        channel: "crew:1".to_owned(),
        users: members.len() as u64,
        connections: members.iter().map(|member| u64::from(member.connections)).sum(),
        members: Some(members),
        next: None,
        version: Some(7),
        stale: false,
    }
}

/// Too many to be named.
fn many() -> PresenceReply {
    PresenceReply { users: 812, connections: 900, members: None, ..crew(Vec::new()) }
}

pub(crate) fn alice() -> MemberJson {
    let info = r#"{"name":"Alice","cursor":[4,17]}"#;
    MemberJson {
        user_id: "alice".to_owned(),
        anonymous: false,
        status: "editing".to_owned(),
        info: Some(RawValue::from_string(info.to_owned()).unwrap().into()),
        connections: 2,
        since: 1_696_867_200_000,
    }
}

fn bob() -> MemberJson {
    MemberJson {
        user_id: "bob".to_owned(),
        status: "idle".to_owned(),
        info: None,
        connections: 1,
        since: 1_696_867_205_000,
        ..alice()
    }
}

pub(crate) fn anonymous_member() -> MemberJson {
    MemberJson {
        user_id: "5f1d7a84c0e94b6fa2d3e81b9c470516".to_owned(),
        anonymous: true,
        status: "online".to_owned(),
        since: 1_696_867_209_000,
        ..bob()
    }
}

fn forbidden_channel() -> ErrorBody {
    ErrorBody::new(ErrorCode::Forbidden, "the token has no claim that allows subscribe on all of user:alice")
}

fn error(code: ErrorCode) -> ErrorBody {
    let message = match code {
        ErrorCode::Unauthorized => "the token is not valid",
        ErrorCode::TokenExpired => "the token has expired",
        ErrorCode::Forbidden => "the token has no claim that allows subscribe on all of project:clx123",
        ErrorCode::RateLimit => "1000 commands wait for their reply; wait for one of them",
        ErrorCode::LimitExceeded => "the session has 1000 subscriptions; more are not allowed",
        ErrorCode::BadRequest => {
            "type \"dance\" is not known; allowed are connect, subscribe, unsubscribe, publish, history, presence, set_presence, signal, refresh, ping, pong"
        }
        ErrorCode::NotFound => "/wss is not here; WebSocket clients connect at /ws",
        ErrorCode::Unavailable => "the subscription was not made: nats is not connected; nothing was sent",
        ErrorCode::Timeout => "the subscription was not made: nats did not answer within 5s",
        ErrorCode::Internal => "a fault of the node",
    };
    let mut error = ErrorBody::new(code, message);
    if code == ErrorCode::RateLimit {
        error.reconnect_after_ms = Some(1_000);
    }
    error
}

/// No wildcard: a new reply does not compile until it has a name, and `replies` a vector.
fn reply_name(reply: &Reply) -> &'static str {
    match reply {
        Reply::Done {} => "reply-done",
        Reply::Connected(_) => "reply-connected",
        Reply::Subscribed(_) | Reply::SubscribedMany { .. } => "reply-subscribed",
        Reply::Published { .. } => "reply-published",
        Reply::History(_) => "reply-history",
        Reply::Presence(_) => "reply-presence",
        Reply::Refreshed { .. } => "reply-refreshed",
    }
}

/// No wildcard, as in `reply_name`.
fn push_name(push: &Push) -> &'static str {
    match push {
        Push::Connected(_) => "push-connected",
        Push::Ping {} => "push-ping",
        Push::TokenExpiring { .. } => "push-token-expiring",
        Push::Subscribed(_) => "push-subscribed",
        Push::Unsubscribed { .. } => "push-unsubscribed",
        Push::Gap { .. } => "push-gap",
        Push::Draining { .. } => "push-draining",
        Push::PresenceSnapshot(_) => "presence-snapshot",
        Push::Error { .. } => "push-error",
    }
}
