//! What goes wrong in a chaos run, and when.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use fanfare_testkit::TcpProxy;
use fastrand::Rng;
use tokio::{
    sync::Mutex,
    time::{Instant, sleep, sleep_until},
};

use super::{
    history_broker::HistoryBroker,
    node,
    publishing::{NodeAddresses, NodeTable},
};
use crate::node::{Node, NodeBuilder};

/// How long a node is parted from its broker.
const PARTED: Duration = Duration::from_secs(5);
/// How long a broker is down, at most.
const DOWN_AT_MOST: Duration = Duration::from_millis(1_500);
/// How long a node is down, at most.
const NODE_DOWN_AT_MOST: Duration = Duration::from_millis(1_000);

/// How much goes wrong, evenly over the time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) nodes: usize,
    lasting: Duration,
    disconnects: usize,
    kills: usize,
    broker_faults: usize,
}

/// What went wrong in the end.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Done {
    pub(super) disconnects: usize,
    kills: usize,
    broker_kills: usize,
    partitions: usize,
}

/// The nodes of a run and what is done to them.
pub(super) struct Faults {
    plan: Plan,
    broker: Option<Arc<HistoryBroker>>,
    table: Arc<NodeTable>,
    places: Vec<Place>,
    /// Held while the broker is away: a node that starts needs it.
    broker_up: Mutex<()>,
    /// The node that is parted, or `usize::MAX`: it is not killed meanwhile.
    parted: AtomicUsize,
}

/// Where a node runs, one after the other.
struct Place {
    /// Between this node and the broker.
    proxy: Option<TcpProxy>,
    url: String,
    node: Mutex<Node>,
}

impl Plan {
    /// In a minute 220 clients disconnect, 6 nodes are killed, and the broker fails 4 times; in another time as many as are
    /// due. Without a broker of its own there is one node, and only clients come and go.
    pub(super) fn lasting(lasting: Duration, with_broker: bool) -> Self {
        let of_a_minute = |count: f64| (count * lasting.as_secs_f64() / 60.0).ceil() as usize;
        let faults = |count: f64| if with_broker { of_a_minute(count) } else { 0 };
        Self {
            nodes: if with_broker { 3 } else { 1 },
            lasting,
            disconnects: of_a_minute(220.0),
            kills: faults(6.0),
            broker_faults: faults(4.0).max(if with_broker { 2 } else { 0 }),
        }
    }
}

impl Faults {
    /// Starts the nodes, each behind a proxy of its own.
    pub(super) async fn start(plan: Plan, broker: Option<Arc<HistoryBroker>>, table: Arc<NodeTable>) -> Self {
        let mut places = Vec::new();
        for index in 0..plan.nodes {
            // The servers of a cluster tell nodes of each other, so nothing can stand between.
            let alone = broker.as_ref().filter(|broker| broker.replicas() == 1);
            let proxy = alone.map(|broker| TcpProxy::start(broker.address()));
            let url = match (&broker, &proxy) {
                (Some(broker), Some(proxy)) => broker.url_at(proxy.address()),
                (Some(broker), None) => broker.url(),
                (None, _) => "memory:".to_owned(),
            };
            let node = configured(&url, broker.as_deref()).start().await;
            table.set(index, Some(addresses(&node)));
            places.push(Place { proxy, url, node: Mutex::new(node) });
        }
        Self { plan, broker, table, places, broker_up: Mutex::new(()), parted: AtomicUsize::new(usize::MAX) }
    }

