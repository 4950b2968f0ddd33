//! Nodes that are replaced one after the other: nobody goes offline.

use std::time::Instant;

use fanfare_testkit::RedisServer;
use futures_util::future::join_all;

use super::{
    node,
    scene::{Truth, channels, names},
    store::Store,
    watcher::Watcher,
};
use crate::SOON;

const CLIENTS: usize = 40;
const CHANNELS: usize = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_offline_over_a_rolling_restart() {
    let redis = RedisServer::start().await;
    let url = redis.url();
    let start = |name| node(name, &url, &url).set("presence.lease", "3s").set("presence.grace", "3s").start();
    let (rolled, kept) = tokio::join!(start("a"), start("b"));
    let (channels, users) = (channels(CHANNELS), names("m", CLIENTS));
    let observer = Watcher::watch(&kept, "observer", &channels).await;
    let clients = join_all(users.iter().map(|user| Watcher::watch(&rolled, user, &channels))).await;
    everyone(&clients, &observer).wait_seen(&[&observer], SOON).await;
    let from: Vec<_> = channels.iter().map(|channel| observer.known().view(channel).log().len()).collect();

    // They are told to go, and come to the other node at once.
    let begun = Instant::now();
    let moving = join_all(clients.into_iter().zip(&users).map(async |(old, user)| {
        old.wait_end().await;
        Watcher::watch(&kept, user, &channels).await
    }));
    let (status, clients) = tokio::join!(rolled.stop(SOON), moving);
    assert_eq!(status.code(), Some(0), "{}", rolled.process().log());
    let moved = begun.elapsed();
    everyone(&clients, &observer).wait_seen(&[&observer], SOON).await;
    everyone(&clients, &observer).wait_stored(&Store(&redis), SOON).await;

    // And back, to the node that has taken its place.
    let rolled = start("a").await;
    let back = join_all(clients.into_iter().zip(&users).map(async |(old, user)| {
        old.cut().await;
        Watcher::watch(&rolled, user, &channels).await
    }));
    let clients = back.await;
    everyone(&clients, &observer).wait_seen(&[&observer], SOON).await;
    everyone(&clients, &observer).wait_stored(&Store(&redis), SOON).await;
    let took = begun.elapsed();

    let known = observer.known();
    for (channel, from) in channels.iter().zip(from) {
        for user in &users {
            let statuses = known.view(channel).statuses(from, user);
            assert!(statuses.iter().all(|status| *status == "online"), "{user} on {channel}: {statuses:?}");
        }
    }
    drop(known);
    observer.assert_sound();
    println!(
        "{CLIENTS} clients on {CHANNELS} channels left a node that ended by SIGTERM within {moved:.1?}, and were back on the next \
         after {took:.1?}; nobody was told offline"
    );
}

fn everyone(clients: &[Watcher], observer: &Watcher) -> Truth {
    Truth::of(&[], &clients.iter().chain([observer]).collect::<Vec<_>>())
}
