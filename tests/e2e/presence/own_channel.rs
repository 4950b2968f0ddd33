//! Channels that a connection has without asking: its user's own, and those of its token.

use serde_json::json;

use super::{TENANT, claims, node, watcher::Watcher};
use crate::node::{Node, NodeBuilder};

fn with_own_channel() -> NodeBuilder {
    node("a", "memory:", "memory:").set("namespaces.user.subscribe", "owner").set("auto_subscribe", vec!["user:{sub}"])
}

const ALICE: &str = "alice@example.org";
/// A point is none of the characters of a segment.
const HERS: &str = "user:alice@example=2Eorg";

async fn told_of(watcher: &Watcher, channels: usize) -> Vec<String> {
    watcher.wait("its channels", |known| known.told("system:subscribed") == channels).await;
    let known = watcher.known();
    let told = known.system().iter().filter(|push| push["event"] == "system:subscribed");
    let mut told: Vec<_> = told.map(|push| push["data"]["channel"].as_str().expect("a channel").to_owned()).collect();
    told.sort();
    told
}

#[tokio::test]
async fn every_device_of_a_user_and_nobody_else() {
    let node = with_own_channel().start().await;
    let mut tablet = claims(ALICE);
    tablet["subscribe"] = json!(["crew:7", "project:1", "secret:1"]);
    let phone = Watcher::connect(&node, ALICE).await;
    let tablet = Watcher::connect_with(&node, ALICE, &tablet).await;
    let mut bob = Watcher::connect(&node, "bob").await;
    assert_eq!(told_of(&phone, 1).await, [HERS]);
    assert_eq!(told_of(&tablet, 3).await, ["crew:7", "project:1", HERS]);
    // What the token lists still has to be allowed.
    tablet.wait("the refusal", |known| known.told("system:error") == 1).await;
    assert_eq!(told_of(&bob, 1).await, ["user:bob"]);

    node.publish(TENANT, HERS, r#"{"event":"for-alice"}"#).await;
    node.publish(TENANT, "user:bob", r#"{"event":"for-bob"}"#).await;
    node.publish("globex", "user:bob", r#"{"event":"for-another-bob"}"#).await;
    for device in [&phone, &tablet] {
        device.wait("what is alice's", |known| known.count("for-alice") == 1).await;
        assert_eq!(device.known().publications().len(), 1);
    }
    bob.wait("what is bob's", |known| known.count("for-bob") == 1).await;
    let code = bob.refused(json!({ "type": "subscribe", "channel": HERS })).await;
    assert_eq!(code, "FORBIDDEN");
    assert_eq!(bob.known().publications().len(), 1);
    // Who is on a channel of the token is there as if it had asked.
    let observer = Watcher::watch(&node, "observer", &["crew:7"]).await;
    observer.wait_connections("crew:7", ALICE, 1).await;
}

/// A template without a user is passed over, and nothing of it is told.
#[tokio::test]
async fn none_without_a_user() {
    let node: Node = with_own_channel().start().await;
    let mut nobody = claims("x");
    nobody.as_object_mut().expect("claims").remove("sub");
    nobody["subscribe"] = json!(["crew:7"]);
    let nobody = Watcher::connect_with(&node, "nobody", &nobody).await;
    assert_eq!(told_of(&nobody, 1).await, ["crew:7"]);
    assert_eq!(nobody.known().told("system:error"), 0);
    // It is a member by its connection.
    let observer = Watcher::watch(&node, "observer", &["crew:7"]).await;
    observer.wait_connections("crew:7", &nobody.session(), 1).await;
}
