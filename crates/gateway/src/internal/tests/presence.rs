//! Who is present, and what channels and connections there are, through the API. Shards and the presence driver are played by hand.

use fanfare_presence::{Answer as Present, ConnectionKey, Member, MemberPage, State as RowState, User};
use fanfare_protocol::{ErrorBody, Topic};
use fanfare_session::SessionId;
use serde_json::json;
use tokio::sync::mpsc;

use super::*;
use crate::{
    hub::{
        message::{ConnectionReport, Inspected, Inspection, ShardMessage, TopicCount},
        shard_inbox,
    },
    presence::message::{Asker, PresenceRequest},
};

const ENVIRONMENT: [(&str, &str); 7] = [
    ("FANFARE_API_KEYS", KEY),
    ("FANFARE_AUTH__HMAC_SECRET", "0123456789abcdef0123456789abcdef"),
    ("FANFARE_BROKER", "memory:"),
    ("FANFARE_NODE", "gate-1"),
    ("FANFARE_NAMESPACES__CREW__PRESENCE", "true"),
    ("FANFARE_LIMITS__PRESENCE_PAGE", "200"),
    ("FANFARE_LIMITS__API_BATCH", "3"),
];

fn member(user: User, state: &str, info: Option<&str>, connections: u32) -> Member {
    let info = info.map(|text| serde_json::value::RawValue::from_string(text.into()).unwrap().into());
    Member { user, state: RowState::parse(state).unwrap(), info, connections, since: 7 }
}

