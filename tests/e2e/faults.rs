//! Nodes that are killed, and brokers that go away.

use std::time::{Duration, Instant};

use fanfare_testkit::wait_for;
use futures_util::future::{join, join_all};
use serde_json::json;
use tokio::time::{interval, sleep_until};

use crate::{
    SOON,
    broker::Broker,
    client::{Client, Received},
    handshake::TokenPlace,
    node::Node,
};

const CHANNEL: &str = "project:clx123";

/// Without its broker for so long a node is not ready.
const NOT_READY_AFTER: Duration = Duration::from_secs(2);
/// How late that may show.
const LATE: Duration = Duration::from_secs(1);
/// How long the broker is away.
const AWAY: Duration = Duration::from_secs(5);
/// After its return everything works again in this time.
const BACK_WITHIN: Duration = Duration::from_secs(2);

#[tokio::test]
async fn nats_and_a_killed_node() {
    clients_of_others_miss_nothing(Broker::nats().await).await;
}

#[tokio::test]
async fn redis_and_a_killed_node() {
    clients_of_others_miss_nothing(Broker::redis().await).await;
}

#[tokio::test]
async fn nats_away_for_five_seconds() {
    nodes_outlast_their_broker(Broker::nats().await).await;
}

#[tokio::test]
async fn redis_away_for_five_seconds() {
    nodes_outlast_their_broker(Broker::redis().await).await;
}

