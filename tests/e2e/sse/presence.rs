//! Who is here, on a stream: it is a member like any other connection, and is told of the others.

use serde_json::{Value, json};

use super::{TENANT, event_stream::EventStream, node};
use crate::{node::Node, token};

const CHANNEL: &str = "room:1";

async fn start() -> Node {
    let node = node("memory:").set("namespaces.room.subscribe", "anyone").set("namespaces.room.presence", true);
    node.set("presence.grace", "500ms").start().await
}

/// The next `presence:change`, which must be of this user. That of its own coming is passed over: it was in the snapshot, and is
/// told all the same where the two met.
async fn change(stream: &mut EventStream, own: &str, user: &str) -> Value {
    let mut event = stream.event().await;
    if event.object["data"]["userId"] == own {
        event = stream.event().await;
    }
    assert_eq!((event.name.as_str(), &event.object["channel"]), ("presence:change", &json!(CHANNEL)), "{event:?}");
    assert_eq!(event.object["data"]["userId"], user, "{event:?}");
    event.object["data"].clone()
}

#[tokio::test]
async fn of_a_stream_and_of_others() {
    let node = start().await;
    let mut stream = EventStream::open(&node, &format!("/sse?channels={CHANNEL},live:a&presence=true"), "").await;
    let own = stream.expect("system:connected").await["session"].as_str().expect("an id").to_owned();
    for _ in 0..2 {
        stream.expect("system:subscribed").await;
    }
    // It is in its own snapshot, as a connection without a user.
    let snapshot = stream.event().await;
    assert_eq!((snapshot.name.as_str(), &snapshot.object["channel"]), ("presence:snapshot", &json!(CHANNEL)));
    let data = &snapshot.object["data"];
    let [member] = data["members"].as_array().map_or(&[][..], Vec::as_slice) else { panic!("{snapshot:?}") };
    assert_eq!((&member["userId"], &member["anonymous"]), (&json!(own), &json!(true)), "{snapshot:?}");
    assert_eq!((&data["users"], &data["stale"]), (&json!(1), &json!(false)), "{snapshot:?}");
    let id = stream.last_id().to_owned();

    // A user on a WebSocket that subscribes by its URL, who wants the others named.
    let claims = json!({ "sub": "ann", "exp": token::seconds_from_now(60.0), "tenant": TENANT });
    let query = format!("channels={CHANNEL}&presence=names&token={}", token::sign(&claims));
    let mut ann = node.client().query(&query).open_connected().await;
    ann.expect("system:subscribed").await;
    let snapshot = ann.expect("presence:snapshot").await;
    let users = snapshot["data"]["members"].as_array().expect("names").iter().map(|member| &member["userId"]);
    assert!(users.collect::<Vec<_>>().contains(&&json!(own)), "{snapshot}");
    let seen = change(&mut stream, &own, "ann").await;
    assert_eq!((&seen["status"], &seen["connections"]), (&json!("online"), &json!(1)), "{seen}");
    ann.command(json!({ "type": "set_presence", "state": "editing", "info": { "page": 3 } })).await;
    let seen = change(&mut stream, &own, "ann").await;
    assert_eq!((&seen["status"], &seen["info"]), (&json!("editing"), &json!({ "page": 3 })), "{seen}");
    drop(ann);
    let seen = change(&mut stream, &own, "ann").await;
    assert_eq!((&seen["status"], &seen["connections"]), (&json!("offline"), &json!(0)), "{seen}");
    assert_eq!(stream.last_id(), id, "nothing of it has a place in a history");

    // A stream that ends is a member that leaves.
    let mut other = EventStream::open(&node, &format!("/sse?channels={CHANNEL}&presence=false"), "").await;
    let session = other.expect("system:connected").await["session"].as_str().expect("an id").to_owned();
    assert_eq!(change(&mut stream, &own, &session).await["status"], "online");
    drop(other);
    assert_eq!(change(&mut stream, &own, &session).await["status"], "offline");
}
