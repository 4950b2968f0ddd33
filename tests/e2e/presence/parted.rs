//! A node that does not reach the store while the others do.

use std::time::{Duration, Instant};

use fanfare_testkit::{RedisServer, TcpProxy};
use serde_json::json;
use tokio::time::sleep_until;

use super::{
    crowd::{Crowd, Seat},
    node,
    scene::{Truth, channels, names},
    store::Store,
    watcher::Watcher,
};
use crate::{SOON, node::Node};

const LEASE: Duration = Duration::from_secs(2);
const CHANNELS: usize = 5;
const MEMBERS: usize = 30;

async fn start(name: &str, store: &str) -> Node {
    node(name, "memory:", store).set("presence.lease", "2s").set("presence.grace", "500ms").start().await
}

/// What it had sent arrives after it was reaped: it is nobody's then, and goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn comes_back_with_what_it_had_sent_long_ago() {
    let redis = RedisServer::start().await;
    let proxy = TcpProxy::start(redis.address());
    let (through, direct) = (format!("redis://{}", proxy.address()), redis.url());
    let (parted, other) = tokio::join!(start("a", &through), start("b", &direct));
    let (started, store) = (Instant::now(), Store(&redis));
    let channels = channels(CHANNELS);
    let seats = |node, prefix| Seat::spread(&[node], &names(prefix, MEMBERS), &channels);
    let staying = Crowd::come(seats(&parted, "stays")).await;
    let leaving = Crowd::come(seats(&parted, "goes")).await;
    let others = Crowd::come(seats(&other, "other")).await;
    let inside = Watcher::watch(&parted, "inside", &channels).await;
    let outside = Watcher::watch(&other, "outside", &channels).await;
    let before = Truth::of(&[&staying, &leaving, &others], &[&inside, &outside]);
    before.wait_seen(&[&inside, &outside], SOON).await;
    before.wait_stored(&store, SOON).await;
    let of_others = store.rows_of("b").await;
    let from: Vec<_> = channels.iter().map(|channel| outside.known().view(channel).log().len()).collect();
    sleep_until((started + LEASE).into()).await;

    // It writes joins and leaves into the dark.
    proxy.pause();
    let paused = Instant::now();
    let coming = Crowd::come(seats(&parted, "comes")).await;
    leaving.leave().await;
    let without = Truth::of(&[&others], &[&outside]);
    without.wait_seen(&[&outside], SOON).await;
    without.wait_stored(&store, SOON).await;
    let reaped = paused.elapsed();
    let mut asking = Watcher::connect(&parted, "asking").await;
    let answer = asking.ask(json!({ "type": "presence", "channel": channels[0] })).await;
    assert_eq!(answer["stale"], true, "{answer}");
    assert_eq!(store.rows_of("b").await, of_others);
    sleep_until((paused + 3 * LEASE).into()).await;

    proxy.resume();
    let resumed = Instant::now();
    let after = Truth::of(&[&staying, &coming, &others], &[&inside, &outside]);
    after.wait_seen(&[&outside, &inside], SOON).await;
    after.wait_stored(&store, SOON).await;
    let back = resumed.elapsed();
    sleep_until((resumed + 2 * LEASE).into()).await;
    after.wait_stored(&store, SOON).await;
    after.wait_seen(&[&outside, &inside], SOON).await;
    assert_eq!(store.rows_of("b").await, of_others, "rows of the other node");
    let known = outside.known();
    for (index, user) in names("stays", MEMBERS).iter().enumerate() {
        let statuses = known.view(&channels[index % CHANNELS]).statuses(from[index % CHANNELS], user);
        assert_eq!(statuses, ["offline", "online"], "{user}");
    }
    for (index, user) in names("goes", MEMBERS).iter().enumerate() {
        let statuses = known.view(&channels[index % CHANNELS]).statuses(from[index % CHANNELS], user);
        assert_eq!(statuses, ["offline"], "{user}");
    }
    drop(known);
    outside.assert_sound();
    inside.assert_sound();
    assert_eq!((staying.ended(), coming.ended(), others.ended()), (0, 0, 0));
    println!(
        "a node parted from the store for {:?}: reaped after {reaped:.1?} (lease {LEASE:?}); {back:.1?} after it reached the \
         store again everybody was back",
        3 * LEASE,
    );
}

/// A store that does not answer holds no node up that goes away.
#[tokio::test]
async fn ends_in_time() {
    const SHUTDOWN: Duration = Duration::from_secs(2);
    let redis = RedisServer::start().await;
    let node = node("a", "memory:", &redis.url()).set("timeouts.shutdown", "2s").start().await;
    let watcher = Watcher::watch(&node, "watcher", &["crew:1"]).await;
    redis.pause();
    let begun = Instant::now();
    let (status, ()) = tokio::join!(node.stop(SOON), watcher.wait_end());
    let took = begun.elapsed();
    redis.resume();
    assert!(status.code().is_some(), "it ended by itself\n{}", node.process().log());
    assert!(took < SHUTDOWN + Duration::from_secs(2), "{took:?}");
}
