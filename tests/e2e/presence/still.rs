//! What members cost Redis who sit still.

use std::time::{Duration, Instant};

use tokio::time::{sleep, sleep_until};

use super::{
    crowd::{Crowd, Seat},
    scene::{Scene, channels, lease, setting},
    store::{Commands, Store},
};
use crate::{MACHINE, SOON, node::NodeBuilder};

/// For how long commands are counted, in seconds; [`SECONDS`] where it is not set. It is a multiple of the lease, and so of the
/// time between two renewals.
const SECONDS_VARIABLE: &str = "PRESENCE_SECONDS";
const SECONDS: u64 = 5;

const CHANNELS: usize = 500;
const FEW: usize = 500;
const MANY: usize = 5_000;
const NODES: usize = 2;

/// What a node may cost in a second.
const COMMANDS_PER_NODE: f64 = 5.0;
/// How much more, or less, ten times the members may cost.
const MORE: f64 = 0.10;

/// A look at the counters that finds nobody working.
const LOOK: Duration = Duration::from_millis(250);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn costs_redis_the_same_however_many_they_are() {
    let (lease, time) = (lease(), Duration::from_secs(setting(SECONDS_VARIABLE, SECONDS)));
    // A leave that waits for its grace, an idle connection or a ping would be something that happens.
    let configure = |node: NodeBuilder| node.set("timeouts.idle", "10m").set("timeouts.ping_interval", "10m");
    let scene = Scene::start(|node| configure(node).set("presence.lease", format!("{}s", lease.as_secs()))).await;
    let channels = channels(CHANNELS);
    let seats = |range: std::ops::Range<usize>| -> Vec<_> {
        let nodes = [&scene.first, &scene.second];
        // Half of each channel's members are on each node.
        let seat = |index: usize| {
            let node = nodes[(index + index / CHANNELS) % NODES].public();
            Seat::new(node, format!("m{index}"), &channels[index % CHANNELS..][..1])
        };
        range.map(seat).collect()
    };
    let mut crowd = Crowd::come(seats(0..FEW)).await;
    let few = sitting_still(&scene.store(), crowd.len(), lease, time).await;
    let alone = MACHINE.lock().await;
    crowd.join(seats(FEW..MANY)).await;
    drop(alone);
    let many = sitting_still(&scene.store(), crowd.len(), lease, time).await;
    assert_eq!(crowd.ended(), 0);
    let rate = |commands: &Commands| commands.total() as f64 / time.as_secs_f64() / NODES as f64;
    let per_node = [rate(&few), rate(&many)];
    println!(
        "{NODES} nodes and {CHANNELS} channels for {time:?}: {:.2} commands a second per node with {FEW} members, {:.2} with \
         {MANY}, for which a refresh of each every 27 s would be {:.0}\n{few:?}\n{many:?}",
        per_node[0],
        per_node[1],
        MANY as f64 / 27.0 / NODES as f64,
    );
    for rate in per_node {
        assert!(rate <= COMMANDS_PER_NODE, "{rate} commands a second per node; allowed are {COMMANDS_PER_NODE}");
    }
    assert!((per_node[1] / per_node[0] - 1.0).abs() <= MORE, "{per_node:?} are not the same within {MORE}");
    assert!(per_node[0] > 0.0, "leases are renewed");
}

/// What Redis carries out in a time in which nothing happens. It is counted from a moment at which no lease is about to be
/// renewed, so that a time of as many renewals has exactly so many.
async fn sitting_still(store: &Store<'_>, members: usize, lease: Duration, time: Duration) -> Commands {
    store.wait_for_rows(members, 3 * SOON).await;
    // Two thirds of the time between two renewals without any other call: all that there was to do is done.
    let mut quiet = 0;
    let mut before = store.commands().await;
    let begun = Instant::now();
    while LOOK * quiet < lease / 3 * 2 / 3 {
        sleep(LOOK).await;
        let now = store.commands().await;
        quiet = if now.since(&before).total() == 0 { quiet + 1 } else { 0 };
        before = now;
        assert!(begun.elapsed() < 3 * SOON, "it is never quiet: {before:?}");
    }
    // The next renewals come; behind them is the longest time to the next.
    while store.commands().await.functions() == before.functions() {
        sleep(LOOK).await;
        assert!(begun.elapsed() < 3 * SOON, "no lease is renewed: {before:?}");
    }
    sleep(lease / 3 / 2).await;
    let (begun, before) = (Instant::now(), store.commands().await);
    sleep_until((begun + time).into()).await;
    store.commands().await.since(&before)
}
