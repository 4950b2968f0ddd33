//! The main job: a service publishes with a plain client, and the clients of every node receive it.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use fanfare_testkit::wait_for;
use futures_util::{StreamExt as _, future::join_all, stream};

use crate::{SOON, broker::Broker, client::Client, handshake::TokenPlace, node::Node, publication::Publication};

const CLIENTS: usize = 300;
const EVENTS: usize = 120;
/// Handshakes at one time.
const CONNECTING: usize = 32;

/// Spellings that would not survive being read and written again.
const DATA: [&str; 8] = [
    r#"{ "a" : 1.50 }"#,
    r#"{"n":12345678901234567890.10,"m":-0.0,"e":1E+2,"big":1e400}"#,
    r#"[1,2 ,  3e-07]"#,
    "{\n\t\"lines\" :\r\n [ ]\n}",
    r#""\u00fc \u0041 ü 😀 \/ /""#,
    r#"{"z":1,"a":2,"z":3}"#,
    "null",
    r#"{"$bin":"AAEC/w==","deep":[[[[{"x":{}}]]]]}"#,
];

/// What a client is there for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Part {
    /// Is to get everything.
    Subscribed,
    /// Is of the same tenant, and subscribed to something else.
    Elsewhere,
    /// Is subscribed to a channel of the same name in another tenant.
    OtherTenant,
}

impl Part {
    const ALL: [Self; 3] = [Self::Subscribed, Self::Elsewhere, Self::OtherTenant];

    /// Half of a node's clients are subscribed, a sixth is elsewhere, a third is another tenant's.
    fn of(index: usize, nodes: usize) -> Self {
        match index / nodes % 6 {
            0..3 => Self::Subscribed,
            3 => Self::Elsewhere,
            _ => Self::OtherTenant,
        }
    }

    fn tenant_and_channel(self) -> (&'static str, &'static str) {
        match self {
            Self::Subscribed => ("acme", "project:clx123"),
            Self::Elsewhere => ("acme", "project:clx1234"),
            Self::OtherTenant => ("other", "project:clx123"),
        }
    }
}

#[tokio::test]
async fn nats_to_three_nodes() {
    let broker = Broker::nats().await;
    let nodes = Node::start_many::<3>(&broker.url()).await;
    everyone_gets_what_is_theirs("NATS", &nodes, async |tenant, channel, body| {
        broker.publish(tenant, channel, body).await;
    })
    .await;
}

#[tokio::test]
async fn redis_to_three_nodes() {
    let broker = Broker::redis().await;
    let nodes = Node::start_many::<3>(&broker.url()).await;
    everyone_gets_what_is_theirs("Redis", &nodes, async |tenant, channel, body| {
        broker.publish(tenant, channel, body).await;
    })
    .await;
}

#[tokio::test]
async fn the_embedded_broker_by_http() {
    let nodes = [Node::start("memory:").await];
    everyone_gets_what_is_theirs("POST /api/publish", &nodes, async |tenant, channel, body| {
        nodes[0].publish(tenant, channel, body).await;
    })
    .await;
}

async fn everyone_gets_what_is_theirs(way: &str, nodes: &[Node], publish: impl AsyncFn(&str, &str, &str)) {
    let begun = Instant::now();
    let mut clients = connect_all(nodes).await;
    let connected = begun.elapsed();

    let began_publishing = (Instant::now(), now_millis());
    for n in 0..EVENTS {
        publish("acme", "project:clx123", &envelope(n)).await;
    }
    mark_the_end(&publish, "end").await;
    let received = join_all(clients.iter_mut().map(|(part, client)| until_end(*part, client))).await;
    let delivered = began_publishing.0.elapsed();

    let times = began_publishing.1..=now_millis();
    for ((part, _), publications) in clients.iter().zip(&received) {
        match part {
            Part::Subscribed => assert_every_event(publications, &times),
            Part::Elsewhere | Part::OtherTenant => assert!(publications.is_empty(), "{part:?} got {publications:?}"),
        }
    }
    // Nothing comes late, and nothing twice.
    mark_the_end(&publish, "over").await;
    for (_, client) in &mut clients {
        assert_eq!(client.publication().await.event, "over");
    }

    let subscribed = clients.iter().filter(|(part, _)| *part == Part::Subscribed).count();
    let deliveries = subscribed * EVENTS + 2 * CLIENTS;
    let counted = async || {
        let metrics = join_all(nodes.iter().map(Node::metrics)).await;
        let counted: f64 = metrics.iter().map(|metrics| metrics.sum("fanfare_deliveries_total")).sum();
        (counted as usize == deliveries).then_some(())
    };
    wait_for(&format!("{deliveries} deliveries to be counted"), SOON, counted).await;
    println!(
        "{way}: {} nodes, {CLIENTS} clients connected in {connected:?}; {EVENTS} events to each of {subscribed} \
         subscribers in {delivered:?}; {} others got none of them",
        nodes.len(),
        CLIENTS - subscribed,
    );
}

/// Clients spread over nodes, parts and ways to hand over a token.
async fn connect_all(nodes: &[Node]) -> Vec<(Part, Client)> {
    let connecting = (0..CLIENTS).map(|index| async move {
        let part = Part::of(index, nodes.len());
        let (tenant, channel) = part.tenant_and_channel();
        let place = TokenPlace::ALL[index / 2 % TokenPlace::ALL.len()];
        let handshake = nodes[index % nodes.len()].client();
        let mut client = handshake.connect(tenant, &format!("user{index}"), place).await;
        client.subscribe(channel).await;
        (part, client)
    });
    stream::iter(connecting).buffered(CONNECTING).collect().await
}

/// Every second event has no timestamp of its own.
fn envelope(n: usize) -> String {
    let data = DATA[n % DATA.len()];
    match own_timestamp(n) {
        Some(timestamp) => format!(r#"{{ "data": {data} , "timestamp":{timestamp}, "event":"project:funded:{n}"}}"#),
        None => format!(r#"{{"event":"project:funded:{n}","data":{data}}}"#),
    }
}

fn own_timestamp(n: usize) -> Option<u64> {
    n.is_multiple_of(2).then_some(1_696_867_200_000 + n as u64)
}

/// Publishes an event for each part, behind all else.
async fn mark_the_end(publish: &impl AsyncFn(&str, &str, &str), event: &str) {
    for part in Part::ALL {
        let (tenant, channel) = part.tenant_and_channel();
        publish(tenant, channel, &format!(r#"{{"event":"{event}"}}"#)).await;
    }
}

/// What came before the event `end`.
async fn until_end(part: Part, client: &mut Client) -> Vec<Publication> {
    let mut publications = Vec::new();
    loop {
        let publication = client.publication().await;
        assert_eq!(publication.channel, part.tenant_and_channel().1);
        if publication.event == "end" {
            return publications;
        }
        publications.push(publication);
    }
}

/// Each event once, in order, as it was published.
fn assert_every_event(publications: &[Publication], times: &std::ops::RangeInclusive<u64>) {
    for (n, publication) in publications.iter().enumerate() {
        assert_eq!(publication.event, format!("project:funded:{n}"));
        assert_eq!(publication.data(), DATA[n % DATA.len()]);
        match own_timestamp(n) {
            Some(own) => assert_eq!(publication.timestamp, own),
            None => assert!(times.contains(&publication.timestamp), "{} is not in {times:?}", publication.timestamp),
        }
    }
    assert_eq!(publications.len(), EVENTS);
}

fn now_millis() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is after 1970").as_millis() as u64
}
