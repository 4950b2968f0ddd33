//! Positions from which not everything can be had any more: the client is told so, gets no part for the whole, and goes on.

use fanfare_checker::Position;
use fanfare_testkit::wait_for;
use serde_json::{Value, json};

use super::{
    NodeHistory as _,
    scene::{Kind, Scene, ids, ids_in, on_each_broker, since},
};
use crate::SOON;

/// Retained of a channel.
const SIZE: usize = 5;
/// How long, where age is what counts.
const TTL: &str = "2s";

on_each_broker!(trimmed_by_size);
on_each_broker!(trimmed_by_age);
on_each_broker!(positions_of_other_numberings);

async fn trimmed_by_size(kind: Kind) {
    let mut scene = start(kind).await;
    let begin = scene.subscribe("few:a", json!({})).await;
    let begin = position(&begin);
    let positions = scene.publish_numbers("few:a", 1, 2 * SIZE).await;
    let last = &positions[2 * SIZE - 1];

    // The first that is missing is gone, or all of them are.
    for gone in [&begin, &positions[0], &positions[SIZE - 2]] {
        let reply = scene.subscribe("few:a", json!({ "since": since(gone) })).await;
        assert_not_recovered(&reply, last, &[]);
    }
    // All are there, and so is the one that the client had last.
    let reply = scene.subscribe("few:a", json!({ "since": since(&positions[SIZE]) })).await;
    assert_recovered(&reply, last, &ids(SIZE + 2, 2 * SIZE));
    let reply = scene.subscribe("few:a", json!({ "since": since(last) })).await;
    assert_recovered(&reply, last, &[]);
    // Whoever asks for the newest as well gets them, and knows that they are not all.
    let reply = scene.subscribe("few:a", json!({ "since": since(&begin), "rewind": 2 })).await;
    assert_not_recovered(&reply, last, &ids(2 * SIZE - 1, 2 * SIZE));
    // History says the same.
    let mut client = scene.client().await;
    for (from, whole, expected) in
        [(&positions[0], false, ids(SIZE + 1, 2 * SIZE)), (&positions[SIZE], true, ids(SIZE + 2, 2 * SIZE))]
    {
        let reply =
            client.command(json!({ "type": "history", "channel": "few:a", "since": since(from), "limit": 100 })).await;
        let result = &reply["result"];
        assert_eq!((result["recovered"].as_bool(), ids_in(result)), (Some(whole), expected), "{reply}");
    }
    goes_on(&mut scene, "few:a", &begin).await;
}

async fn trimmed_by_age(kind: Kind) {
    let mut scene = start(kind).await;
    let begin = position(&scene.subscribe("brief:a", json!({})).await);
    let positions = scene.publish_numbers("brief:a", 1, 3).await;
    // Until the last one is gone, it comes; a node may have it a little longer than the broker.
    wait_for("age to take all", SOON, async || {
        let reply = scene.subscribe("brief:a", json!({ "since": since(&positions[1]) })).await;
        if reply["recovered"] == true {
            assert_recovered(&reply, &positions[2], &ids(3, 3));
            return None;
        }
        Some(())
    })
    .await;
    let mut client = scene.client().await;
    let reply = client.command(json!({ "type": "history", "channel": "brief:a", "limit": 10 })).await;
    assert_eq!(ids_in(&reply["result"]), ids(1, 0), "{reply}");
    for gone in [&begin, &positions[0], &positions[1]] {
        let reply = scene.subscribe("brief:a", json!({ "since": since(gone) })).await;
        assert_eq!((reply["recovered"].as_bool(), ids_in(&reply)), (Some(false), vec![]), "{reply}");
        assert!(position(&reply).offset >= positions[2].offset, "{reply}");
    }
    // Whoever had the last one misses nothing.
    let reply = scene.subscribe("brief:a", json!({ "since": since(&positions[2]) })).await;
    assert_eq!((reply["recovered"].as_bool(), ids_in(&reply)), (Some(true), vec![]), "{reply}");
    goes_on(&mut scene, "brief:a", &begin).await;
}

async fn positions_of_other_numberings(kind: Kind) {
    let mut scene = start(kind).await;
    scene.subscribe("few:a", json!({})).await;
    let positions = scene.publish_numbers("few:a", 1, 3).await;
    let last = &positions[2];
    let elsewhere = Position::new(positions[0].offset, "another");
    let beyond = Position::new(last.offset + 1_000, &last.epoch);
    for from in [&elsewhere, &beyond] {
        let reply = scene.subscribe("few:a", json!({ "since": since(from) })).await;
        assert_not_recovered(&reply, last, &[]);
        goes_on(&mut scene, "few:b", from).await;
        let mut client = scene.client().await;
        let reply =
            client.command(json!({ "type": "history", "channel": "few:a", "since": since(from), "limit": 9 })).await;
        assert_eq!(reply["result"]["recovered"].as_bool(), Some(false), "{reply}");
        assert_eq!(reply["result"]["position"], since(last), "{reply}");
    }
    let reply = scene.subscribe("few:a", json!({ "since": since(&positions[0]) })).await;
    assert_recovered(&reply, last, &ids(2, 3));
}

async fn start(kind: Kind) -> Scene {
    kind.start_with(|node| {
        node.history("few", SIZE, "10m")
            .history("brief", 1_000, TTL)
            .set("namespaces.few.subscribe", "anyone")
            .set("namespaces.brief.subscribe", "anyone")
    })
    .await
}

/// A client that is not recovered continues from the position it is given: what comes then is delivered, and the next time
/// it is recovered.
async fn goes_on(scene: &mut Scene, channel: &str, from: &Position) {
    let mut client = scene.client().await;
    let command = json!({ "type": "subscribe", "channel": channel, "since": since(from) });
    let reply = client.command(command).await;
    assert_eq!(reply["result"]["recovered"].as_bool(), Some(false), "{reply}");
    let stands = position(&reply["result"]);
    let number = 1_000_000 + stands.offset as usize;
    let next = scene.publish_numbers(channel, number, number).await;
    let push = client.message().await;
    assert_eq!(
        (push["id"].as_str(), &push["offset"]),
        (Some(&*format!("id-{number}")), &json!(next[0].offset)),
        "{push}"
    );
    let reply = scene.subscribe(channel, json!({ "since": since(&stands) })).await;
    assert_recovered(&reply, &next[0], &ids(number, number));
}

impl Scene {
    /// The result of a subscribe, by a client of its own.
    async fn subscribe(&self, channel: &str, fields: Value) -> Value {
        let mut command = json!({ "type": "subscribe", "channel": channel });
        command.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
        let mut reply = self.client().await.command(command).await;
        assert!(reply["result"].is_object(), "{reply}");
        reply["result"].take()
    }
}

fn position(result: &Value) -> Position {
    super::logical_client::position_in(&result["position"]).unwrap_or_else(|| panic!("no position: {result}"))
}

#[track_caller]
fn assert_recovered(result: &Value, stands: &Position, expected: &[String]) {
    assert_eq!((result["recovered"].as_bool(), ids_in(result)), (Some(true), expected.to_vec()), "{result}");
    assert_eq!(position(result), *stands, "{result}");
}

#[track_caller]
fn assert_not_recovered(result: &Value, stands: &Position, expected: &[String]) {
    assert_eq!((result["recovered"].as_bool(), ids_in(result)), (Some(false), expected.to_vec()), "{result}");
    assert_eq!(position(result), *stands, "{result}");
}
