//! Stores of several servers, of which the one in charge is killed.

use std::time::Instant;

use fanfare_testkit::{RedisCluster, RedisSentinel};

use super::{
    crowd::{Crowd, Seat},
    node,
    scene::{Truth, channels, names},
    watcher::Watcher,
};
use crate::SOON;

const CHANNELS: usize = 5;

/// The nodes' own brokers are within them; they have only the store in common.
async fn survives(store: &str, url: &str, fault: impl AsyncFnOnce()) {
    const MEMBERS: usize = 30;
    let start = |name: &str| node(name, "memory:", url).set("presence.lease", "3s").set("presence.grace", "1s").start();
    let (first, second) = tokio::join!(start("a"), start("b"));
    let nodes = [&first, &second];
    let channels = channels(CHANNELS);
    let watchers = [Watcher::watch(&first, "wa", &channels).await, Watcher::watch(&second, "wb", &channels).await];
    let watchers: Vec<_> = watchers.iter().collect();
    let seats = |prefix| Seat::spread(&nodes, &names(prefix, MEMBERS), &channels);
    let staying = Crowd::come(seats("stays")).await;
    let leaving = Crowd::come(seats("goes")).await;
    Truth::of(&[&staying, &leaving], &watchers).wait_seen(&watchers, SOON).await;
    let begun = Instant::now();
    fault().await;
    let failed_over = begun.elapsed();
    leaving.leave().await;
    let coming = Crowd::come(seats("comes")).await;
    let truth = Truth::of(&[&staying, &coming], &watchers);
    truth.wait_seen(&watchers, 2 * SOON).await;
    let took = begun.elapsed();
    for watcher in &watchers {
        watcher.assert_sound();
    }
    // Who looks for the first time reads what lies in the store.
    let probe = Watcher::watch(&first, "probe", &channels).await;
    Truth::of(&[&staying, &coming], &[watchers[0], watchers[1], &probe]).wait_seen(&[&probe], SOON).await;
    assert_eq!((staying.ended(), coming.ended()), (0, 0));
    println!("{store}: a master failed over in {failed_over:.1?}, and {took:.1?} after it began all saw the truth");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sentinel_fails_over() {
    let sentinel = RedisSentinel::start().await;
    survives("Sentinel", &sentinel.url(), async || {
        let old = sentinel.kill_master().await;
        sentinel.wait_for_failover(old).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_fails_over() {
    let cluster = RedisCluster::start().await;
    survives("Cluster", &cluster.url(), async || {
        let slot = cluster.slot("rt:presence:{acme:crew:0}").await;
        let old = cluster.owner(slot).await;
        cluster.servers()[old].kill();
        cluster.wait_for_failover(slot, old).await;
    })
    .await;
}
