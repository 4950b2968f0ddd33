//! The streams of the NATS adapter: created, updated, checked, made anew.

use std::{sync::Arc, time::Duration};

use async_nats::Client;
use fanfare_broker::{
    BrokerError, BrokerEvent, BrokerOptions, HistoryOptions, HistoryRange, Lifecycle, LifecycleKind, Publish,
    Retention, Scope, Storage, limits, open,
};
use fanfare_protocol::{Channel, Tenant};
use fanfare_testkit::{NatsServer, wait_for};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::{
    fixture::{Outside as _, SOON},
    nats::Plain,
    node::{Node, number, numbered},
};

/// Namespace `a` keeps `size` publications for `ttl`.
pub(crate) fn options(server: &NatsServer, size: u32, ttl: Duration) -> BrokerOptions {
    let namespaces = [("a".into(), Retention { size, ttl })].into_iter().collect();
    let history = HistoryOptions { namespaces, ..HistoryOptions::default() };
    BrokerOptions { history, connect_timeout: SOON, ..BrokerOptions::new(server.url()) }
}

pub(crate) async fn jetstream() -> NatsServer {
    NatsServer::builder().jetstream().start().await
}

/// A request on JetStream's API, by a plain client.
pub(crate) async fn api(client: &Client, what: &str, request: Value) -> Value {
    let payload = if request.is_null() { Vec::new() } else { serde_json::to_vec(&request).unwrap() };
    let answer = client.request(format!("$JS.API.{what}"), payload.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn stream_config(client: &Client) -> Value {
    api(client, "STREAM.INFO.RT_a", Value::Null).await["config"].take()
}

fn checked(options: &BrokerOptions) -> BrokerOptions {
    let history = HistoryOptions { manage_streams: false, ..options.history.clone() };
    BrokerOptions { history, connect_timeout: Duration::from_secs(1), ..options.clone() }
}

async fn refusal(options: &BrokerOptions) -> BrokerError {
    open(options).await.err().expect("a node does not start so")
}

#[tokio::test]
async fn a_stream_is_created_as_configured_and_updated() {
    let server = jetstream().await;
    let mut wanted = options(&server, 100, Duration::from_secs(60));
    wanted.history.max_bytes = Some(50_000_000);
    Node::over(open(&wanted).await.unwrap()).close().await;
    let outside = Plain::connect(&server).await;
    let config = stream_config(&outside.client).await;
    for (field, value) in [
        ("subjects", json!(["rt.pub.*.a", "rt.pub.*.a.>"])),
        ("retention", json!("limits")),
        ("discard", json!("old")),
        ("storage", json!("file")),
        ("max_msgs_per_subject", json!(100)),
        ("max_age", json!(60_000_000_000_u64)),
        ("max_bytes", json!(50_000_000)),
        ("duplicate_window", json!(60_000_000_000_u64)),
        ("num_replicas", json!(1)),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    assert_eq!((&config["republish"]["src"], &config["republish"]["dest"]), (&json!("rt.pub.>"), &json!("rt.live.>")));

    // What others have set is kept, what the node needs is set again.
    let mut by_hand = config;
    by_hand["max_msg_size"] = json!(4_000);
    by_hand["description"] = json!("ours");
    by_hand["max_age"] = json!(5_000_000_000_u64);
    by_hand["duplicate_window"] = json!(5_000_000_000_u64);
    let updated = api(&outside.client, "STREAM.UPDATE.RT_a", by_hand).await;
    assert_eq!(updated["error"], Value::Null);
    wanted.history.max_bytes = None;
    wanted.history.namespaces.insert("a".into(), Retention { size: 7, ttl: Duration::from_secs(600) });
    Node::over(open(&wanted).await.unwrap()).close().await;
    let config = stream_config(&outside.client).await;
    for (field, value) in [
        ("max_msgs_per_subject", json!(7)),
        ("max_age", json!(600_000_000_000_u64)),
        ("duplicate_window", json!(120_000_000_000_u64)),
        ("max_bytes", json!(50_000_000)),
        ("max_msg_size", json!(4_000)),
        ("description", json!("ours")),
    ] {
        assert_eq!(config[field], value, "{field}");
    }
    Node::over(open(&checked(&wanted)).await.unwrap()).close().await;
}

#[tokio::test]
async fn what_is_missing_or_differs_is_told_where_streams_are_not_managed() {
    let server = jetstream().await;
    let wanted = options(&server, 100, Duration::from_secs(60));
    let missing = refusal(&checked(&wanted)).await;
    assert!(matches!(missing, BrokerError::Configuration { .. }), "{missing:?}");
    let text = missing.to_string();
    assert!(text.contains("RT_a") && text.contains("does not exist") && text.contains("\"rt.pub.*.a.>\""), "{text}");
    assert!(text.contains("history.manage_streams"), "{text}");

    Node::over(open(&wanted).await.unwrap()).close().await;
    let mut other = checked(&wanted);
    other.history.namespaces.insert("a".into(), Retention { size: 1_000, ttl: Duration::from_secs(30) });
    let differs = refusal(&other).await;
    assert!(matches!(differs, BrokerError::Configuration { .. }), "{differs:?}");
    let text = differs.to_string();
    for part in ["RT_a", "max_msgs_per_subject is 100, not 1000", "max_age is 60s, not 30s", "duplicate_window"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains("storage"), "{text}");
}

#[tokio::test]
async fn what_cannot_be_is_told_at_start() {
    let server = NatsServer::start().await;
    let mut wanted = options(&server, 100, Duration::from_secs(60));
    wanted.connect_timeout = Duration::from_millis(500);
    let without = refusal(&wanted).await;
    assert!(without.to_string().contains("JetStream") && without.to_string().contains("-js"), "{without}");
    wanted.history.storage = Storage::Memory;
    let memory = refusal(&wanted).await;
    assert!(matches!(memory, BrokerError::Configuration { what: "history.storage", .. }), "{memory:?}");

    // A stream of the same name for something else, and a field that no server changes.
    let server = jetstream().await;
    let outside = Plain::connect(&server).await;
    let theirs = json!({ "name": "RT_a", "subjects": ["orders.>"], "storage": "file" });
    assert_eq!(api(&outside.client, "STREAM.CREATE.RT_a", theirs.clone()).await["error"], Value::Null);
    let wanted = options(&server, 100, Duration::from_secs(60));
    let taken = refusal(&wanted).await;
    assert!(taken.to_string().contains("something else"), "{taken}");
    assert_eq!(stream_config(&outside.client).await["subjects"], json!(["orders.>"]));
    api(&outside.client, "STREAM.DELETE.RT_a", Value::Null).await;
    let ours = json!({ "name": "RT_a", "subjects": ["rt.pub.*.a", "rt.pub.*.a.>"], "storage": "memory" });
    assert_eq!(api(&outside.client, "STREAM.CREATE.RT_a", ours).await["error"], Value::Null);
    let fixed = refusal(&wanted).await;
    assert!(matches!(fixed, BrokerError::Configuration { .. }), "{fixed:?}");
    assert!(fixed.to_string().contains("storage is \"memory\", not \"file\""), "{fixed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_start_together_agree_on_their_streams() {
    let server = jetstream().await;
    let wanted = options(&server, 100, Duration::from_secs(60));
    let starting: Vec<_> = (0..8)
        .map(|_| {
            let wanted = wanted.clone();
            tokio::spawn(async move { Node::over(open(&wanted).await.unwrap()) })
        })
        .collect();
    let mut epochs = Vec::new();
    for node in starting {
        let node = node.await.unwrap();
        epochs.push(node.record("a:b", numbered(1)).await.epoch);
        node.close().await;
    }
    epochs.dedup();
    assert_eq!(epochs.len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_made_anew_and_told() {
    let server = jetstream().await;
    let mut node = Node::over(open(&options(&server, 100, Duration::from_secs(60))).await.unwrap());
    let interest = node.add("acme", "a:b").await;
    node.add("acme", "live:b").await;
    let before = node.record("a:b", numbered(1)).await;
    assert_eq!(number(&node.publication().await.body.bytes), 1);
    let outside = Plain::connect(&server).await;
    let deleted = api(&outside.client, "STREAM.DELETE.RT_a", Value::Null).await;
    assert_eq!(deleted["success"], json!(true));
    match node.event().await {
        BrokerEvent::Interrupted(interruption) => {
            assert_eq!((interruption.scope, interruption.reason), (Scope::Interest(interest), "new_epoch"));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(node.event().await, BrokerEvent::Resumed(scope) if scope == Scope::Interest(interest)));
    let after = node.record("a:b", numbered(2)).await;
    assert_ne!(before.epoch, after.epoch);
    assert_eq!((before.offset, after.offset), (1, 1));
    let publication = node.publication().await;
    assert_eq!(publication.position.unwrap().position, after);
    assert_eq!(node.standing("a:b").await.unwrap().position, after);
}

/// What the stream before has republished may still wait in the node when the new one is found. Its sequences are not the
/// new one's.
#[tokio::test]
async fn what_waits_of_the_stream_before_has_no_place_in_the_new_one() {
    // More than waits for the hub: the rest waits on its way.
    const OLD: u64 = 2 * limits::EVENTS as u64;
    let server = jetstream().await;
    let mut node = Node::over(open(&options(&server, 100, Duration::from_secs(60))).await.unwrap());
    let interest = node.add("acme", "a:b").await;
    let outside = Plain::connect(&server).await;
    for number in 0..OLD {
        assert!(outside.publish("acme", "a:b", numbered(number)).await);
    }
    outside.flush().await;
    let mut read = 0;
    let broker = Arc::clone(&node.broker);
    let position = async || {
        let channels = [(Tenant::parse("acme").unwrap(), Channel::parse("a:b").unwrap())];
        Some(broker.positions(&channels).await.ok()?.remove(0).position)
    };
    let mut making_anew = std::pin::pin!(async {
        let all = async || position().await.filter(|position| position.offset == OLD);
        let old = wait_for("all to be published", SOON, all).await;
        assert_eq!(api(&outside.client, "STREAM.DELETE.RT_a", Value::Null).await["success"], json!(true));
        let another = async || position().await.filter(|position| position.epoch != old.epoch);
        let new = wait_for("the new stream", SOON, another).await;
        (old.epoch, new.epoch)
    });
    // A hub that is slow, but not so slow that publications are discarded.
    let (old, new) = loop {
        if let Ok(made_anew) = timeout(limits::STALL / 4, &mut making_anew).await {
            break made_anew;
        }
        for _ in 0..limits::EVENTS / 12 {
            node.publication().await;
            read += 1;
        }
    };
    let mut resumed = false;
    while !resumed {
        match node.event().await {
            BrokerEvent::Publication(publication) => {
                assert_eq!(publication.position.unwrap().position.epoch, old);
                read += 1;
            }
            BrokerEvent::Interrupted(interruption) => assert_eq!(interruption.reason, "new_epoch"),
            BrokerEvent::Resumed(scope) => resumed = scope == Scope::Interest(interest),
        }
    }
    assert!(read < OLD, "nothing waited");
    for number in 1..=3 {
        let recorded = node.record("a:b", numbered(number)).await;
        assert_eq!((recorded.offset, &recorded.epoch), (number, &new));
        assert_eq!(node.publication().await.position.unwrap().position, recorded);
    }
}

/// As [`a_stream_that_is_deleted_is_made_anew_and_told`], where a node may not hear JetStream's advisories.
#[tokio::test]
async fn a_stream_that_became_another_is_noticed_without_advisories() {
    let permissions = "authorization { users: [ { user: u, password: p, permissions: { \
                       publish: \">\", subscribe: { deny: \"$JS.EVENT.>\" } } }, { user: o, password: p } ] }";
    let server = NatsServer::builder().jetstream().line(permissions).start().await;
    let as_user = |user: &str| BrokerOptions {
        url: format!("nats://{user}:p@{}", server.address()),
        ..options(&server, 100, Duration::from_secs(60))
    };
    let mut node = Node::over(open(&as_user("u")).await.unwrap());
    node.add("acme", "a:b").await;
    for number in 1..=3 {
        node.record("a:b", numbered(number)).await;
        node.publication().await;
    }
    let other = Node::over(open(&as_user("o")).await.unwrap());
    let plain = async_nats::ConnectOptions::with_user_and_password("o".to_owned(), "p".to_owned());
    let client = plain.connect(server.address().to_string()).await.unwrap();
    let before = node.standing("a:b").await.unwrap().position;
    api(&client, "STREAM.DELETE.RT_a", Value::Null).await;
    wait_for("the other node to make it anew", SOON, async || {
        let position = other.standing("a:b").await.ok()?.position;
        (position.epoch != before.epoch).then_some(())
    })
    .await;
    // The ack says a sequence that had been before.
    let after = node.record("a:b", numbered(4)).await;
    assert_eq!(after.offset, 1);
    assert_ne!(after.epoch, before.epoch);
    assert_eq!(after, other.standing("a:b").await.unwrap().position);
    let mut renumbered = false;
    while !renumbered {
        renumbered =
            matches!(node.event().await, BrokerEvent::Interrupted(interruption) if interruption.reason == "new_epoch");
    }
}

/// The permissions of docs/subjects.md are enough, and no more than needed to check streams is needed to check them.
#[tokio::test]
async fn the_permissions_of_the_documentation_are_enough() {
    let reading = "\"rt.pub.>\", \"$JS.API.STREAM.INFO.RT_a\", \"$JS.API.STREAM.MSG.GET.RT_a\", \
                   \"$JS.API.CONSUMER.CREATE.RT_a.>\", \"$JS.API.CONSUMER.MSG.NEXT.RT_a.>\", \
                   \"$JS.API.CONSUMER.DELETE.RT_a.>\", \"rt.sig.>\", \"rt.event.>\", \"$JS.API.STREAM.INFO.RT_EVENTS\"";
    let managing = "\"$JS.API.STREAM.CREATE.RT_a\", \"$JS.API.STREAM.UPDATE.RT_a\", \
                    \"$JS.API.STREAM.CREATE.RT_EVENTS\", \"$JS.API.STREAM.UPDATE.RT_EVENTS\"";
    let subscribe = "[\"rt.pub.>\", \"rt.live.>\", \"rt.sig.>\", \"_INBOX.>\", \
                     \"$JS.EVENT.ADVISORY.STREAM.*.*\"]";
    let user = |name: &str, publish: &str| {
        format!("{{ user: {name}, password: p, permissions: {{ publish: [{publish}], subscribe: {subscribe} }} }}")
    };
    let users = [user("m", &format!("{reading}, {managing}")), user("c", reading)].join(", ");
    let line = format!("authorization {{ users: [ {users} ] }}");
    let server = NatsServer::builder().jetstream().line(&line).start().await;
    let wanted = options(&server, 100, Duration::from_secs(60));
    for (user, options) in [("m", wanted.clone()), ("c", checked(&wanted))] {
        let url = format!("nats://{user}:p@{}", server.address());
        let options = BrokerOptions { url, signals: ["a".into()].into(), tells: true, ..options };
        let mut node = Node::over(open(&options).await.unwrap());
        let channel = format!("a:{user}");
        node.add("acme", &channel).await;
        let of = |channel: &str| (Tenant::parse("acme").unwrap(), Channel::parse(channel).unwrap());
        let (tenant, signalled) = of(&channel);
        let signal = Publish { tenant, channel: signalled, body: numbered(99), id: None, ephemeral: true };
        node.broker.publish(signal).await.unwrap();
        assert_eq!(node.publication().await.position, None);
        let (kind, body) = (LifecycleKind::Connected, numbered(1));
        let told = Lifecycle { tenant: of(&channel).0, kind, id: format!("{user}:connected"), body };
        node.broker.tell(told).await.unwrap();
        for number in 0..70 {
            let recorded = node.record(&channel, numbered(number)).await;
            assert_eq!(node.publication().await.position.unwrap().position, recorded);
        }
        assert_eq!(node.read(&channel, HistoryRange::After(0), 1_000).await.unwrap().publications.len(), 70);
        assert_eq!(node.read(&channel, HistoryRange::Before(None), 20).await.unwrap().publications.len(), 20);
        assert!(!node.standing(&channel).await.unwrap().empty);
        node.close().await;
    }
    wait_for("the log", SOON, async || server.process().log().contains("Server is ready").then_some(())).await;
    assert!(!server.process().log().contains("Violation"), "{}", server.process().log());
}
