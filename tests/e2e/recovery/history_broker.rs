//! A real broker that keeps history over its own death, and a plain client of it that publishes with ids, as docs/subjects.md
//! tells any service to.

use std::{
    fmt,
    net::SocketAddr,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use async_nats::{Client, ConnectOptions, HeaderMap, Request};
use fanfare_testkit::{
    NatsServer, RedisServer,
    redis::{Fsync, Reply},
    wait_for,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::{TENANT, size_of};
use crate::SOON;

/// How long a publisher waits for an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// How often the plain NATS client tries to come back.
const RECONNECT_EVERY: Duration = Duration::from_millis(50);
/// How long Redis is asked to remember an id, in milliseconds: the default of `history.dedupe_window`.
const DEDUPE_WINDOW_MS: &str = "120000";

/// A broker of a test's own.
pub(super) enum HistoryBroker {
    /// One server, or a cluster of three.
    Nats {
        servers: Vec<NatsServer>,
        client: Client,
        killed: AtomicUsize,
    },
    Redis {
        server: RedisServer,
    },
}

/// What the broker said to a publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accepted {
    pub(super) offset: u64,
    /// JetStream's answer has none.
    pub(super) epoch: Option<String>,
}

/// There was no answer, or one that leaves it open.
#[derive(Debug)]
pub(super) struct NoAnswer;

#[derive(Deserialize)]
struct Acknowledged {
    seq: u64,
}

impl HistoryBroker {
    /// JetStream, with its streams on disk.
    pub(super) async fn nats() -> Self {
        Self::nats_of(1).await
    }

    /// JetStream on three servers, each of which has everything.
    pub(super) async fn nats_cluster() -> Self {
        Self::nats_of(3).await
    }

    async fn nats_of(size: usize) -> Self {
        let servers = NatsServer::builder().jetstream().start_cluster(size).await;
        let options = ConnectOptions::new().reconnect_delay_callback(|_| RECONNECT_EVERY);
        let urls: Vec<_> = servers.iter().map(NatsServer::url).collect();
        let client = options.connect(urls).await.expect("the servers are there");
        Self::Nats { servers, client, killed: AtomicUsize::new(0) }
    }

    /// How many servers have everything.
    pub(super) fn replicas(&self) -> usize {
        match self {
            Self::Nats { servers, .. } => servers.len(),
            Self::Redis { .. } => 1,
        }
    }

    /// Redis with every write on disk before it is answered.
    pub(super) async fn redis() -> Self {
        Self::Redis { server: RedisServer::builder().append_only(Fsync::Always).start().await }
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        match self {
            Self::Nats { servers, .. } => servers[0].address(),
            Self::Redis { server } => server.address(),
        }
    }

    /// What nodes connect to.
    pub(super) fn url(&self) -> String {
        self.url_at(self.address())
    }

    /// The same through a proxy.
    pub(super) fn url_at(&self, address: SocketAddr) -> String {
        match self {
            Self::Nats { .. } => format!("nats://{address}"),
            Self::Redis { .. } => format!("redis://{address}"),
        }
    }

    /// Publishes an event by its id, on a channel with history.
    pub(super) async fn publish(&self, channel: &str, id: &str, data: &str) -> Result<Accepted, NoAnswer> {
        let body = envelope(id, data);
        match self {
            Self::Nats { client, .. } => publish_to_nats(client, channel, id, body).await,
            Self::Redis { server } => publish_to_redis(server, channel, id, &body, channel).await,
        }
    }

    /// Publishes to Redis so that it keeps the event, but tells no node of it: the function publishes where it is told to.
    pub(super) async fn publish_untold(&self, channel: &str, id: &str, data: &str) -> Accepted {
        let Self::Redis { server } = self else { panic!("only Redis can be told where to publish") };
        let answer = publish_to_redis(server, channel, id, &envelope(id, data), "log:nobody-is-here").await;
        answer.expect("the broker is there")
    }

    /// SIGKILL; of a cluster, the server that leads the stream of `log`.
    pub(super) async fn kill(&self) {
        match self {
            Self::Nats { servers, client, killed } => {
                let leader = if servers.len() == 1 { Some(0) } else { leader(client).await };
                let index = leader.unwrap_or_else(|| panic!("nobody leads the stream"));
                killed.store(index, Ordering::Relaxed);
                servers[index].kill();
            }
            Self::Redis { server } => server.kill(),
        }
    }

    /// Starts what was killed again with its data, on the same address, and waits until all is as before.
    pub(super) async fn restart(&self) {
        match self {
            Self::Nats { servers, client, killed } => {
                servers[killed.load(Ordering::Relaxed)].restart().await;
                let whole = async || {
                    for namespace in ["log", "short"] {
                        let info = stream_info(client, namespace).await?;
                        let replicas = info["cluster"]["replicas"].as_array().map_or(&[][..], Vec::as_slice);
                        let current = replicas.iter().filter(|one| one["current"] == true).count();
                        if info["config"].is_null() || current + 1 < servers.len() {
                            return None;
                        }
                    }
                    Some(())
                };
                wait_for("the streams to be whole", 3 * SOON, whole).await;
            }
            Self::Redis { server } => server.restart().await,
        }
    }
}

impl fmt::Display for HistoryBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nats { servers, .. } if servers.len() > 1 => "a NATS cluster",
            Self::Nats { .. } => "NATS",
            Self::Redis { .. } => "Redis",
        })
    }
}