async fn clients_of_others_miss_nothing(broker: Broker) {
    const CLIENTS_PER_NODE: usize = 20;
    const EVENTS: usize = 400;
    const KILLED_AT: usize = 150;
    let [first, doomed, last] = Node::start_many::<3>(&broker.url()).await;
    let mut staying = subscribers(&[&first, &last], CLIENTS_PER_NODE).await;
    let mut leaving = subscribers(&[&doomed], CLIENTS_PER_NODE).await;

    let publishing = async {
        let mut ticks = interval(Duration::from_millis(5));
        for n in 0..EVENTS {
            ticks.tick().await;
            if n == KILLED_AT {
                doomed.kill();
            }
            broker.publish("acme", CHANNEL, &format!(r#"{{"event":"tick","data":{n}}}"#)).await;
        }
    };
    let receiving = join(
        join_all(staying.iter_mut().map(|client| receive(client, EVENTS))),
        join_all(leaving.iter_mut().map(receive_to_the_end)),
    );
    let (_, (_, seen_by_leaving)) = join(publishing, receiving).await;

    // Those of the killed node have seen a beginning of the same, and were not told a goodbye.
    for (end, seen) in &seen_by_leaving {
        assert!(matches!(end, Received::Broken), "{end:?}");
        assert!(*seen <= KILLED_AT, "{seen}");
    }
    // Those of the others go on.
    broker.publish("acme", CHANNEL, r#"{"event":"after"}"#).await;
    for client in &mut staying {
        assert_eq!(client.publication().await.event, "after");
    }
    let seen = seen_by_leaving.iter().map(|(_, seen)| seen).min().expect("there are clients");
    println!(
        "{broker}: a node killed at event {KILLED_AT} of {EVENTS}; {} clients of two others got all in order, the {} of \
         the killed one at least {seen}",
        staying.len(),
        leaving.len(),
    );
}

async fn nodes_outlast_their_broker(mut broker: Broker) {
    const CLIENTS_PER_NODE: usize = 5;
    let nodes = Node::start_many::<2>(&broker.url()).await;
    let mut clients = subscribers(&[&nodes[0], &nodes[1]], CLIENTS_PER_NODE).await;
    let mut by_pattern = nodes[0].client().connect("acme", "pattern", TokenPlace::Header).await;
    by_pattern.subscribe("project:*").await;
    clients.push(by_pattern);
    publish_and_receive(&broker, &mut clients, "before").await;

    let stopping = Instant::now();
    broker.stop().await;
    let stopped = Instant::now();
    for node in &nodes {
        wait_for("the status 503", SOON, async || (node.ready().await == 503).then_some(())).await;
    }
    let not_ready = Instant::now();
    assert!(not_ready - stopping >= NOT_READY_AFTER, "not ready {:?} after the stop", not_ready - stopping);
    assert!(not_ready - stopped <= NOT_READY_AFTER + LATE, "not ready {:?} after the stop", not_ready - stopped);
    for node in &nodes {
        let metrics = node.metrics().await;
        assert!(metrics.sum("fanfare_broker_interruptions_total") >= 1.0, "{metrics:?}");
        assert_eq!(metrics.sum("fanfare_broker_connected"), 0.0);
        // It cannot publish, and says so: nothing is kept for later.
        let (status, body) = node.post("/api/publish", r#"{"channel":"a","event":"lost"}"#).await;
        assert_eq!(status, 503, "{body}");
        assert!(body.contains(r#""UNAVAILABLE""#), "{body}");
    }

    sleep_until((stopped + AWAY).into()).await;
    assert!(nodes.iter().all(|node| node.process().is_running()), "the nodes stay up");
    broker.restart().await;
    let back = Instant::now();
    let told = join_all(clients.iter_mut().map(expect_gap));
    let ready = join_all(
        nodes
            .iter()
            .map(|node| wait_for("the status 200", SOON, async || (node.ready().await == 200).then(Instant::now))),
    );
    let (told, ready) = join(told, ready).await;
    let told = *told.iter().max().expect("there are clients") - back;
    let ready = *ready.iter().max().expect("there are nodes") - back;
    publish_and_receive(&broker, &mut clients, "after").await;
    let delivered = back.elapsed();
    println!(
        "{broker} away for {:?}: nodes not ready after {:?}; after its return ready in {ready:?}, all {} clients told of \
         the gap in {told:?}, and an event delivered in {delivered:?}",
        back - stopped,
        not_ready - stopped,
        clients.len(),
    );
    assert!(told.max(ready) <= BACK_WITHIN, "told in {told:?}, ready in {ready:?}; allowed are {BACK_WITHIN:?}");
    for node in &nodes {
        assert_eq!(node.metrics().await.sum("fanfare_broker_connected"), 1.0);
    }
}

/// Subscribers of the channel, so many for each node.
async fn subscribers(nodes: &[&Node], per_node: usize) -> Vec<Client> {
    let connecting = (0..per_node * nodes.len()).map(async |index| {
        let handshake = nodes[index % nodes.len()].client();
        let mut client = handshake.connect("acme", &format!("user{index}"), TokenPlace::Subprotocol).await;
        client.subscribe(CHANNEL).await;
        client
    });
    join_all(connecting).await
}

/// Publishes an event, which must be the next thing for everyone.
async fn publish_and_receive(broker: &Broker, clients: &mut [Client], event: &str) {
    broker.publish("acme", CHANNEL, &json!({ "event": event }).to_string()).await;
    for client in clients {
        assert_eq!(client.publication().await.event, event);
    }
}

async fn receive(client: &mut Client, events: usize) {
    for n in 0..events {
        assert_eq!(client.publication().await.data(), n.to_string());
    }
}

/// How the connection ended, and how many events came before, without a hole.
async fn receive_to_the_end(client: &mut Client) -> (Received, usize) {
    let mut seen = 0;
    loop {
        let received = client.next().await;
        if received.is_end() {
            return (received, seen);
        }
        let publication = received.publication().unwrap_or_else(|| panic!("{received:?}"));
        assert_eq!(publication.data(), seen.to_string());
        seen += 1;
    }
}

/// The next thing must be a gap; when it came.
async fn expect_gap(client: &mut Client) -> Instant {
    let gap = client.expect("system:gap").await;
    let channel = &gap["data"]["channel"];
    assert!(*channel == CHANNEL || *channel == "project:*", "{gap}");
    assert!(gap["data"]["reason"].is_string(), "{gap}");
    Instant::now()
}
