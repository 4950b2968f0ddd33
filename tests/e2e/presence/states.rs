//! What members are doing: own words, info, idleness; several connections of one user.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{
    node,
    scene::{Scene, Truth},
    watcher::Watcher,
};
use crate::{SOON, node::Node};

const CHANNEL: &str = "crew:1";

/// Waits until a user is seen doing something.
async fn sees(watcher: &Watcher, user: &str, status: &str) {
    let what = format!("{user} to be {status}");
    watcher.wait(&what, |known| known.view(CHANNEL).member(user).is_some_and(|seen| seen.status == status)).await;
}

#[tokio::test]
async fn of_the_most_active_connection() {
    let scene = Scene::start(|node| node.set("presence.grace", "1s")).await;
    let observer = Watcher::watch(&scene.second, "observer", &[CHANNEL]).await;
    let mut desk = Watcher::watch(&scene.first, "alice", &[CHANNEL]).await;
    let mut phone = Watcher::watch(&scene.second, "alice", &[CHANNEL]).await;
    observer.wait_connections(CHANNEL, "alice", 2).await;
    let from = observer.known().view(CHANNEL).log().len();
    desk.ask(json!({ "type": "set_presence", "channel": CHANNEL, "state": "idle" })).await;
    // The phone is online, so nothing is told; then it is idle, too.
    phone.ask(json!({ "type": "set_presence", "channel": CHANNEL, "state": "idle" })).await;
    sees(&observer, "alice", "idle").await;
    desk.ask(json!({ "type": "set_presence", "state": "editing", "info": { "cursor": 7 } })).await;
    sees(&observer, "alice", "editing").await;
    assert_eq!(observer.known().view(CHANNEL).member("alice").expect("seen").info, json!({ "cursor": 7 }));
    desk.ask(json!({ "type": "set_presence", "info": null })).await;
    observer.wait("no info", |known| known.view(CHANNEL).member("alice").is_some_and(|seen| seen.info.is_null())).await;
    desk.cut().await;
    sees(&observer, "alice", "idle").await;
    {
        let known = observer.known();
        let statuses = known.view(CHANNEL).statuses(from, "alice");
        assert_eq!(statuses, ["idle", "editing", "editing", "idle"], "an update is neither a leave nor a join");
        assert_eq!(known.connections(CHANNEL, "alice"), 1);
    }
    observer.assert_sound();
    let truth = Truth::of(&[], &[&observer, &phone]);
    truth.wait_seen(&[&observer, &phone], SOON).await;
    truth.wait_stored(&scene.store(), SOON).await;
}

#[tokio::test]
async fn idle_without_activity() {
    const IDLE: Duration = Duration::from_secs(1);
    let node = node("a", "memory:", "memory:").set("timeouts.idle", "1s").start().await;
    let observer = Watcher::watch(&node, "observer", &[CHANNEL]).await;
    let begun = Instant::now();
    let mut alice = Watcher::watch(&node, "alice", &[CHANNEL]).await;
    sees(&observer, "alice", "idle").await;
    assert!(begun.elapsed() >= IDLE, "{:?}", begun.elapsed());
    // A ping alone says only that the connection is there.
    alice.ask(json!({ "type": "ping" })).await;
    let commands = [
        json!({ "type": "ping", "active": true }),
        json!({ "type": "publish", "channel": CHANNEL, "event": "e" }),
        json!({ "type": "signal", "channel": CHANNEL, "event": "waved" }),
        json!({ "type": "set_presence", "info": 7 }),
        json!({ "type": "subscribe", "channel": "crew:2" }),
    ];
    for command in commands {
        sees(&observer, "alice", "idle").await;
        let from = observer.known().view(CHANNEL).log().len();
        alice.command(command.clone()).await;
        observer
            .wait(&format!("activity by {command}"), |known| {
                known.view(CHANNEL).statuses(from, "alice").contains(&"online")
            })
            .await;
    }
    // An own word is not taken for activity, nor is it taken away by its lack for good: what was said comes back.
    alice.ask(json!({ "type": "set_presence", "state": "editing" })).await;
    sees(&observer, "alice", "editing").await;
    sees(&observer, "alice", "idle").await;
    alice.ask(json!({ "type": "ping", "active": true })).await;
    sees(&observer, "alice", "editing").await;
    assert!(observer.known().view(CHANNEL).statuses(0, "alice").iter().all(|status| *status != "offline"));
    observer.assert_sound();
}

/// Who asks by hand gets pages, and counts alone where it wants them.
#[tokio::test]
async fn asked_for_in_pages() {
    let node = node("a", "memory:", "memory:").start().await;
    let mut all = Vec::new();
    for name in ["ann", "bob", "cid", "dan", "eve"] {
        all.push(watch_silently(&node, name).await);
    }
    let mut asking = Watcher::connect(&node, "asking").await;
    let (mut seen, mut after) = (Vec::new(), None::<String>);
    loop {
        let mut command = json!({ "type": "presence", "channel": CHANNEL, "limit": 2 });
        if let Some(after) = &after {
            command["after"] = json!(after);
        }
        let page = asking.ask(command).await;
        assert_eq!(
            (&page["users"], &page["connections"], &page["stale"]),
            (&json!(5), &json!(5), &json!(false)),
            "{page}"
        );
        let members = page["members"].as_array().expect("members");
        assert!(members.len() <= 2, "{page}");
        seen.extend(members.iter().map(|member| member["userId"].as_str().expect("a user").to_owned()));
        match page["next"].as_str() {
            Some(next) => after = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, ["ann", "bob", "cid", "dan", "eve"]);
    let counts = asking.ask(json!({ "type": "presence", "channel": CHANNEL, "counts": true })).await;
    assert_eq!((&counts["users"], counts.get("members")), (&json!(5), None), "{counts}");
}

/// A page without a command: it subscribes, and asks who is there, by its URL. Its user has no name.
#[tokio::test]
async fn asked_for_by_the_url() {
    let node = node("a", "memory:", "memory:").set("auth.anonymous", true).set("presence.grace", "500ms");
    let node = node.set("namespaces.crew.subscribe", "anyone").start().await;
    let ann = watch_silently(&node, "ann").await;
    let open = |query: &str| Watcher::open(node.client().query("channels=crew:1,crew:2").query(query), "nobody");
    for query in ["presence=true", "presence=names"] {
        let nobody = open(query).await;
        // Nobody who has no name is one user with another.
        let (session, tenant) = (nobody.session(), nobody.known().system()[0]["data"]["tenant"].clone());
        assert_eq!(tenant, "default");
        nobody
            .wait("snapshots", |known| ["crew:1", "crew:2"].iter().all(|channel| known.view(channel).is_known()))
            .await;
        nobody.wait_connections(CHANNEL, &session, 1).await;
        assert_eq!(nobody.known().connections(CHANNEL, "ann"), 0, "she is of another tenant");
        let other = open("presence=false").await;
        nobody.wait_connections(CHANNEL, &other.session(), 1).await;
        assert!(other.known().views().is_empty());
        let gone = other.session();
        other.cut().await;
        nobody.wait_connections(CHANNEL, &gone, 0).await;
        nobody.assert_sound();
    }
    drop(ann);
}

async fn watch_silently(node: &Node, user: &str) -> Watcher {
    let mut watcher = Watcher::connect(node, user).await;
    watcher.subscribe(&[CHANNEL], json!({ "presence": false })).await;
    watcher
}
