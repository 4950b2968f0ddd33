//! What goes wrong on purpose: each has its code, and nobody else notices.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{TENANT, claims, node, scene::Truth, watcher::Watcher};
use crate::{SOON, node::Node, token};

const CHANNEL: &str = "crew:1";
/// The default of `limits.presence_info_bytes`.
const INFO_BYTES: usize = 1024;
/// The default of `limits.presence_updates_per_second`, and of how many may come at once.
const UPDATES_PER_SECOND: f64 = 10.0;

/// A node with memory for broker and store: what is refused is refused before either.
async fn start() -> Node {
    node("a", "memory:", "memory:").start().await
}

/// One that knows who is on the channel, and must not be told of anything but what is right.
async fn calm(node: &Node) -> Watcher {
    let calm = Watcher::watch(node, "calm", &[CHANNEL]).await;
    calm.wait_connections(CHANNEL, "calm", 1).await;
    calm
}

#[tokio::test]
async fn each_has_its_code() {
    // What is refused takes its part of the rate, and the rate has a test of its own.
    let node = node("a", "memory:", "memory:").set("limits.presence_updates_per_second", 1000).start().await;
    let calm = calm(&node).await;
    let mut mallory = Watcher::connect(&node, "mallory").await;
    mallory.subscribe(&[CHANNEL, "desk:1", "project:1"], json!({})).await;
    calm.wait_connections(CHANNEL, "mallory", 1).await;
    let before = calm.known().view(CHANNEL).log().len();

    let set = |fields: Value| {
        let mut command = json!({ "type": "set_presence", "channel": CHANNEL });
        command.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
        command
    };
    let presence = |channel: &str| json!({ "type": "presence", "channel": channel });
    let watch = |channel: &str| json!({ "type": "subscribe", "channel": channel, "presence": true });
    let signal = |channel: &str, event: &str| json!({ "type": "signal", "channel": channel, "event": event });
    let info = |bytes: usize| json!({ "text": "x".repeat(bytes - r#"{"text":""}"#.len()) });
    let cases = [
        ("an info of one byte too many", "LIMIT_EXCEEDED", set(json!({ "info": info(INFO_BYTES + 1) }))),
        ("a huge info", "LIMIT_EXCEEDED", set(json!({ "info": info(20_000) }))),
        ("the state of who is not there", "BAD_REQUEST", set(json!({ "state": "offline" }))),
        ("no state", "BAD_REQUEST", set(json!({ "state": "" }))),
        ("a state in capitals", "BAD_REQUEST", set(json!({ "state": "Online" }))),
        ("a state of two words", "BAD_REQUEST", set(json!({ "state": "in a call" }))),
        ("a long state", "BAD_REQUEST", set(json!({ "state": "x".repeat(33) }))),
        ("a state that is no text", "BAD_REQUEST", set(json!({ "state": 7 }))),
        ("neither state nor info", "BAD_REQUEST", set(json!({}))),
        ("no channel's name", "BAD_REQUEST", set(json!({ "channel": "crew::1", "state": "busy" }))),
        ("to be where one is not", "NOT_FOUND", set(json!({ "channel": "crew:2", "state": "busy" }))),
        ("to be on a pattern", "BAD_REQUEST", set(json!({ "channel": "crew:*", "state": "busy" }))),
        ("to ask of a pattern", "BAD_REQUEST", presence("crew:*")),
        ("to ask of no name", "BAD_REQUEST", presence("")),
        ("to ask where there is no presence", "BAD_REQUEST", presence("project:1")),
        ("to ask without the permission", "FORBIDDEN", presence("desk:1")),
        ("to ask of what one may not read", "FORBIDDEN", presence("user:alice")),
        ("to watch a pattern", "BAD_REQUEST", watch("crew:*")),
        ("to watch where there is no presence", "BAD_REQUEST", watch("project:2")),
        ("to watch without the permission", "FORBIDDEN", watch("desk:2")),
        (
            "to watch in some other way",
            "BAD_REQUEST",
            json!({ "type": "subscribe", "channel": "crew:2", "presence": "all" }),
        ),
        ("no members", "BAD_REQUEST", json!({ "type": "presence", "channel": CHANNEL, "limit": 0 })),
        ("from nobody on", "BAD_REQUEST", json!({ "type": "presence", "channel": CHANNEL, "after": "bob" })),
        ("a signal of the node's own", "BAD_REQUEST", signal(CHANNEL, "system:gap")),
        ("a signal that says who is here", "BAD_REQUEST", signal(CHANNEL, "presence:change")),
        ("a signal to a pattern", "BAD_REQUEST", signal("crew:*", "typing:start")),
        ("a signal where nobody may", "FORBIDDEN", signal("desk:1", "typing:start")),
        ("a signal where one is not", "FORBIDDEN", signal("crew:2", "typing:start")),
    ];
    for (name, code, command) in cases {
        let reply = mallory.command(command).await;
        assert_eq!((&reply["type"], &reply["code"]), (&json!("error"), &json!(code)), "{name}: {reply}");
    }
    // What is at the limit is allowed.
    mallory.ask(set(json!({ "info": info(INFO_BYTES), "state": "x".repeat(32) }))).await;
    calm.wait("what is allowed", |known| {
        known.view(CHANNEL).member("mallory").is_some_and(|seen| seen.info == info(INFO_BYTES))
    })
    .await;
    {
        let known = calm.known();
        let after = &known.view(CHANNEL).log()[before..];
        assert_eq!(after.len(), 1, "only what is allowed was told: {after:?}");
        assert_eq!((known.publications().len(), known.told("system:gap")), (0, 0));
    }
    calm.assert_sound();
    assert!(!node.process().stderr().contains("panicked"), "{}", node.process().log());
}

#[tokio::test]
async fn nothing_crosses_tenants() {
    let node = start().await;
    let calm = calm(&node).await;
    let mut foreign = claims("mallory");
    foreign["tenant"] = json!("globex");
    let mut mallory = Watcher::connect_with(&node, "mallory", &foreign).await;
    let answer = mallory.ask(json!({ "type": "presence", "channel": CHANNEL })).await;
    assert_eq!((&answer["users"], &answer["connections"]), (&json!(0), &json!(0)), "{answer}");
    mallory.subscribe(&[CHANNEL], json!({ "presence": true })).await;
    mallory.wait_connections(CHANNEL, "mallory", 1).await;
    mallory.ask(json!({ "type": "set_presence", "channel": CHANNEL, "state": "busy" })).await;
    mallory.ask(json!({ "type": "signal", "channel": CHANNEL, "event": "typing:start" })).await;
    mallory
        .wait("its own state", |known| known.view(CHANNEL).member("mallory").is_some_and(|seen| seen.status == "busy"))
        .await;
    // A connection that comes later is told of later; nothing of the foreign one came before.
    let later = Watcher::watch(&node, "later", &[CHANNEL]).await;
    calm.wait_connections(CHANNEL, "later", 1).await;
    Truth::of(&[], &[&calm, &later]).wait_seen(&[&calm, &later], SOON).await;
    Truth::of(&[], &[&mallory]).wait_seen(&[&mallory], SOON).await;
    for (watcher, stranger) in [(&calm, "mallory"), (&later, "mallory"), (&mallory, "calm"), (&mallory, "later")] {
        let known = watcher.known();
        assert!(known.view(CHANNEL).statuses(0, stranger).is_empty(), "{} was told of {stranger}", watcher.user());
        assert!(known.publications().is_empty(), "{:?}", known.publications());
    }

    // Nor by the API.
    for (tenant, users) in [(TENANT, 2), ("globex", 1), ("nobody", 0)] {
        let (status, body) = node.get_with_key(&format!("/api/presence?tenant={tenant}&channel={CHANNEL}")).await;
        let answer: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"));
        assert_eq!((status, &answer["users"]), (200, &json!(users)), "{tenant}: {answer}");
    }
    for (target, status) in [
        ("/api/presence?tenant=acme&channel=crew:*", 400),
        ("/api/presence?tenant=a:b&channel=crew:1", 400),
        ("/api/presence?tenant=acme", 400),
        ("/api/presence?tenant=acme&channel=project:1", 400),
        ("/api/connections", 400),
    ] {
        let (answered, body) = node.get_with_key(target).await;
        assert_eq!(answered, status, "{target}: {body}");
    }
    let (status, body) = node.get("/api/presence?tenant=acme&channel=crew:1").await;
    assert_eq!(status, 401, "without a key: {body}");
}

/// What a client may do is what its token says, and what its connection says of itself is for those who may know.
#[tokio::test]
async fn who_may_not_know_is_not_told() {
    let node = start().await;
    let mut blind = claims("blind");
    blind["channels"] = json!([{ "match": "crew:**", "allow": ["subscribe"] }]);
    let calm = calm(&node).await;
    let mut blind = Watcher::connect_with(&node, "blind", &blind).await;
    // It is there, and is told nothing of the others.
    blind.subscribe(&[CHANNEL], json!({})).await;
    calm.wait_connections(CHANNEL, "blind", 1).await;
    assert_eq!(blind.refused(json!({ "type": "presence", "channel": CHANNEL })).await, "FORBIDDEN");
    // Neither is who comes without a word of presence to another channel, in a handshake.
    let target = format!("channels={CHANNEL},desk:1&presence=true");
    let mut desk = claims("desk");
    desk["channels"] =
        ["crew:**", "desk:**"].map(|channels| json!({ "match": channels, "allow": ["subscribe"] })).into();
    let handshake = node.client().query(&target).query(&format!("token={}", token::sign(&desk)));
    let handshake = Watcher::open(handshake, "desk").await;
    handshake.wait("refusals", |known| known.told("system:error") == 2).await;
    for push in handshake.known().system().iter().filter(|push| push["event"] == "system:error") {
        assert_eq!(push["data"]["code"], "FORBIDDEN", "{push}");
    }
    let late = Watcher::watch(&node, "late", &[CHANNEL]).await;
    calm.wait_connections(CHANNEL, "late", 1).await;
    drop(late);
    calm.wait_connections(CHANNEL, "late", 0).await;
    // Behind all that was told.
    node.publish(TENANT, CHANNEL, r#"{"event":"mark"}"#).await;
    blind.wait("the mark", |known| known.count("mark") == 1).await;
    assert!(blind.known().views().is_empty(), "{:?}", blind.known().views());
    assert!(handshake.known().views().is_empty(), "{:?}", handshake.known().views());
    calm.assert_sound();
}

#[tokio::test]
async fn ten_thousand_updates_at_once() {
    const UPDATES: u64 = 10_000;
    const PER_MESSAGE: u64 = 500;
    let node = start().await;
    let calm = calm(&node).await;
    let mallory = {
        let mut mallory = Watcher::connect(&node, "mallory").await;
        mallory.subscribe(&[CHANNEL], json!({})).await;
        mallory
    };
    calm.wait_connections(CHANNEL, "mallory", 1).await;
    let (begun, before) = (Instant::now(), calm.known().view(CHANNEL).log().len());
    let update = |id: u64| json!({ "id": id, "type": "set_presence", "channel": CHANNEL, "state": format!("s{id}") });
    let (mut accepted, mut refused) = (Vec::new(), 0);
    for first in (1..=UPDATES).step_by(PER_MESSAGE as usize) {
        // Ids of the test's own, above those of the client.
        let ids = 1_000 + first..1_000 + first + PER_MESSAGE;
        mallory.send(json!(ids.clone().map(update).collect::<Vec<_>>()).to_string()).await;
        for id in ids {
            let reply = mallory.reply(id).await;
            match reply["code"].as_str() {
                None => accepted.push(id),
                Some("RATE_LIMIT") => refused += 1,
                Some(_) => panic!("{reply}"),
            }
        }
    }
    let took = begun.elapsed();
    let allowed = UPDATES_PER_SECOND * (1.0 + took.as_secs_f64());
    assert!(
        accepted.len() as f64 >= UPDATES_PER_SECOND && accepted.len() as f64 <= allowed + 1.0,
        "{}",
        accepted.len()
    );
    assert_eq!(accepted.len() + refused, UPDATES as usize);
    // The last that was accepted is what the others see; what was refused is not.
    let last = format!("s{}", accepted.last().expect("some are"));
    calm.wait("the last update", |known| known.view(CHANNEL).member("mallory").is_some_and(|seen| seen.status == last))
        .await;
    {
        let known = calm.known();
        let told = &known.view(CHANNEL).log()[before..];
        let batches = (begun.elapsed().as_secs_f64() / Duration::from_millis(250).as_secs_f64()) as usize + 2;
        assert!(told.len() <= batches, "{} changes were told in {:?}", told.len(), begun.elapsed());
        assert!(told.iter().all(|change| change.seen.status != "offline"), "an update is no leave");
        println!(
            "{UPDATES} set_presence in {took:.1?}: {} accepted, {refused} refused as RATE_LIMIT, {} changes told to others",
            accepted.len(),
            told.len(),
        );
    }
    // Others are not slowed down by it: the bucket is the connection's own.
    let mut other = Watcher::connect(&node, "other").await;
    other.subscribe(&[CHANNEL], json!({})).await;
    other.ask(json!({ "type": "set_presence", "channel": CHANNEL, "state": "calm" })).await;
    calm.wait("another's update", |known| {
        known.view(CHANNEL).member("other").is_some_and(|seen| seen.status == "calm")
    })
    .await;
    calm.assert_sound();
}
