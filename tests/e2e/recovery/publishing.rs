//! Publishers at a steady rate, each publication with an id, through the broker itself and through the API of any node.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_checker::PublisherLog;
use fastrand::Rng;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    TENANT,
    history_broker::{Accepted, HistoryBroker, NoAnswer},
};
use crate::{SOON, node::API_KEY};

/// Between two tries of one publication.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// How long a node may take to answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(7);

/// Where the nodes are that run now.
#[derive(Debug)]
pub(super) struct NodeTable {
    nodes: Mutex<Vec<Option<NodeAddresses>>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NodeAddresses {
    pub(super) public: SocketAddr,
    pub(super) internal: SocketAddr,
}

/// Ways to publish, and where what became of it is kept.
pub(super) struct Publishing {
    /// None where the nodes have a broker inside.
    broker: Option<Arc<HistoryBroker>>,
    nodes: Arc<NodeTable>,
    clock: Instant,
    http: reqwest::Client,
    log: Mutex<PublisherLog>,
}

/// What a try of a publication came to.
enum Answer {
    Accepted(Accepted),
    /// It was not published, and is not going to be.
    Refused,
    Unknown,
}

impl NodeTable {
    pub(super) fn new(nodes: usize) -> Arc<Self> {
        Arc::new(Self { nodes: Mutex::new(vec![None; nodes]) })
    }

    pub(super) fn set(&self, index: usize, addresses: Option<NodeAddresses>) {
        self.nodes.lock().expect("nobody panics with it")[index] = addresses;
    }

    /// One of those that run, by chance; another one than `but` where there is one.
    pub(super) fn any_but(&self, but: Option<NodeAddresses>, rng: &mut Rng) -> Option<NodeAddresses> {
        let nodes = self.nodes.lock().expect("nobody panics with it");
        let running: Vec<_> = nodes.iter().copied().flatten().collect();
        let others: Vec<_> = running.iter().copied().filter(|node| Some(*node) != but).collect();
        let choice = if others.is_empty() { running } else { others };
        (!choice.is_empty()).then(|| choice[rng.usize(..choice.len())])
    }
}

impl Publishing {
    pub(super) fn new(broker: Option<Arc<HistoryBroker>>, nodes: Arc<NodeTable>, clock: Instant) -> Arc<Self> {
        // Another test of this process may have been first; one provider is as good as the other, it is the same.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let http = reqwest::Client::builder().timeout(ANSWER_WITHIN).build().expect("an HTTP client can be made");
        Arc::new(Self { broker, nodes, clock, http, log: Mutex::new(PublisherLog::new()) })
    }

    /// Publishes on channels by turns until it is told to stop, and gives the publications that are under way their time.
    /// Each fourth is sent only once, whatever becomes of it.
    pub(super) async fn run(self: &Arc<Self>, channels: &[String], every: Duration, stop: &AtomicBool, mut rng: Rng) {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut under_way = JoinSet::new();
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            ticks.tick().await;
            number += 1;
            let channel = channels[rng.usize(..channels.len())].clone();
            let (id, again) = (format!("p{number}"), number % 4 != 0);
            let data = format!("{number} on {channel}, {}", "x".repeat(rng.usize(..200)));
            let (own, rng) = (Arc::clone(self), rng.fork());
            under_way.spawn(async move { own.publish(&channel, &id, &data, again, rng).await });
            while let Some(done) = under_way.try_join_next() {
                done.expect("publishing does not panic");
            }
        }
        while let Some(done) = under_way.join_next().await {
            done.expect("publishing does not panic");
        }
    }

    /// Publishes the same on every channel; all are accepted. Their offsets.
    pub(super) async fn mark(&self, channels: &[String], mark: &str) -> HashMap<String, u64> {
        let marking = channels.iter().map(|channel| async move {
            let accepted = self.publish(channel, mark, mark, true, Rng::with_seed(0)).await;
            let Accepted { offset, .. } = accepted.unwrap_or_else(|| panic!("{mark} was not accepted on {channel}"));
            (channel.clone(), offset)
        });
        join_all(marking).await.into_iter().collect()
    }

    /// Publishes once, or again until it is accepted.
    pub(super) async fn publish(
        &self,
        channel: &str,
        id: &str,
        data: &str,
        again: bool,
        mut rng: Rng,
    ) -> Option<Accepted> {
        let deadline = Instant::now() + 2 * SOON;
        self.log().attempted(self.clock.elapsed(), channel, id, data);
        let mut open = false;
        loop {
            match self.send(channel, id, data, &mut rng).await {
                Answer::Accepted(accepted) => {
                    self.log().accepted(channel, id, accepted.offset, accepted.epoch.as_deref());
                    return Some(accepted);
                }
                // An earlier try may have been published all the same.
                Answer::Refused if !open => self.log().refused(channel, id),
                Answer::Refused => {}
                Answer::Unknown => open = true,
            }
            if !again || Instant::now() > deadline {
                return None;
            }
            sleep(RETRY_AFTER).await;
            self.log().attempted(self.clock.elapsed(), channel, id, data);
        }
    }

    /// What all publishers were told.
    pub(super) fn into_log(self: Arc<Self>) -> PublisherLog {
        let own = Arc::into_inner(self).expect("nobody publishes any more");
        own.log.into_inner().expect("nobody panicked with it")
    }

    fn log(&self) -> std::sync::MutexGuard<'_, PublisherLog> {
        self.log.lock().expect("nobody panics with it")
    }

    /// A third goes through a node.
    async fn send(&self, channel: &str, id: &str, data: &str, rng: &mut Rng) -> Answer {
        match &self.broker {
            Some(broker) if rng.u32(..3) > 0 => match broker.publish(channel, id, data).await {
                Ok(accepted) => Answer::Accepted(accepted),
                Err(NoAnswer) => Answer::Unknown,
            },
            _ => self.send_to_node(channel, id, data, rng).await,
        }
    }

    async fn send_to_node(&self, channel: &str, id: &str, data: &str, rng: &mut Rng) -> Answer {
        let Some(node) = self.nodes.any_but(None, rng) else { return Answer::Refused };
        let body = json!({ "tenant": TENANT, "channel": channel, "event": "tick", "id": id, "data": data });
        let request = self.http.post(format!("http://{}/api/publish", node.internal)).header("x-api-key", API_KEY);
        let request = request.header("content-type", "application/json").body(body.to_string());
        let Ok(response) = request.send().await else { return Answer::Unknown };
        let status = response.status().as_u16();
        let Ok(body) = response.text().await else { return Answer::Unknown };
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{status} {body}: {error}"));
        match status {
            200 => {
                let offset = answer["offset"].as_u64().unwrap_or_else(|| panic!("{answer} has no offset"));
                let epoch = answer["epoch"].as_str().unwrap_or_else(|| panic!("{answer} has no epoch"));
                Answer::Accepted(Accepted { offset, epoch: Some(epoch.to_owned()) })
            }
            // Nothing was sent, it says.
            503 => Answer::Refused,
            _ => Answer::Unknown,
        }
    }
}
