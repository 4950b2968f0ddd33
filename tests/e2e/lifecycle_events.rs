//! What services are told of connections, subscriptions and channels: each event once by its id, whatever happens to the broker.

mod service;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use fanfare_testkit::{NatsServer, RedisServer};
use futures_util::future::join_all;
use serde_json::json;
use tokio::time::sleep;

use self::service::{Event, Service, stream_messages};
use crate::{
    SOON,
    client::Client,
    handshake::TokenPlace,
    metrics::Metrics,
    node::{Node, NodeBuilder},
    token::{claims, seconds_from_now, sign},
};

const TENANT: &str = "acme";

/// A node that tells everything of connections, and of channels of `project` and `crew`.
fn telling(broker: &str) -> NodeBuilder {
    Node::builder(broker)
        .set("node", "n1")
        .set("events", vec!["connected", "disconnected"])
        .set("namespaces.project.events", vec!["subscribed", "unsubscribed"])
}

/// The same, and of members in `project`.
fn telling_of_members(name: &str, broker: &str, store: &str) -> NodeBuilder {
    telling(broker)
        .set("node", name)
        .set("store", store)
        .set("presence.lease", "2s")
        .set("presence.grace", "1s")
        .set("namespaces.project.presence", true)
        .set("namespaces.project.events", vec!["subscribed", "unsubscribed", "occupied", "vacated"])
}

async fn connect(node: &Node, user: &str) -> Client {
    node.client().connect(TENANT, user, TokenPlace::Header).await
}

/// Closes as a browser does, and waits for the answer.
async fn close(mut client: Client) {
    client.send_message(tokio_tungstenite::tungstenite::Message::Close(None)).await;
    client.end().await;
}

/// From connecting to each way to end, told to whoever listens.
async fn sessions_are_told_of(node: Node, mut service: Service) {
    let mut alice = connect(&node, "alice").await;
    alice.subscribe("project:1").await;
    alice.subscribe("project:*").await;
    // Nothing is told of this namespace, nor when one subscribes again to what one has.
    alice.subscribe("board:1").await;
    alice.subscribe("project:1").await;
    alice.command(json!({ "type": "unsubscribe", "channel": "project:1" })).await;
    alice.subscribe("project:1").await;
    let session = alice.session().to_owned();
    close(alice).await;
    service.hear(&[format!("{session}:disconnected")]).await;
    assert_eq!(
        service.of_session(&session),
        [
            "connected",
            "subscribed project:1",
            "subscribed project:*",
            "unsubscribed project:1 client",
            "subscribed project:1",
            "unsubscribed project:* client_closed",
            "unsubscribed project:1 client_closed",
            "disconnected client_closed",
        ]
    );
    let told = |service: &Service, kind: &str| -> Event {
        let own = |event: &&Event| event.session.as_deref() == Some(&session) && event.kind == kind;
        service.heard.iter().find(own).cloned().expect("it was heard")
    };
    let connected = told(&service, "connected");
    assert_eq!((connected.node.as_str(), connected.user.as_deref()), ("n1", Some("alice")));
    let disconnected = told(&service, "disconnected");
    assert_eq!(disconnected.duration_ms, Some(disconnected.timestamp - connected.timestamp));
    // Two subscriptions to one channel are told apart, and each end has the id of its beginning.
    let first = told(&service, "subscribed").id;
    assert_eq!(told(&service, "unsubscribed").id, first.replace(":subscribed", ":unsubscribed"));

    let mut expiring = claims(TENANT, "bob");
    expiring["exp"] = json!(seconds_from_now(1.5));
    let mut bob = node.client().connect_with(&sign(&expiring), TokenPlace::Header).await;
    let mut carol = connect(&node, "carol").await;
    let mut dave = connect(&node, "dave").await;
    for client in [&mut bob, &mut carol, &mut dave] {
        client.subscribe("project:1").await;
    }
    let sessions = [&bob, &carol, &dave].map(|client| client.session().to_owned());
    // The socket just ends.
    drop(carol);
    bob.closed(4003).await;
    let (status, _) = tokio::join!(node.stop(SOON), dave.closed(4000));
    assert_eq!(status.code(), Some(0), "{}", node.process().log());
    service.hear(&sessions.clone().map(|session| format!("{session}:disconnected"))).await;
    for (session, reason) in sessions.iter().zip(["token_expired", "connection_lost", "draining"]) {
        let expected = [
            "connected".to_owned(),
            "subscribed project:1".to_owned(),
            format!("unsubscribed project:1 {reason}"),
            format!("disconnected {reason}"),
        ];
        assert_eq!(service.of_session(session), expected);
    }
    assert!(service.counts().values().all(|count| *count == 1), "{:#?}", service.counts());
}

