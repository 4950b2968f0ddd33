//! A client that does not read: it is closed, and nobody else is kept waiting.

use std::{
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

use fanfare_testkit::wait_until;
use futures_util::{StreamExt as _, future::join_all, stream};
use serde_json::json;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Interval, MissedTickBehavior, interval},
};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use crate::{
    MACHINE, SOON,
    broker::Broker,
    client::{Client, Received},
    handshake::TokenPlace,
    node::Node,
    token::token,
};

const CHANNEL: &str = "project:clx123";
/// Handshakes at one time.
const CONNECTING: usize = 32;
/// What the kernel takes for a client that does not read; it doubles it.
const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;
/// When a node's memory must be back.
const MEMORY_BACK: Duration = Duration::from_secs(30);

/// A rate that a node and a thousand clients in debug builds keep up with on two cores.
const EVENT_INTERVAL: Duration = Duration::from_millis(125);
const DATA_BYTES: usize = 4 * 1024;
/// A phase with a slow client lasts until it is closed: about 12 events fill its outbox of 32 KiB and what the kernel
/// holds. The phase without one that goes before it is as long as the last.
const FIRST_PHASE_EVENTS: usize = 12;
/// By then an outbox of 32 KiB is full, whatever the kernel holds.
const MOST_EVENTS: usize = 100;
/// Phases without and with a slow client take turns, so that a busy machine is busy for both. What counts is the median
/// of the rounds: a burst of somebody else's work hits one phase of one round.
const ROUNDS: usize = 11;
const READERS: usize = 1_000;

