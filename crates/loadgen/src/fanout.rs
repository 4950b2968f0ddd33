//! One channel, many sockets.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use clap::Args;
use tokio::task::JoinSet;

use crate::{
    LoadError,
    literal::Literal,
    process,
    publisher::{Publisher, STAMP},
    socket::Socket,
};

/// Sockets from one local address: far below the number of its ports, since those of earlier runs may still be taken.
const SOCKETS_PER_ADDRESS: usize = 1_000;
/// Handshakes at one time.
const CONNECTING: usize = 64;
/// How long all deliveries of a round may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// Of so many sockets one measures latency.
const SAMPLE: usize = 50;

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The server's address.
    #[arg(long)]
    server: SocketAddr,
    /// Path and query of the handshake; it subscribes, so that a socket needs no command. `{n}` is the socket's number.
    #[arg(long, default_value = "/ws?channels=bench:1")]
    path: String,
    /// The server's process, for its CPU time.
    #[arg(long)]
    pid: u32,
    /// The broker's process, where a server has one, for its CPU time.
    #[arg(long)]
    broker_pid: Option<u32>,
    /// Sockets.
    #[arg(long, default_value_t = 1_000)]
    sockets: usize,
    /// Rounds: each is published at once, and waited for before the next. With none, only idle memory is measured.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Messages in one round.
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// Bytes of the event's data.
    #[arg(long, default_value_t = 128)]
    bytes: usize,
    /// Where to publish: `floor` for the floor's own port, or a URL of `nats:`, `http:`, `mqtt:` or `socketio+redis:`.
    #[arg(long, default_value = "floor")]
    publish: String,
    /// The NATS subject, the MQTT topic or the Socket.IO room.
    #[arg(long, default_value = "rt.pub.default.bench.1")]
    subject: String,
    /// Seconds to wait before memory is read: allocators give back what the handshakes needed only after a while.
    #[arg(long, default_value_t = 0)]
    settle: u64,
    /// The WebSocket subprotocol that is offered.
    #[arg(long)]
    protocol: Option<String>,
    /// What a socket sends after its handshake, for servers that do not subscribe by path: text with `\\r` and `\\n`, or
    /// `hex:…` for a binary message.
    #[arg(long)]
    hello: Option<Literal>,
    /// What stands in every event and in nothing else: a frame may hold several events.
    #[arg(long, default_value = "\"t\":")]
    marker: Literal,
    /// What stands in the answer to a subscription, which each socket waits for; empty: the handshake is enough.
    #[arg(long, default_value = "system:subscribed")]
    subscribed: Literal,
    /// A message that is a ping by the server's own protocol.
    #[arg(long, requires = "pong")]
    ping: Option<Literal>,
    /// What is answered to that ping.
    #[arg(long)]
    pong: Option<Literal>,
}

/// What the sockets have got.
#[derive(Default)]
struct Received {
    messages: AtomicU64,
    latencies: Mutex<Vec<Duration>>,
}

/// What one run has cost.
#[derive(Default)]
struct Outcome {
    idle_bytes: u64,
    cpu: Duration,
    broker_cpu: Duration,
    wall: Duration,
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(LoadError::io("runtime"))?;
    runtime.block_on(measure(options))
}

async fn measure(options: &Options) -> Result<(), LoadError> {
    let before_sockets = process::anonymous_bytes(options.pid)?;
    let received = Arc::new(Received::default());
    let epoch = Instant::now();
    let mut readers = JoinSet::new();
    let mut connecting = JoinSet::new();
    for number in 0..options.sockets {
        if connecting.len() == CONNECTING {
            start_reader(options, &mut readers, connecting.join_next().await, &received, epoch)?;
        }
        let local = SocketAddr::from((local_address(number), 0));
        let (server, path) = (options.server, options.path.replace("{n}", &number.to_string()));
        let (protocol, hello) = (options.protocol.clone(), options.hello.clone());
        let subscribed = options.subscribed.bytes.clone();
        connecting.spawn(async move {
            let mut socket = Socket::connect(server, local, &path, protocol.as_deref()).await?;
            if let Some(hello) = hello {
                socket.send(&hello).await?;
            }
            while !subscribed.is_empty() && count(socket.next().await?, &subscribed) == 0 {}
            Ok((number, socket))
        });
    }
    while let Some(joined) = connecting.join_next().await {
        start_reader(options, &mut readers, Some(joined), &received, epoch)?;
    }
    tokio::time::sleep(Duration::from_secs(options.settle)).await;
    let idle_bytes = process::anonymous_bytes(options.pid)?.saturating_sub(before_sockets);

    let mut outcome = Outcome { idle_bytes, ..Outcome::default() };
    if options.rounds > 0 {
        fan_out(options, &received, &mut readers, epoch, &mut outcome).await?;
    }
    report(options, &received, &outcome);
    Ok(())
}

