//! Who goes away and comes back was never away; who goes for good goes once.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{
    scene::{Scene, Truth},
    watcher::Watcher,
};
use crate::SOON;

const CHANNEL: &str = "crew:1";
const GRACE: &str = "2s";

/// Every case has a user of its own. The one called `mark` leaves last of all: when that is told, every grace has ended.
#[tokio::test]
async fn only_who_closes_everything_goes() {
    let scene = Scene::start(|node| node.set("presence.grace", GRACE)).await;
    let (a, b) = (&scene.first, &scene.second);
    let observers =
        [Watcher::watch(a, "observer-a", &[CHANNEL]).await, Watcher::watch(b, "observer-b", &[CHANNEL]).await];
    let [see_a, see_b] = &observers;

    let watch = async |node, user| Watcher::watch(node, user, &[CHANNEL]).await;
    // One page that is loaded again, on the same node and on another.
    let (reloaded, moved) = (watch(a, "reloaded").await, watch(a, "moved").await);
    // Two tabs, of which one is closed: both on one node, and on two.
    let (tab, other_tab) = (watch(a, "tabs").await, watch(a, "tabs").await);
    let (here, there) = (watch(a, "spread").await, watch(b, "spread").await);
    // Two tabs that are both closed.
    let both = [watch(a, "both").await, watch(b, "both").await];
    // One that unsubscribes and comes back.
    let mut wavering = watch(b, "wavering").await;
    let mark = watch(a, "mark").await;
    for observer in &observers {
        for user in ["tabs", "spread", "both"] {
            observer.wait_connections(CHANNEL, user, 2).await;
        }
        observer.wait_connections(CHANNEL, "mark", 1).await;
    }
    let from: Vec<_> = observers.iter().map(|observer| observer.known().view(CHANNEL).log().len()).collect();

    reloaded.cut().await;
    let reloaded = watch(a, "reloaded").await;
    moved.cut().await;
    let moved = watch(b, "moved").await;
    other_tab.cut().await;
    there.cut().await;
    for tab in both {
        tab.cut().await;
    }
    wavering.ask(json!({ "type": "unsubscribe", "channel": CHANNEL })).await;
    wavering.ask(json!({ "type": "subscribe", "channel": CHANNEL })).await;
    mark.cut().await;

    for observer in &observers {
        observer.wait_connections(CHANNEL, "mark", 0).await;
    }
    let truth = Truth::of(&[], &[see_a, see_b, &reloaded, &moved, &tab, &here, &wavering]);
    truth.wait_seen(&[see_a, see_b, &reloaded, &moved, &tab, &here], SOON).await;
    truth.wait_stored(&scene.store(), SOON).await;
    for (observer, from) in observers.iter().zip(from) {
        let known = observer.known();
        let view = known.view(CHANNEL);
        let mut offline: BTreeMap<&str, usize> = BTreeMap::new();
        for change in view.log()[from..].iter().filter(|change| change.seen.status == "offline") {
            *offline.entry(&change.user).or_default() += 1;
        }
        assert_eq!(offline, BTreeMap::from([("both", 1), ("mark", 1)]), "{}: {:#?}", observer.user(), view.log());
        drop(known);
        observer.assert_sound();
    }
}

/// The grace is over before anyone is told, and then it is told at once.
#[tokio::test]
async fn a_leave_waits_the_grace() {
    const GRACE: Duration = Duration::from_secs(1);
    let scene = Scene::start(|node| node.set("presence.grace", "1s")).await;
    let observer = Watcher::watch(&scene.second, "observer", &[CHANNEL]).await;
    let leaving = Watcher::watch(&scene.first, "leaving", &[CHANNEL]).await;
    observer.wait_connections(CHANNEL, "leaving", 1).await;
    let begun = std::time::Instant::now();
    leaving.cut().await;
    observer.wait_connections(CHANNEL, "leaving", 0).await;
    let took = begun.elapsed();
    println!("a leave with a grace of {GRACE:?} was told on the other node after {took:?}");
    assert!(took >= GRACE, "{took:?}");
    assert!(took < GRACE + Duration::from_secs(3), "{took:?}");
    observer.assert_sound();
}
