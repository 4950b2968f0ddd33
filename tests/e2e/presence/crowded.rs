//! Thousands come to one channel at once: what clients are told, what a node holds and what Redis holds have bounds.

use std::time::{Duration, Instant};

use super::{
    crowd::{Crowd, Seat},
    scene::{Scene, names, setting},
    watcher::Watcher,
};
use crate::{MACHINE, SOON};

const CHANNEL: &str = "crew:all";

/// How many come; [`MEMBERS`] where it is not set.
const MEMBERS_VARIABLE: &str = "PRESENCE_MEMBERS";
const MEMBERS: u64 = 2_000;
/// So many a second: ten thousand in ten seconds.
const PER_SECOND: usize = 1_000;

/// Above so many members names are not told.
const MAX_NAMED: usize = 100;
/// Changes are gathered for so long.
const BATCH: Duration = Duration::from_millis(250);
/// What a node and Redis may hold for each member, its socket, session and frames included. A node that is not optimised
/// is no smaller than another.
const NODE_BYTES: u64 = 24 * 1024;
const REDIS_BYTES: u64 = 2 * 1024;
/// Whatever is held once.
const ONCE_BYTES: u64 = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_thousands() {
    let _alone = MACHINE.lock().await;
    let members = setting(MEMBERS_VARIABLE, MEMBERS) as usize;
    let scene = Scene::start(|node| {
        node.set("presence.max_named", MAX_NAMED as i64)
            .set("presence.grace", "1s")
            .set("timeouts.ping_interval", "10m")
    })
    .await;
    let nodes = [&scene.first, &scene.second];
    let early = [
        Watcher::watch(&scene.first, "early-a", &[CHANNEL]).await,
        Watcher::watch(&scene.second, "early-b", &[CHANNEL]).await,
    ];
    let resident = || nodes.map(|node| node.process().resident_bytes());
    let (node_before, redis_before) = (resident(), scene.store().memory().await);

    let begun = Instant::now();
    let mut crowd = Crowd::default();
    for (second, users) in names("m", members).chunks(PER_SECOND).enumerate() {
        let seats = Seat::spread(&nodes, users, &[CHANNEL.to_owned()]).into_iter().map(Seat::told).collect();
        let due = begun + Duration::from_secs(second as u64);
        tokio::time::sleep_until(due.into()).await;
        crowd.join(seats).await;
    }
    let joined = begun.elapsed();
    let all = (members + early.len()) as u64;
    for watcher in &early {
        watcher.wait("all to be counted", |known| known.view(CHANNEL).counts() == (all, all)).await;
    }
    let counted = begun.elapsed();
    scene.store().wait_for_rows(all as usize, SOON).await;
    let grown: Vec<_> =
        resident().iter().zip(node_before).map(|(after, before)| after.saturating_sub(before)).collect();
    let redis = scene.store().memory().await.saturating_sub(redis_before);

    // While they can be named, each is; from then on one event in a batch.
    let batches = (counted.as_secs_f64() / BATCH.as_secs_f64()).ceil() as usize + 1;
    let bound = MAX_NAMED + 1 + batches;
    let most = crowd.presence_events().into_iter().max().expect("there is a crowd");
    println!(
        "{members} members came to one channel of two nodes in {joined:.1?}, counted by all after {counted:.1?}; events to one \
         client: at most {most} of the crowd, {:?} of who was there before, bound {bound}; nodes grew by {} KiB, Redis by {} KiB: \
         {} and {} bytes a member",
        early[0].known().view(CHANNEL).events(),
        grown.iter().sum::<u64>() / 1024,
        redis / 1024,
        grown.iter().sum::<u64>() / members as u64,
        redis / members as u64,
    );
    for watcher in &early {
        let events = watcher.known().view(CHANNEL).events();
        assert!(events.changes <= MAX_NAMED + 1, "{events:?}");
        assert!(events.counts <= batches, "{events:?}, allowed are {batches}");
        watcher.assert_sound();
    }
    assert!(most <= bound, "{most}");
    for grown in grown {
        assert!(grown <= ONCE_BYTES + NODE_BYTES * members as u64 / 2, "{grown}");
    }
    assert!(redis <= ONCE_BYTES + REDIS_BYTES * members as u64, "{redis}");
    assert_eq!(crowd.ended(), 0);

    // They all go, and it is told in no more.
    let before = early[0].known().view(CHANNEL).events();
    let left = Instant::now();
    crowd.leave().await;
    for watcher in &early {
        watcher.wait("all to be gone", |known| known.view(CHANNEL).counts() == (2, 2)).await;
        watcher.wait("names again", |known| known.view(CHANNEL).members().len() == 2).await;
        watcher.assert_sound();
    }
    let took = left.elapsed();
    let after = early[0].known().view(CHANNEL).events();
    let batches = (took.as_secs_f64() / BATCH.as_secs_f64()).ceil() as usize + 1;
    println!("all {members} were gone after {took:.1?}, told by {after:?} since {before:?}");
    assert!(after.counts - before.counts <= batches && after.changes - before.changes <= MAX_NAMED + 2, "{after:?}");
    scene.store().wait_for_rows(2, SOON).await;
}