#[tokio::test]
async fn a_consumer_of_the_stream_hears_of_sessions() {
    let server = NatsServer::builder().jetstream().start().await;
    let node = telling(&server.url()).start().await;
    let service = Service::of_stream(&server).await;
    sessions_are_told_of(node, service).await;
}

#[tokio::test]
async fn a_subscriber_of_redis_hears_of_sessions() {
    let server = RedisServer::start().await;
    let node = telling(&server.url()).start().await;
    let service = Service::of_redis(&server).await;
    sessions_are_told_of(node, service).await;
}

/// Clients come and go all the time, half of them while there is no NATS; the stream has each event once in the end.
#[tokio::test]
async fn nothing_is_lost_and_nothing_comes_twice_while_nats_restarts() {
    const VISITORS: usize = 8;
    let server = NatsServer::builder().jetstream().start().await;
    let [first, second] = ["n1", "n2"].map(|name| telling(&server.url()).set("node", name).start());
    let (first, second) = tokio::join!(first, second);
    let mut service = Service::of_stream(&server).await;
    let over = AtomicBool::new(false);
    let visiting = join_all((0..VISITORS).map(async |visitor| {
        let node = if visitor % 2 == 0 { &first } else { &second };
        let mut visits = Vec::new();
        while !over.load(Ordering::Relaxed) {
            let mut client = connect(node, &format!("v{visitor}")).await;
            // Without its broker a node takes no subscription to a channel that nobody is on.
            let command = json!({ "type": "subscribe", "channel": format!("project:{visitor}-{}", visits.len()) });
            let subscribed = client.command(command).await["type"] == "reply";
            visits.push((client.session().to_owned(), subscribed));
            close(client).await;
            sleep(Duration::from_millis(20)).await;
        }
        visits
    }));
    let faults = async {
        for _ in 0..2 {
            sleep(Duration::from_millis(700)).await;
            server.stop().await;
            sleep(Duration::from_millis(1_200)).await;
            server.restart().await;
        }
        sleep(Duration::from_secs(2)).await;
        over.store(true, Ordering::Relaxed);
    };
    let (visits, ()) = tokio::join!(visiting, faults);
    let visits: Vec<_> = visits.into_iter().flatten().collect();
    let refused = visits.iter().filter(|(_, subscribed)| !subscribed).count();
    println!("lifecycle events over two restarts of NATS: {} visits, {refused} without subscription", visits.len());
    assert!(refused > 0 && refused < visits.len(), "the restarts were seen: {refused} of {}", visits.len());
    let ends = ["connected", "disconnected"].map(|kind| visits.iter().map(move |(id, _)| format!("{id}:{kind}")));
    service.hear(&ends.into_iter().flatten().collect::<Vec<_>>()).await;
    for (session, subscribed) in &visits {
        let told = service.of_session(session);
        let kinds: Vec<_> = told.iter().filter_map(|event| event.split(' ').next()).collect();
        let expected: &[&str] = match subscribed {
            true => &["connected", "subscribed", "unsubscribed", "disconnected"],
            false => &["connected", "disconnected"],
        };
        // A consumer may be given again what it has acknowledged just before a restart, but in the stream it is once.
        assert!(
            kinds.len() >= expected.len() && expected.iter().all(|kind| kinds.contains(kind)),
            "{session}: {told:?}"
        );
    }
    let expected: usize = visits.iter().map(|(_, subscribed)| if *subscribed { 4 } else { 2 }).sum();
    assert_eq!(service.counts().len(), expected);
    assert_eq!(stream_messages(&server).await, expected as u64);
    for node in [first, second] {
        assert_eq!(node.stop(SOON).await.code(), Some(0), "{}", node.process().log());
    }
}

