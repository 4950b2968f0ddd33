//! Clients that are gone in the middle of everything: nothing of them stays behind.

use fanfare_testkit::wait_until;
use serde_json::json;

use super::scene::Scene;
use crate::raw::{Length, Raw, frame, header, request, text};
use crate::{SOON, node::Node, token::token};

/// What has to be as before.
const NOTHING_STAYS: [(&str, u32); 3] =
    [("fanfare_connections", 0), ("fanfare_sessions", 0), ("fanfare_subscriptions", 0)];

/// All that a client sends in its life: handshake, commands, and a message that is not complete.
fn life() -> Vec<u8> {
    let connect = json!({ "id": 1, "type": "connect", "token": token("acme", "mallory") });
    let subscribe = json!({ "id": 2, "type": "subscribe", "channels": ["project:calm", "project:**", "board:calm"] });
    [
        request("/ws", "Sec-WebSocket-Extensions: permessage-deflate\r\n").into_bytes(),
        text(&connect.to_string()),
        text(&subscribe.to_string()),
        frame(0x01, b"begun, and "),
        frame(0x89, b"a ping"),
        frame(0x80, &[b'x'; 60_000])[..1000].to_vec(),
    ]
    .concat()
}

#[tokio::test]
async fn a_socket_that_is_cut_anywhere_leaves_nothing_behind() {
    let mut scene = Scene::start(Node::builder("memory:")).await;
    let life = life();
    // Once the node has answered, so that it surely was a session with subscriptions.
    let act = async |node: &Node| {
        for reset in [true, false] {
            let mut raw = Raw::connect(node.public()).await;
            raw.write(&life).await;
            assert_eq!(raw.answer().await.status, 101);
            for _ in ["connected", "subscribed", "pong"] {
                assert!(raw.frame().await.is_some());
            }
            if reset {
                raw.reset();
            }
        }
    };
    let gone = (r#"fanfare_disconnections_total{code="gone"}"#, 2);
    scene.case("after the answers", &[&NOTHING_STAYS[..], &[gone]].concat(), act).await;

    let step = life.len() / 40;
    for how in ["FIN", "RST"] {
        let act = async |node: &Node| {
            let before = open_files(node);
            for end in (0..life.len()).step_by(step).chain([life.len()]) {
                let mut raw = Raw::connect(node.public()).await;
                raw.write(&life[..end]).await;
                match how {
                    "RST" => raw.reset(),
                    _ => drop(raw),
                }
            }
            // Sockets are accepted in their order: when this one is, all of them were.
            drop(Raw::open(node.public(), "/ws", "").await);
            wait_until("all sockets' end", SOON, || open_files(node) <= before).await;
        };
        scene.case(how, &NOTHING_STAYS, act).await;
    }
}

/// How many files and sockets the node has open.
fn open_files(node: &Node) -> usize {
    let directory = format!("/proc/{}/fd", node.process().id());
    std::fs::read_dir(directory).expect("the node runs").count()
}

#[tokio::test]
async fn a_message_that_never_ends_costs_what_has_arrived_and_is_closed_in_time() {
    const STALLED: usize = 200;
    let mut scene = Scene::start(Node::builder("memory:").set("timeouts.connect", "1s")).await;
    let before = scene.node().process().resident_bytes();
    let act = async |node: &Node| {
        let mut stalled = Vec::new();
        for _ in 0..STALLED {
            let mut raw = Raw::open(node.public(), "/ws", "").await;
            raw.write(header(0x81, Length::Eight(65_536))).await;
            stalled.push(raw);
        }
        let grown = node.process().resident_bytes().saturating_sub(before);
        for mut raw in stalled {
            assert_eq!(raw.closed().await, (4004, "not connected in time".to_owned()));
        }
        grown
    };
    let closed = (r#"fanfare_disconnections_total{code="connect_timeout"}"#, STALLED as u32);
    let grown = scene.case("200 stalls", &[("fanfare_connections", 0), closed], act).await;
    // What they announced is 13 MB.
    assert!(grown < 8 << 20, "{grown} bytes more");
}