/// One latency, of one event at one reader.
struct Sample {
    event: usize,
    latency: Duration,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_others_go_on() {
    let _alone = MACHINE.lock().await;
    let broker = Broker::nats().await;
    let node = Node::builder(&broker.url())
        .set("limits.publication_bytes", "8KiB")
        .set("limits.outbox_bytes", "32KiB")
        .set("limits.notsent_lowat_bytes", "8KiB")
        .start()
        .await;
    let epoch = Instant::now();
    let mut readers = JoinSet::new();
    let mut connecting = stream::iter((0..READERS).map(|index| reader(&node, index))).buffer_unordered(CONNECTING);
    while let Some(socket) = connecting.next().await {
        readers.spawn(read(socket, epoch));
    }

    let mut publisher = Publisher::new(&broker, &node, epoch);
    // Whatever is done once is done before anything is measured.
    publisher.publish_until(|_, events| events == FIRST_PHASE_EVENTS).await;
    let before = node.process().resident_bytes();
    let mut peak = before;
    let (mut without, mut with) = (Vec::<Range<usize>>::new(), Vec::<Range<usize>>::new());
    for round in 1..=ROUNDS {
        let length = with.last().map_or(FIRST_PHASE_EVENTS, Range::len);
        without.push(publisher.publish_until(|_, events| events == length).await);
        let mut slow = slow_client(&node, CHANNEL).await;
        with.push(publisher.publish_until(|closed, _| closed == round).await);
        peak = peak.max(node.process().resident_bytes());
        let reached = slow.closed(4001).await.len();
        assert!(reached < with[round - 1].len(), "all of {reached} events reached a client that was closed");
    }
    let published = publisher.published;
    publisher.end().await;
    let samples: Vec<Sample> = readers.join_all().await.into_iter().flatten().collect();
    assert_eq!(samples.len(), READERS * published, "every reader got every event");

    let events = with.iter().map(Range::len).sum::<usize>() / ROUNDS;
    let (without, with) = (Latencies::of(&samples, &without), Latencies::of(&samples, &with));
    println!(
        "{READERS} readers, {DATA_BYTES} bytes every {EVENT_INTERVAL:?}, {ROUNDS} rounds; a slow client was closed after \
         {events} events:\n  without a slow client {without}\n  with a slow client    {with}"
    );
    let metrics = node.metrics().await;
    assert_eq!(metrics.labelled("fanfare_disconnections_total", "code", "slow_consumer"), ROUNDS as f64, "{metrics:?}");
    assert_memory_is_back(&node, before, peak).await;
    assert!(with.median_p99() <= 2 * without.median_p99(), "without a slow client {without}, with one {with}");
}

#[tokio::test]
async fn many_slow_clients_give_their_memory_back() {
    const CLIENTS: usize = 40;
    const CHUNK_BYTES: usize = 60 * 1024;
    let _alone = MACHINE.lock().await;
    let node = Node::start("memory:").await;
    let channels: Vec<_> = (0..CLIENTS).map(|index| format!("project:slow{index}")).collect();
    let body = json!({
        "tenant": "acme", "channels": channels, "event": "chunk", "data": "x".repeat(CHUNK_BYTES),
    })
    .to_string();
    let broadcast = async || {
        let (status, answer) = node.post("/api/broadcast", body.clone()).await;
        assert_eq!(status, 200, "{answer}");
    };

    // Whatever is done once is done before anything is measured: each of them reads one event.
    let mut clients = join_all(channels.iter().map(|channel| slow_client(&node, channel))).await;
    broadcast().await;
    for client in &mut clients {
        assert_eq!(client.publication().await.event, "chunk");
    }
    let before = node.process().resident_bytes();
    let mut peak = before;
    let mut closed = 0.0;
    let deadline = Instant::now() + SOON;
    while closed < CLIENTS as f64 {
        assert!(Instant::now() < deadline, "only {closed} of {CLIENTS} slow clients were closed");
        broadcast().await;
        closed = node.metrics().await.sum("fanfare_slow_consumers_total");
        peak = peak.max(node.process().resident_bytes());
    }
    assert!(peak > before + (CLIENTS as u64 * 1024 * 1024) / 2, "the outboxes are not full at {peak} bytes");
    assert_memory_is_back(&node, before, peak).await;
    // Those who read on after all learn why.
    for client in &mut clients {
        let (end, _) = client.end().await;
        assert!(matches!(end, Received::Close(Some(4001)) | Received::Broken), "{end:?}");
    }
}

/// A client that is subscribed, and reads no more.
async fn slow_client(node: &Node, channel: &str) -> Client {
    let handshake = node.client().receive_buffer(RECEIVE_BUFFER_BYTES);
    let mut client = handshake.connect("acme", "slow", TokenPlace::Header).await;
    client.subscribe(channel).await;
    client
}

async fn assert_memory_is_back(node: &Node, before: u64, peak: u64) {
    let begun = Instant::now();
    let mut now = node.process().resident_bytes();
    let what = format!("memory within 10 % of {before} bytes; it was {peak}");
    wait_until(&what, MEMORY_BACK, || {
        now = node.process().resident_bytes();
        now <= before + before / 10
    })
    .await;
    let mib = |bytes: u64| bytes as f64 / (1024.0 * 1024.0);
    println!(
        "memory of the node: {:.1} MiB before, {:.1} MiB at most, {:.1} MiB {:?} after",
        mib(before),
        mib(peak),
        mib(now),
        begun.elapsed(),
    );
}

/// Subscribes without a command.
async fn reader(node: &Node, index: usize) -> WebSocketStream<TcpStream> {
    let token = token("acme", &format!("reader{index}"));
    let handshake = node.client().query(&format!("channels={CHANNEL}")).query(&format!("token={token}"));
    let (mut socket, _) = handshake.open_socket().await.unwrap_or_else(|error| panic!("reader {index}: {error}"));
    for event in ["system:connected", "system:subscribed"] {
        let message = tokio::time::timeout(SOON, socket.next()).await.expect("an answer in time");
        let text = message.expect("a message").expect("a message").into_text().expect("a text");
        assert!(text.as_str().contains(event), "{text}");
    }
    socket
}

/// Reads every event in order until the last, as cheaply as can be: a thousand of these share the machine with the node.
async fn read(mut socket: WebSocketStream<TcpStream>, epoch: Instant) -> Vec<Sample> {
    let mut samples = Vec::new();
    loop {
        let message = tokio::time::timeout(SOON, socket.next()).await.expect("events keep coming");
        let text = match message {
            Some(Ok(Message::Text(text))) => text,
            Some(Ok(Message::Ping(_))) => continue,
            other => panic!("{other:?} after {} events", samples.len()),
        };
        let arrived = epoch.elapsed();
        if text.as_str().contains(r#""event":"end""#) {
            return samples;
        }
        let (event, sent) = (number_in(&text, r#""n":"#) as usize, number_in(&text, r#""sent":"#));
        assert_eq!(event, samples.len(), "in order and without a hole");
        samples.push(Sample { event, latency: arrived - Duration::from_nanos(sent) });
    }
}

fn number_in(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).unwrap_or_else(|| panic!("no {name} in {text}"));
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    digits.parse().unwrap_or_else(|error| panic!("{name} {digits:?}: {error}"))
}

struct Publisher<'a> {
    broker: &'a Broker,
    node: &'a Node,
    epoch: Instant,
    ticks: Interval,
    published: usize,
}

impl<'a> Publisher<'a> {
    fn new(broker: &'a Broker, node: &'a Node, epoch: Instant) -> Self {
        let mut ticks = interval(EVENT_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { broker, node, epoch, ticks, published: 0 }
    }

    /// Publishes at an even pace, until it is enough for so many slow clients that were closed, and so many events. Each
    /// event has its number and says when it was sent. Gives their numbers.
    async fn publish_until(&mut self, enough: impl Fn(usize, usize) -> bool) -> Range<usize> {
        let first = self.published;
        let padding = "x".repeat(DATA_BYTES);
        loop {
            self.ticks.tick().await;
            // Every phase looks, so that none has more to do than another.
            let closed = self.node.metrics().await.sum("fanfare_slow_consumers_total") as usize;
            let events = self.published - first;
            if enough(closed, events) {
                return first..self.published;
            }
            assert!(events < MOST_EVENTS, "{closed} slow clients were closed in {events} events");
            let (n, sent) = (self.published, self.epoch.elapsed().as_nanos());
            let body = format!(r#"{{"event":"tick","data":{{"n":{n},"sent":{sent},"padding":"{padding}"}}}}"#);
            self.broker.publish("acme", CHANNEL, &body).await;
            self.published += 1;
        }
    }

    async fn end(&self) {
        self.broker.publish("acme", CHANNEL, r#"{"event":"end"}"#).await;
    }
}

/// Of the rounds, each with all its samples.
struct Latencies {
    p50: Duration,
    p99: Duration,
    /// Of each round, in order of size.
    p99_by_round: Vec<Duration>,
}

impl Latencies {
    /// Of the samples of these events, which are rounds.
    fn of(samples: &[Sample], rounds: &[Range<usize>]) -> Self {
        let mut by_round: Vec<Vec<Duration>> = rounds
            .iter()
            .map(|round| samples.iter().filter(|sample| round.contains(&sample.event)).map(|sample| sample.latency))
            .map(Iterator::collect)
            .collect();
        let mut p99_by_round: Vec<_> = by_round.iter_mut().map(|round| percentile(round, 99)).collect();
        p99_by_round.sort_unstable();
        let mut all = by_round.concat();
        Self { p50: percentile(&mut all, 50), p99: percentile(&mut all, 99), p99_by_round }
    }

    fn median_p99(&self) -> Duration {
        self.p99_by_round[self.p99_by_round.len() / 2]
    }
}

impl fmt::Display for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, p99_by_round } = self;
        let (median, least, most) = (self.median_p99(), p99_by_round[0], p99_by_round[p99_by_round.len() - 1]);
        write!(
            f,
            "p50 {p50:.1?}, p99 {p99:.1?}; p99 of the median round {median:.1?}, of all {least:.1?} to {most:.1?}"
        )
    }
}

fn percentile(latencies: &mut [Duration], percent: usize) -> Duration {
    latencies.sort_unstable();
    latencies[latencies.len() * percent / 100]
}