/// An event with an id, whose data is a text.
pub(super) fn envelope(id: &str, data: &str) -> String {
    json!({ "event": "tick", "id": id, "data": data }).to_string()
}

async fn publish_to_nats(client: &Client, channel: &str, id: &str, body: String) -> Result<Accepted, NoAnswer> {
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Msg-Id", format!("{TENANT}/{channel}/{id}"));
    let request = Request::new().headers(headers).payload(body.into()).timeout(Some(ANSWER_WITHIN));
    let subject = format!("rt.pub.{TENANT}.{}", channel.replace(':', "."));
    let answer = client.send_request(subject, request).await.map_err(|_| NoAnswer)?;
    // An error that JetStream answers does not say whether it has the message.
    let Acknowledged { seq } = serde_json::from_slice(&answer.payload).map_err(|_| NoAnswer)?;
    Ok(Accepted { offset: seq, epoch: None })
}

/// What JetStream says of a namespace's stream, if it answers.
async fn stream_info(client: &Client, namespace: &str) -> Option<Value> {
    let asked = client.request(format!("$JS.API.STREAM.INFO.RT_{namespace}"), "".into());
    let answer = timeout(ANSWER_WITHIN, asked).await.ok()?.ok()?;
    Some(serde_json::from_slice(&answer.payload).expect("JSON"))
}

/// Which server leads the stream of `log`: the kit calls them `test-0`, `test-1`, ….
async fn leader(client: &Client) -> Option<usize> {
    let info = stream_info(client, "log").await?;
    info["cluster"]["leader"].as_str()?.strip_prefix("test-")?.parse().ok()
}

async fn publish_to_redis(
    server: &RedisServer,
    channel: &str,
    id: &str,
    body: &str,
    live: &str,
) -> Result<Accepted, NoAnswer> {
    let tag = format!("{{{TENANT}:{channel}}}");
    let (stream, meta, known) = (format!("rt:hist:{tag}"), format!("rt:meta:{tag}"), format!("rt:id:{tag}:{id}"));
    let live = format!("rt:live:{{{TENANT}:{live}}}");
    let (size, ttl) = (size_of(channel).to_string(), "600000");
    let keys = [stream.as_str(), &meta, &live, &known];
    let arguments = [body, &size, ttl, DEDUPE_WINDOW_MS, "1", ""];
    let words: Vec<_> = ["FCALL", "fanfare_v1_publish", "4"].into_iter().chain(keys).chain(arguments).collect();
    match timeout(ANSWER_WITHIN, server.try_command(&words)).await {
        Ok(Ok(Reply::Array(reply))) => match &reply[..] {
            [Reply::Integer(offset), Reply::Bulk(epoch), ..] => {
                let epoch = String::from_utf8(epoch.clone()).expect("an epoch is a word");
                Ok(Accepted { offset: offset.unsigned_abs(), epoch: Some(epoch) })
            }
            _ => panic!("{reply:?} is no position"),
        },
        // While it loads its data it says so.
        Ok(Ok(Reply::Error(error))) if error.starts_with("LOADING") => Err(NoAnswer),
        Ok(Ok(other)) => panic!("{other:?} instead of a position"),
        Ok(Err(_)) | Err(_) => Err(NoAnswer),
    }
}