    /// Does what is planned, and gives it when the time is over and all is well again.
    pub(super) async fn carry_out(
        &self,
        clients: usize,
        away_at_most: Duration,
        leave: impl Fn(usize, Duration),
        mut rng: Rng,
    ) -> Done {
        let (mut disconnecting, mut killing, mut breaking) = (rng.fork(), rng.fork(), rng.fork());
        let disconnects = async {
            for due in self.times(self.plan.disconnects, &mut rng) {
                sleep_until(due).await;
                let away = away_at_most.mul_f64(disconnecting.f64());
                leave(disconnecting.usize(..clients), away);
            }
            self.plan.disconnects
        };
        let kills = async {
            let mut kills = 0;
            for due in self.times(self.plan.kills, &mut killing.fork()) {
                sleep_until(due).await;
                self.kill_a_node(&mut killing).await;
                kills += 1;
            }
            kills
        };
        let broker_faults = async {
            let mut done = Done::default();
            for (nth, due) in self.times(self.plan.broker_faults, &mut breaking.fork()).into_iter().enumerate() {
                sleep_until(due).await;
                if nth % 2 == 0 || self.places[0].proxy.is_none() {
                    self.kill_the_broker(&mut breaking).await;
                    done.broker_kills += 1;
                } else {
                    self.part(&mut breaking, done.partitions.is_multiple_of(2)).await;
                    done.partitions += 1;
                }
            }
            done
        };
        let over = Instant::now() + self.plan.lasting;
        let (disconnects, kills, done) = tokio::join!(disconnects, kills, broker_faults);
        sleep_until(over).await;
        assert!(disconnects >= self.plan.disconnects && kills >= self.plan.kills);
        Done { disconnects, kills, ..done }
    }

    /// So many times from now on, one in each part of the time; none in the first tenth, in which clients connect.
    fn times(&self, count: usize, rng: &mut Rng) -> Vec<Instant> {
        let (first, lasting) = (self.plan.lasting / 10, self.plan.lasting.mul_f64(0.8));
        let part = lasting / count.max(1) as u32;
        let now = Instant::now();
        (0..count as u32).map(|nth| now + first + part * nth + part.mul_f64(0.5 * rng.f64())).collect()
    }

    async fn kill_a_node(&self, rng: &mut Rng) {
        let parted = self.parted.load(Ordering::Relaxed);
        let candidates: Vec<_> = (0..self.places.len()).filter(|index| *index != parted).collect();
        let index = candidates[rng.usize(..candidates.len())];
        let place = &self.places[index];
        let mut held = place.node.lock().await;
        self.table.set(index, None);
        held.kill();
        sleep(NODE_DOWN_AT_MOST.mul_f64(rng.f64())).await;
        let _up = self.broker_up.lock().await;
        *held = configured(&place.url, self.broker.as_deref()).start().await;
        self.table.set(index, Some(addresses(&held)));
    }

    async fn kill_the_broker(&self, rng: &mut Rng) {
        let broker = self.broker.as_ref().expect("only brokers of their own are planned to fail");
        let _down = self.broker_up.lock().await;
        broker.kill().await;
        sleep(DOWN_AT_MOST.mul_f64(rng.f64())).await;
        broker.restart().await;
    }

    async fn part(&self, rng: &mut Rng, cut: bool) {
        let index = rng.usize(..self.places.len());
        let place = &self.places[index];
        self.parted.store(index, Ordering::Relaxed);
        // It may be starting just now.
        drop(place.node.lock().await);
        let proxy = place.proxy.as_ref().expect("nodes of a broker have their proxies");
        proxy.pause();
        sleep(PARTED).await;
        // What was on its way does not arrive at all, or late.
        if cut {
            proxy.cut();
        }
        proxy.resume();
        self.parted.store(usize::MAX, Ordering::Relaxed);
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disconnects, kills, broker_kills, partitions } = self;
        write!(
            f,
            "{disconnects} clients told to go, {kills} nodes killed, the broker (or who leads it) killed {broker_kills} \
             times and parted from a node for {PARTED:?} {partitions} times"
        )
    }
}

fn configured(url: &str, broker: Option<&HistoryBroker>) -> NodeBuilder {
    node(url).set("history.replicas", broker.map_or(1, HistoryBroker::replicas) as i64)
}

fn addresses(node: &Node) -> NodeAddresses {
    NodeAddresses { public: node.public(), internal: node.internal() }
}
