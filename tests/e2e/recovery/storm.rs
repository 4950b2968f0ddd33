//! All clients of a channel are cut at once and come back at once: the broker does not notice.

use std::{
    env,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use fanfare_testkit::wait_until;
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    history_reads::HistoryReads,
    logical_client::{Habits, LogicalClient, MARK},
    scene::{Kind, Scene},
};
use crate::{MACHINE, node::Node};

const CHANNEL: &str = "log:storm";

/// How many clients there are; [`CLIENTS`] where it is not set.
const CLIENTS_VARIABLE: &str = "STORM_CLIENTS";
const CLIENTS: usize = 2_000;

/// Published while nobody is there.
const MISSED: usize = 20;
/// Publications go on so often while they come back.
const PUBLISH_EVERY: Duration = Duration::from_millis(500);
/// Handshakes at one time: the kernel keeps so many for a node that is busy.
const AT_ONCE: usize = 512;
/// Reads at the broker that a storm may cost.
const READS: usize = 2;

/// How long all of it may take.
const LONG: Duration = Duration::from_secs(240);
/// How long one handshake may take, on a machine that is busy with thousands.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nats() {
    storm(Kind::Nats).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis() {
    storm(Kind::Redis).await;
}

async fn storm(kind: Kind) {
    let _alone = MACHINE.lock().await;
    let count = env::var(CLIENTS_VARIABLE).map_or(CLIENTS, |text| text.parse().expect("a number"));
    let mut scene = kind.start().await;
    let reads = HistoryReads::count(scene.broker()).await;
    let second = super::node(&scene.broker().url()).start().await;

    let habits = Habits { patience: Some(PATIENCE), ..Habits::default() };
    let clock = scene.clock;
    let new = |index| LogicalClient::new(format!("c{index}"), vec![CHANNEL.to_owned()], clock).habits(habits);
    let clients: Vec<_> = (0..count).map(new).collect();
    let begun = Instant::now();
    let mut clients = come(&mut scene, clients, None, "begin").await;
    println!("{kind:?}: {count} clients connected in {:.1?}", begun.elapsed());

    for (what, name) in [("the same node", "same"), ("another node, the first one killed", "another")] {
        let target = if name == "same" {
            None
        } else {
            scene.node.kill();
            Some(&second)
        };
        clients.iter_mut().for_each(LogicalClient::cut);
        for number in 0..MISSED {
            scene.publish_at_broker(CHANNEL, &format!("{name}-missed-{number}"), "missed").await;
        }
        let before = (reads.so_far(scene.broker()).await, counted(target.unwrap_or(&scene.node)).await);
        let begun = Instant::now();
        clients = come(&mut scene, clients, target, name).await;
        let took = begun.elapsed();
        let after = (reads.so_far(scene.broker()).await, counted(target.unwrap_or(&scene.node)).await);
        let (at_broker, by_node) = (after.0 - before.0, after.1 - before.1);
        println!(
            "{kind:?}: {count} clients back on {what} in {took:.1?}; reads at the broker {at_broker}, by the node {by_node}"
        );
        assert!(
            at_broker <= READS && by_node <= READS,
            "{what}: {at_broker} reads at the broker, {by_node} by the node"
        );
    }
    let summary = scene.check("log", clients.into_iter().map(LogicalClient::into_log).collect());
    assert_eq!((summary.recovered, summary.not_recovered, summary.gaps), (2 * count, 0, 0), "{summary}");
    println!("{kind:?}: {summary}");
}

/// Reads that a node says it made.
async fn counted(node: &Node) -> usize {
    node.metrics().await.sum("fanfare_history_reads_total") as usize
}

/// All connect at once and subscribe from where they stand, while publications go on, and read until they have all.
async fn come(scene: &mut Scene, clients: Vec<LogicalClient>, node: Option<&Node>, name: &str) -> Vec<LogicalClient> {
    let address = node.unwrap_or(&scene.node).public();
    let (handshakes, joined) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(AtomicUsize::new(0)));
    let (count, mark) = (clients.len(), format!("{MARK}{name}"));
    let mut tasks = JoinSet::new();
    for mut client in clients {
        let (handshakes, joined, mark) = (Arc::clone(&handshakes), Arc::clone(&joined), mark.clone());
        tasks.spawn(async move {
            let turn = handshakes.acquire().await.expect("it is not closed");
            client.connect(address).await.unwrap_or_else(|lost| panic!("{lost}"));
            drop(turn);
            let mut counted = false;
            while client.marks(&mark) == 0 {
                client.receive().await.unwrap_or_else(|lost| panic!("{lost}"));
                if !counted && client.is_subscribed() {
                    counted = true;
                    joined.fetch_add(1, Ordering::Relaxed);
                }
            }
            client
        });
    }
    let all_joined = wait_until("all to be subscribed", LONG, || joined.load(Ordering::Relaxed) == count);
    tokio::pin!(all_joined);
    let mut number = 0;
    loop {
        tokio::select! {
            () = &mut all_joined => break,
            () = sleep(PUBLISH_EVERY) => {
                scene.publish_at_broker(CHANNEL, &format!("{name}-live-{number}"), "live").await;
                number += 1;
            }
            Some(ended) = tasks.join_next() => panic!("a client ended early: {:?}", ended.err()),
        }
    }
    scene.publish_at_broker(CHANNEL, &mark, &mark).await;
    let clients = timeout(LONG, tasks.join_all()).await.expect("everything comes to all in time");
    assert_eq!(clients.len(), count);
    clients
}