async fn fan_out(
    options: &Options,
    received: &Received,
    readers: &mut JoinSet<LoadError>,
    epoch: Instant,
    outcome: &mut Outcome,
) -> Result<(), LoadError> {
    let mut publisher =
        Publisher::connect(&options.publish, options.server, &options.subject, options.bytes, epoch).await?;
    // The first round warms caches and buffers, and is not counted.
    publisher.publish(options.burst).await?;
    let per_round = (options.burst * options.sockets) as u64;
    let mut expected = per_round;
    wait_for(received, expected, readers).await?;
    received.latencies.lock().expect("no reader panics while it holds it").clear();

    let broker_cpu = || options.broker_pid.map_or(Ok(Duration::ZERO), process::cpu);
    let (cpu, broker, begun) = (process::cpu(options.pid)?, broker_cpu()?, Instant::now());
    for _ in 0..options.rounds {
        publisher.publish(options.burst).await?;
        expected += per_round;
        wait_for(received, expected, readers).await?;
    }
    outcome.cpu = process::cpu(options.pid)?.saturating_sub(cpu);
    outcome.broker_cpu = broker_cpu()?.saturating_sub(broker);
    outcome.wall = begun.elapsed();
    Ok(())
}

/// An address of this machine that other runs do not use at the same time.
fn local_address(number: usize) -> Ipv4Addr {
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 2 + (number / SOCKETS_PER_ADDRESS) as u8, high, low.clamp(1, 254))
}

type Connected = Result<Result<(usize, Socket), LoadError>, tokio::task::JoinError>;

fn start_reader(
    options: &Options,
    readers: &mut JoinSet<LoadError>,
    joined: Option<Connected>,
    received: &Arc<Received>,
    epoch: Instant,
) -> Result<(), LoadError> {
    let Some(Ok(connected)) = joined else { return Err(LoadError::Failed("a connecting task panicked".into())) };
    let (number, mut socket) = connected?;
    let (received, marker) = (received.clone(), options.marker.bytes.clone());
    let heartbeat = options.ping.clone().zip(options.pong.clone());
    readers.spawn(async move {
        loop {
            match socket.next().await {
                Ok(message) => {
                    if let Some((ping, pong)) = &heartbeat
                        && message == ping.bytes
                    {
                        if let Err(error) = socket.send(pong).await {
                            return error;
                        }
                        continue;
                    }
                    if number % SAMPLE == 0
                        && let Some(sent) = sent_at(message)
                    {
                        let latency = epoch.elapsed().saturating_sub(sent);
                        received.latencies.lock().expect("no reader panics while it holds it").push(latency);
                    }
                    received.messages.fetch_add(count(message, &marker), Ordering::Relaxed);
                }
                Err(error) => return error,
            }
        }
    });
    Ok(())
}

/// How often `marker` stands in a message. An empty one counts the frame.
fn count(message: &[u8], marker: &[u8]) -> u64 {
    if marker.is_empty() {
        return 1;
    }
    memchr::memmem::find_iter(message, marker).count() as u64
}

/// When the message was published: `"t":"…"` in its data, nanoseconds since the run began.
fn sent_at(message: &[u8]) -> Option<Duration> {
    let begin = memchr::memmem::find(message, STAMP)? + STAMP.len();
    let digits = message[begin..].split(|byte| !byte.is_ascii_digit()).next()?;
    std::str::from_utf8(digits).ok()?.parse().ok().map(Duration::from_nanos)
}

async fn wait_for(received: &Received, expected: u64, readers: &mut JoinSet<LoadError>) -> Result<(), LoadError> {
    let begun = Instant::now();
    while received.messages.load(Ordering::Relaxed) < expected {
        if let Some(Ok(error)) = readers.try_join_next() {
            return Err(error);
        }
        if begun.elapsed() > DEADLINE {
            let got = received.messages.load(Ordering::Relaxed);
            return Err(LoadError::Failed(format!("{got} of {expected} messages came within {DEADLINE:?}")));
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn report(options: &Options, received: &Received, outcome: &Outcome) {
    let deliveries = (options.rounds * options.burst * options.sockets) as f64;
    // Where nothing was delivered there is no cost of a delivery, which JSON shows as null.
    let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries;
    let mut latencies = received.latencies.lock().expect("no reader panics while it holds it").clone();
    latencies.sort_unstable();
    let at = |share: f64| {
        let index = ((latencies.len() as f64 * share) as usize).min(latencies.len().saturating_sub(1));
        latencies.get(index).map(|latency| latency.as_secs_f64() * 1e3)
    };
    let figures = serde_json::json!({
        "sockets": options.sockets,
        "rounds": options.rounds,
        "burst": options.burst,
        "bytes": options.bytes,
        "cpu_us_per_delivery": per_delivery(outcome.cpu),
        "broker_us_per_delivery": options.broker_pid.map(|_| per_delivery(outcome.broker_cpu)),
        "deliveries_per_s": deliveries / outcome.wall.as_secs_f64(),
        "latency_p50_ms": at(0.5),
        "latency_p99_ms": at(0.99),
        "idle_bytes_per_socket": outcome.idle_bytes as f64 / options.sockets as f64,
    });
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout(), "{figures}");
}
