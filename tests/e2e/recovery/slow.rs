//! Clients that do not keep up, on channels with history: closed and whole again, or with the newest only.

use serde_json::json;

use super::{
    NodeHistory as _,
    logical_client::{Habits, LogicalClient, Lost, MARK},
    scene::{Kind, on_each_broker},
};
use crate::{SOON, client::Received};

const RECEIVE_BUFFER_BYTES: u32 = 4 * 1024;
const DATA_BYTES: usize = 4 * 1024;

on_each_broker!(closed_and_whole_again);
on_each_broker!(conflated);

async fn closed_and_whole_again(kind: Kind) {
    let mut scene = start(kind).await;
    let habits = Habits { receive_buffer: Some(RECEIVE_BUFFER_BYTES), ..Habits::default() };
    let mut client = LogicalClient::new("slow", vec!["log:a".to_owned()], scene.clock).habits(habits);
    client.join(scene.node.public()).await;
    let padding = "x".repeat(DATA_BYTES);
    let mut number = 0;
    while scene.node.metrics().await.sum("fanfare_slow_consumers_total") == 0.0 {
        number += 1;
        assert!(number < 200, "a client that does not read is not closed");
        scene.publish("log:a", &format!("n{number}"), &padding).await;
    }
    let lost = loop {
        match client.receive().await {
            Ok(()) => {}
            Err(lost) => break lost,
        }
    };
    assert!(matches!(lost, Lost::Ended(Some(4001))), "{lost}");
    let mark = format!("{MARK}end");
    scene.publish("log:a", &mark, &mark).await;
    client.join(scene.node.public()).await;
    client.receive_until("the mark", |client| client.marks(&mark) == 1).await;
    let summary = scene.check("log", vec![client.into_log()]);
    assert_eq!((summary.recovered, summary.not_recovered), (1, 0), "{summary}");
    assert_eq!(summary.pushed + summary.in_replies, number + 1, "{summary}");
}

async fn conflated(kind: Kind) {
    const KEYS: usize = 5;
    const ROUNDS: usize = 100;
    let mut scene = start(kind).await;
    let handshake = scene.node.client().receive_buffer(RECEIVE_BUFFER_BYTES);
    let mut client = handshake.connect(super::TENANT, "slow", crate::handshake::TokenPlace::Header).await;
    client.command(json!({ "type": "subscribe", "channel": "state:a" })).await;
    let padding = "x".repeat(DATA_BYTES);
    for round in 0..ROUNDS {
        for key in 0..KEYS {
            let fields = json!({ "key": format!("k{key}") });
            scene.publish_with("state:a", &format!("{round}-{key}"), &format!("{round} {padding}"), fields).await;
        }
    }
    scene.publish_with("state:a", "end", "end", json!({ "key": "end" })).await;

    // Nothing closed it, and it gets the newest of every key, in order, some of the others not at all.
    let (mut newest, mut offset, mut count) = ([None; KEYS], 0, 0);
    loop {
        let received = client.next_within(SOON).await.expect("the end comes");
        assert!(!matches!(received, Received::Close(_) | Received::Broken), "{received:?}");
        let Some(push) = received.object() else { continue };
        if push["event"] != "tick" {
            continue;
        }
        let own = push["offset"].as_u64().unwrap_or_else(|| panic!("no offset: {push}"));
        assert!(own > offset, "{own} came behind {offset}");
        (offset, count) = (own, count + 1);
        let id = push["id"].as_str().expect("an id");
        let Some((round, key)) = id.split_once('-') else { break };
        let (round, key): (usize, usize) = (round.parse().expect("a number"), key.parse().expect("a number"));
        assert!(newest[key].is_none_or(|last| last < round), "{round} of {key} came behind {:?}", newest[key]);
        newest[key] = Some(round);
    }
    assert_eq!(newest, [Some(ROUNDS - 1); KEYS]);
    assert!(count < KEYS * ROUNDS / 2, "{count} of {} came to a client that did not read", KEYS * ROUNDS);
    assert_eq!(scene.node.metrics().await.labelled("fanfare_disconnections_total", "code", "slow_consumer"), 0.0);
    println!("{kind:?}: {count} of {} came to a client that did not read", KEYS * ROUNDS);
}

async fn start(kind: Kind) -> super::scene::Scene {
    kind.start_with(|node| {
        node.set("limits.publication_bytes", "8KiB")
            .set("limits.outbox_bytes", "64KiB")
            .set("limits.notsent_lowat_bytes", "8KiB")
            .set("namespaces.state.subscribe", "anyone")
            .set("namespaces.state.slow_consumer", "conflate")
            .history("state", super::SIZE, "10m")
    })
    .await
}