/// A node that is killed tells nothing any more; another tells of its members, by the ids that it would have used.
#[tokio::test]
async fn of_a_killed_node_another_tells() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let mut service = Service::of_redis(&redis).await;
    let [first, second] = ["n1", "n2"].map(|name| telling_of_members(name, &url, &url).start());
    let (first, second) = tokio::join!(first, second);
    let mut alice = connect(&second, "alice").await;
    let session = alice.session().to_owned();
    for channel in ["project:1", "project:2"] {
        alice.subscribe(channel).await;
        service
            .hear_where("occupied", |event| event.kind == "occupied" && event.channel.as_deref() == Some(channel))
            .await;
    }
    let mut bob = connect(&first, "bob").await;
    bob.subscribe("project:1").await;
    service.hear_where("bob", |event| event.kind == "subscribed" && event.user.as_deref() == Some("bob")).await;
    second.kill();
    let vacated = service.hear_where("vacated", |event| event.kind == "vacated").await;
    assert_eq!((vacated.node.as_str(), vacated.channel.as_deref()), ("n1", Some("project:2")));
    service.hear(&[format!("{session}:disconnected")]).await;
    let begun: Vec<_> = service.heard.iter().filter(|event| event.kind == "subscribed").cloned().collect();
    let own = begun.iter().filter(|event| event.session.as_deref() == Some(&session));
    let ends: Vec<_> = own.map(|event| event.id.replace(":subscribed", ":unsubscribed")).collect();
    assert_eq!(ends.len(), 2);
    service.hear(&ends).await;
    let lost: Vec<_> = service.heard.iter().filter(|event| event.reason.is_some()).collect();
    assert_eq!(lost.len(), 3, "{lost:#?}");
    for event in lost {
        let who = (event.session.as_deref(), event.user.as_deref());
        assert_eq!(who, (Some(&*session), Some("alice")), "{event:?}");
        assert_eq!((event.reason.as_deref(), event.node.as_str()), (Some("node_lost"), "n2"), "{event:?}");
    }
    // Two hear of one channel being occupied, one of it being empty: the other still has bob.
    assert_eq!(service.heard.iter().filter(|event| event.kind == "vacated").count(), 1);
}

/// A node that drains leaves its rows to be removed by another, which tells of them once more: by the same ids.
#[tokio::test]
async fn what_a_draining_node_told_is_not_kept_twice() {
    let nats = NatsServer::builder().jetstream().start().await;
    let redis = RedisServer::start().await;
    let [first, second] = ["n1", "n2"].map(|name| telling_of_members(name, &nats.url(), &redis.url()).start());
    let (first, second) = tokio::join!(first, second);
    let mut service = Service::of_stream(&nats).await;
    let mut alice = connect(&second, "alice").await;
    alice.subscribe("project:1").await;
    service.hear_where("occupied", |event| event.kind == "occupied").await;
    let (status, _) = tokio::join!(second.stop(SOON), alice.closed(4000));
    assert_eq!(status.code(), Some(0), "{}", second.process().log());
    service.hear_where("vacated", |event| event.kind == "vacated" && event.node == "n1").await;
    // Three: the end of the subscription and of the connection, and that the channel is empty.
    let told = |metrics: &Metrics| metrics.labelled("fanfare_lifecycle_events_total", "result", "told") == 3.0;
    first.wait_for_metrics("the other node's events to be told once more", told).await;
    let own = service.of_session(alice.session());
    let expected = ["connected", "subscribed project:1", "unsubscribed project:1 draining", "disconnected draining"];
    assert_eq!(own, expected);
    assert_eq!(stream_messages(&nats).await, 6);
}