/// A driver that knows two members of `crew:1`, nobody elsewhere, and nothing of `crew:lost`.
async fn drive(mut requests: mpsc::Receiver<PresenceRequest>) {
    while let Some(request) = requests.recv().await {
        let PresenceRequest::Ask { query, asker: Asker::Service(answer) } = request else { panic!("{request:?}") };
        assert_eq!((query.audience, query.snapshot), (None, false));
        let all = [
            member(User::Named("alice".into()), "editing", Some(r#"{"at": 3}"#), 2),
            member(User::Anonymous(ConnectionKey(0xab)), "idle", None, 1),
        ];
        let (users, connections, stale) = match (query.place.tenant.as_str(), query.place.channel.as_str()) {
            (_, "crew:lost") => {
                let error = ErrorBody::new(ErrorCode::Unavailable, "the presence store redis is away: gone");
                answer.send(Err(error)).unwrap();
                continue;
            }
            ("acme", "crew:1") => (2, 3, true),
            ("acme", "=connections:u:a=2Eb") => {
                let (first, second) = (ConnectionKey(1), ConnectionKey(2));
                let of = |key, node| {
                    let info = format!(r#"{{"node":"{node}","transport":"websocket","user":"a.b"}}"#);
                    member(User::Anonymous(key), "online", Some(&info), 1)
                };
                let mut members = vec![of(first, "gate-1"), of(second, "gate-2")];
                members.retain(|member| query.after.as_ref().is_none_or(|after| member.user > *after));
                let next = (members.len() > query.limit).then_some(User::Anonymous(first));
                members.truncate(query.limit);
                let members = Some(MemberPage { members, next });
                answer.send(Ok(Present { users: 2, connections: 2, members, version: None, stale: false })).unwrap();
                continue;
            }
            _ => (0, 0, false),
        };
        let skipped = usize::from(query.after.is_some());
        let here = if users > 0 { all.into_iter().skip(skipped).take(query.limit).collect() } else { Vec::new() };
        let next = (users > 0 && here.len() + skipped < 2)
            .then(|| here.last().map(|last: &Member| last.user.clone()))
            .flatten();
        let members = (query.limit > 0).then_some(MemberPage { members: here, next });
        answer.send(Ok(Present { users, connections, members, version: None, stale })).unwrap();
    }
}

fn port() -> Port {
    port_with(&ENVIRONMENT)
}

/// A port over that driver and one shard.
fn port_with(environment: &[(&str, &str)]) -> Port {
    let (requests, receiver) = mpsc::channel(8);
    tokio::spawn(drive(receiver));
    let (inbox, mut shard) = shard_inbox(8);
    tokio::spawn(async move {
        let mut batch = Vec::new();
        while shard.recv_many(&mut batch, 1).await > 0 {
            let Some(ShardMessage::Inspect(inspection)) = batch.pop() else { panic!("nothing else is asked") };
            match *inspection {
                Inspection::Topics { tenant, prefix, after, from: 0, answer } => {
                    assert_eq!((tenant.as_str(), &*prefix, &*after), ("acme", "c", ""));
                    let count = |name, subscribers| TopicCount { topic: Topic::parse(name).unwrap(), subscribers };
                    let found = vec![count("crew:lost", 1), count("chat:*", 9), count("crew:1", 2), count("chat:1", 4)];
                    answer.send(Inspected { found, next: None }).unwrap();
                }
                Inspection::Connections { tenant, user, from: 0, answer } => {
                    assert_eq!((tenant.as_str(), &*user), ("acme", "alice"));
                    let found = vec![ConnectionReport {
                        session: SessionId(0xab),
                        is_stream: true,
                        subscriptions: 1,
                        topics: vec![Topic::parse("crew:1").unwrap()],
                    }];
                    answer.send(Inspected { found, next: None }).unwrap();
                }
                other => panic!("{other:?}"),
            }
        }
    });
    let recorder = Arc::new(Recorder::default());
    Port::with(&load(environment), recorder.clone(), recorder, Some(PresenceHandle::new(requests)), vec![inbox])
}

async fn get(port: &Port, path: &str) -> Answer {
    port.send("GET", path, &[("x-api-key", KEY)], "").await
}

async fn found(port: &Port, path: &str) -> Value {
    let answer = get(port, path).await;
    assert_eq!(answer.status, 200, "{}", answer.text);
    serde_json::from_str(&answer.text).unwrap()
}

#[tokio::test]
async fn members_come_page_by_page() {
    let port = port();
    let alice = json!({"userId": "alice", "status": "editing", "info": {"at": 3}, "connections": 2, "since": 7});
    let other = json!({"userId": "000000000000000000000000000000ab", "anonymous": true, "status": "idle", "connections": 1, "since": 7});
    assert_eq!(
        found(&port, "/api/presence?channel=crew:1&tenant=acme").await,
        json!({"channel": "crew:1", "users": 2, "connections": 3, "members": [alice, other], "stale": true})
    );
    let page = found(&port, "/api/presence?channel=crew:1&tenant=acme&limit=1").await;
    assert_eq!((&page["members"], &page["next"]), (&json!([alice]), &json!("u:alice")));
    let page = found(&port, "/api/presence?channel=crew:1&tenant=acme&limit=1&after=u:alice").await;
    assert_eq!((&page["members"], page.get("next")), (&json!([other]), None));
    assert_eq!(
        found(&port, "/api/presence?channel=crew:1&tenant=acme&counts=true").await,
        json!({"channel": "crew:1", "users": 2, "connections": 3, "stale": true})
    );
    // Of another tenant nothing is seen.
    assert_eq!(
        found(&port, "/api/presence?channel=crew:1&tenant=other").await,
        json!({"channel": "crew:1", "users": 0, "connections": 0, "members": [], "stale": false})
    );
}

#[tokio::test]
async fn what_cannot_be_answered_is_told() {
    let port = port();
    let message = "channel \"chat:1\": namespace \"chat\" has no presence; namespaces.chat.presence = true gives it";
    assert_eq!(get(&port, "/api/presence?channel=chat:1").await.error(), error(400, "BAD_REQUEST", message));
    let message = "limit is 201; allowed are 1 to 200 (limits.presence_page)";
    let answer = get(&port, "/api/presence?channel=crew:1&limit=201").await;
    assert_eq!(answer.error(), error(413, "LIMIT_EXCEEDED", message));
    let message = "the presence store redis is away: gone";
    assert_eq!(get(&port, "/api/presence?channel=crew:lost").await.error(), error(503, "UNAVAILABLE", message));
    assert_eq!(get(&port, "/api/connections").await.error(), error(400, "BAD_REQUEST", "user is missing"));
    for path in ["presence?channel=crew:1", "presence_stats?channel=crew:1", "channels", "connections?user=a"] {
        let answer = port.send("GET", &format!("/api/{path}"), &[], "").await;
        assert_eq!(answer.error(), error(401, "UNAUTHORIZED", "X-API-Key is missing"), "{path}");
    }
}

#[tokio::test]
async fn several_channels_are_counted_at_once() {
    let port = port();
    let stats = found(&port, "/api/presence_stats?tenant=acme&channel=crew:1&channel=chat:1&channel=crew:2").await;
    let results = stats["results"].as_array().unwrap();
    assert_eq!(results[0], json!({"channel": "crew:1", "users": 2, "connections": 3, "stale": true}));
    assert_eq!((&results[1]["channel"], &results[1]["error"]["code"]), (&json!("chat:1"), &json!("BAD_REQUEST")));
    assert_eq!(results[2], json!({"channel": "crew:2", "users": 0, "connections": 0, "stale": false}));
}

#[tokio::test]
async fn channels_say_which_numbers_are_whose() {
    let port = port();
    let page = found(&port, "/api/channels?tenant=acme&prefix=c&limit=3").await;
    assert_eq!(
        page,
        json!({
            "node": "gate-1",
            "channels": [
                {"channel": "chat:*", "pattern": true, "node": {"subscribers": 9}},
                {"channel": "chat:1", "node": {"subscribers": 4}},
                {"channel": "crew:1", "node": {"subscribers": 2}, "cluster": {"users": 2, "connections": 3, "stale": true}},
            ],
            "next": "crew:1"
        })
    );
    let one = found(&port, "/api/channels?tenant=acme&prefix=c&limit=1").await;
    assert_eq!((one["channels"].as_array().unwrap().len(), &one["next"]), (1, &json!("chat:*")));
}

#[tokio::test]
async fn a_users_connections_are_listed() {
    let port = port();
    assert_eq!(
        found(&port, "/api/connections?tenant=acme&user=alice").await,
        json!({
            "user": "alice", "scope": "node", "node": "gate-1", "stale": false,
            "connections": [{"session": "000000000000000000000000000000ab", "node": "gate-1", "transport": "sse", "subscriptions": 1, "channels": ["crew:1"]}]
        })
    );
}

#[tokio::test]
async fn where_it_is_kept_connections_are_those_of_the_cluster() {
    let mut environment = ENVIRONMENT.to_vec();
    environment.push(("FANFARE_PRESENCE__CONNECTIONS", "true"));
    let port = port_with(&environment);
    let [first, second] = [("gate-1", 1), ("gate-2", 2)].map(
        |(node, key)| json!({"session": format!("{key:032x}"), "node": node, "transport": "websocket", "since": 7}),
    );
    assert_eq!(
        found(&port, "/api/connections?tenant=acme&user=a.b").await,
        json!({"user": "a.b", "scope": "cluster", "node": "gate-1", "connections": [first, second], "stale": false})
    );
    let page = found(&port, "/api/connections?tenant=acme&user=a.b&limit=1").await;
    assert_eq!((&page["connections"], &page["next"]), (&json!([first]), &first["session"]));
    let next = page["next"].as_str().unwrap();
    let page = found(&port, &format!("/api/connections?tenant=acme&user=a.b&limit=1&after={next}")).await;
    assert_eq!((&page["connections"], page.get("next")), (&json!([second]), None));
    let message = "after is \"x\"; it must be a session's id, 32 hexadecimal digits";
    let answer = get(&port, "/api/connections?user=a&after=x").await;
    assert_eq!(answer.error(), error(400, "BAD_REQUEST", message));
    // Clients' channels and the node's own are apart, here too.
    let answer = get(&port, "/api/presence?tenant=acme&channel==connections:u:a=2Eb").await;
    assert_eq!(answer.status, 400, "{}", answer.text);
}
