//! What services are told of channels and connections by the API: which numbers are a node's and which are the cluster's.

use std::{collections::BTreeSet, time::Duration};

use fanfare_testkit::wait_for;
use serde_json::{Value, json};

use super::{TENANT, scene::Scene, watcher::Watcher};
use crate::{
    SOON,
    node::{Node, NodeBuilder},
};

const LEASE: Duration = Duration::from_secs(2);

fn listing(node: NodeBuilder) -> NodeBuilder {
    node.set("presence.connections", true).set("presence.lease", "2s").set("presence.grace", "200ms")
}

async fn get(node: &Node, path: &str) -> Value {
    let (status, body) = node.get_with_key(&format!("/api/{path}&tenant={TENANT}")).await;
    assert_eq!(status, 200, "{path}: {body}");
    serde_json::from_str(&body).unwrap_or_else(|error| panic!("{body}: {error}"))
}

/// Sessions with their nodes.
fn places(answer: &Value) -> BTreeSet<(String, String)> {
    assert_eq!((&answer["scope"], &answer["stale"]), (&json!("cluster"), &json!(false)), "{answer}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    let connections = answer["connections"].as_array().expect("a list").iter();
    connections.map(|own| (text(&own["session"]), text(&own["node"]))).collect()
}

async fn wait_places(node: &Node, user: &str, expected: &[(&Watcher, &str)], within: Duration) {
    let expected: BTreeSet<_> =
        expected.iter().map(|(watcher, node)| (watcher.session(), (*node).to_owned())).collect();
    wait_for(&format!("{user}'s connections are {expected:?}"), within, async || {
        (places(&get(node, &format!("connections?user={user}")).await) == expected).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_users_connections_are_found_from_every_node_and_go_with_them() {
    let scene = Scene::start(listing).await;
    let phone = Watcher::connect(&scene.first, "alice").await;
    let tablet = Watcher::connect(&scene.second, "alice").await;
    let other = Watcher::connect(&scene.first, "bob").await;
    for node in [&scene.first, &scene.second] {
        wait_places(node, "alice", &[(&phone, "a"), (&tablet, "b")], SOON).await;
        wait_places(node, "bob", &[(&other, "a")], SOON).await;
    }
    // A page of one, and the next.
    let page = get(&scene.first, "connections?user=alice&limit=1").await;
    let next = page["next"].as_str().expect("there are two");
    let rest = get(&scene.first, &format!("connections?user=alice&limit=1&after={next}")).await;
    assert_eq!(places(&page).union(&places(&rest)).count(), 2);
    assert!(rest.get("next").is_none(), "{rest}");
    // Another tenant's alice is another.
    let (status, elsewhere) = scene.first.get_with_key("/api/connections?user=alice&tenant=other").await;
    assert_eq!((status, places(&serde_json::from_str(&elsewhere).expect("JSON"))), (200, BTreeSet::new()));
    // Whatever a client is allowed, it cannot come near.
    let mut all = super::claims("eve");
    all["channels"] = json!([{ "match": "=connections:**", "allow": ["subscribe", "publish", "presence"] }]);
    let mut eve = Watcher::connect_with(&scene.first, "eve", &all).await;
    for command in ["subscribe", "presence"] {
        let code = eve.refused(json!({ "type": command, "channel": "=connections:u:alice" })).await;
        assert!(["FORBIDDEN", "BAD_REQUEST"].contains(&&*code), "{command}: {code}");
    }

    drop(other);
    wait_places(&scene.second, "bob", &[], SOON).await;
    scene.second.kill();
    wait_places(&scene.first, "alice", &[(&phone, "a")], LEASE + SOON).await;
    drop((phone, tablet, eve));
    wait_for("nothing is left", SOON, async || scene.store().rows().await.is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_have_a_nodes_subscribers_and_the_clusters_members() {
    let scene = Scene::start(|node| node).await;
    let mut here = Watcher::connect(&scene.first, "alice").await;
    here.subscribe(&["crew:1", "crew:2"], json!({})).await;
    let mut also_here = Watcher::connect(&scene.first, "bob").await;
    also_here.subscribe(&["crew:2"], json!({})).await;
    let mut elsewhere = Watcher::connect(&scene.second, "alice").await;
    elsewhere.subscribe(&["crew:2", "crew:3"], json!({})).await;
    let channel = |name: &str, subscribers: u64, users: u64, connections: u64| {
        let cluster = json!({ "users": users, "connections": connections, "stale": false });
        json!({ "channel": name, "node": { "subscribers": subscribers }, "cluster": cluster })
    };
    let expected = json!({ "node": "a", "channels": [channel("crew:1", 1, 1, 1), channel("crew:2", 2, 2, 3)] });
    wait_for("all are counted", SOON, async || {
        (get(&scene.first, "channels?prefix=crew:").await == expected).then_some(())
    })
    .await;
    let page = get(&scene.second, "channels?limit=1").await;
    assert_eq!(page, json!({ "node": "b", "channels": [channel("crew:2", 1, 2, 3)], "next": "crew:2" }));
    let rest = get(&scene.second, "channels?limit=1&after=crew:2").await;
    assert_eq!(rest, json!({ "node": "b", "channels": [channel("crew:3", 1, 1, 1)] }));

    let stats = get(&scene.first, "presence_stats?channel=crew:2&channel=crew:9&channel=board:1").await;
    let counts = |name: &str, users: u64, connections: u64| json!({ "channel": name, "users": users, "connections": connections, "stale": false });
    let results = stats["results"].as_array().expect("a list");
    assert_eq!(results[..2], [counts("crew:2", 2, 3), counts("crew:9", 0, 0)]);
    assert_eq!(results[2]["error"]["code"], "BAD_REQUEST");

    let members = wait_for("both members", SOON, async || {
        let answer = get(&scene.second, "presence?channel=crew:2").await;
        (answer["users"] == 2 && answer["connections"] == 3).then_some(answer)
    })
    .await;
    let names: Vec<_> = members["members"].as_array().expect("members").iter().map(|one| &one["userId"]).collect();
    assert_eq!(names, ["alice", "bob"]);
    let page = get(&scene.second, "presence?channel=crew:2&limit=1").await;
    assert_eq!((page["members"].as_array().expect("members").len(), &page["next"]), (1, &json!("u:alice")));
    // Without the switch a user's connections are those of the node that is asked.
    let own = get(&scene.second, "connections?user=alice").await;
    assert_eq!((&own["scope"], own["connections"].as_array().expect("a list").len()), (&json!("node"), 1));
    assert_eq!(own["connections"][0]["session"], elsewhere.session());
    assert_eq!(own["connections"][0]["subscriptions"], 2);
}
