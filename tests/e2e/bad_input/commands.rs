//! Messages that are no commands: each is answered, the connection stays, and the configured number of them closes it.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use super::scene::{Scene, done, error, error_push};
use crate::{client::Client, handshake::TokenPlace, node::Node, token::token};

const IDS: &str = "id must be an integer from 0 to 9007199254740991";
const TYPES: &str = "allowed are connect, subscribe, unsubscribe, publish, history, presence, set_presence, signal, refresh, ping, pong";
const NO_OBJECT: &str = "the frame is no JSON object: ";
const MALFORMED: &str = "fanfare_malformed_frames_total";
const BAD_REQUESTS: &str = r#"fanfare_errors_total{code="BAD_REQUEST"}"#;

/// The one answer to a bad message.
enum Answer {
    /// An error reply: id and message.
    Reply(u64, String),
    /// `system:error` with this message.
    Push(String),
    /// The same, where the rest of the message is the JSON parser's.
    PushBegins(&'static str),
    /// An error reply, where the rest of the message is the JSON parser's.
    ReplyBegins(u64, &'static str),
}

fn bad_messages() -> Vec<(String, Answer)> {
    use Answer::{Push, PushBegins, Reply, ReplyBegins};
    let either =
        |name: &str| format!("{name}: either channel (a string) or channels (a list that is not empty) must be given");
    let list = |count: usize| format!("[{}]", vec![r#"{"id":1,"type":"ping"}"#; count].join(","));
    let mut cases = vec![
        (r#"{"id":1}"#, Reply(1, format!("type is missing; {TYPES}"))),
        (r#"{"id":1,"type":null}"#, Reply(1, format!("type is missing; {TYPES}"))),
        (r#"{"id":1,"type":5}"#, Reply(1, "type must be a string, not 5".into())),
        (r#"{"id":1,"type":"dance"}"#, Reply(1, format!("type \"dance\" is not known; {TYPES}"))),
        (r#"{"id":1,"type":"PING"}"#, Reply(1, format!("type \"PING\" is not known; {TYPES}"))),
        (r#"{"type":"ping"}"#, Push(format!("id is missing in \"ping\"; it {}", &IDS[3..]))),
        (r#"{"id":null,"type":"ping"}"#, Push(format!("id is missing in \"ping\"; it {}", &IDS[3..]))),
        ("{}", Push(format!("type is missing; {TYPES}"))),
        ("[]", Push("the frame has 0 commands; allowed are 1 to 1000".into())),
        ("[[]]", Push(format!("{NO_OBJECT}it is an array in an array"))),
        (r#"{"id":1,"type":"subscribe"}"#, Reply(1, either("subscribe"))),
        (r#"{"id":1,"type":"subscribe","channel":"a","channels":["b"]}"#, Reply(1, either("subscribe"))),
        (r#"{"id":1,"type":"subscribe","channels":[]}"#, Reply(1, either("subscribe"))),
        (r#"{"id":1,"type":"unsubscribe"}"#, Reply(1, either("unsubscribe"))),
        (
            r#"{"id":1,"type":"subscribe","channel":5}"#,
            ReplyBegins(1, "subscribe: invalid type: integer `5`, expected a string"),
        ),
        (r#"{"id":1,"type":"subscribe","channels":"a"}"#, ReplyBegins(1, "subscribe: invalid type: string \"a\"")),
        (r#"{"id":1,"type":"publish","channel":"a"}"#, ReplyBegins(1, "publish: missing field `event`")),
        (r#"{"id":1,"type":"publish","event":"a"}"#, ReplyBegins(1, "publish: missing field `channel`")),
        (
            r#"{"id":1,"type":"publish","channel":"board:1","event":"e","echo":"no"}"#,
            ReplyBegins(1, "publish: invalid type"),
        ),
        (
            r#"{"id":1,"type":"publish","channel":"board:1","event":"e","version":-1}"#,
            ReplyBegins(1, "publish: invalid value"),
        ),
        (r#"{"id":1,"type":"refresh"}"#, ReplyBegins(1, "refresh: missing field `token`")),
        (r#"{"id":1,"type":"connect","token":5}"#, ReplyBegins(1, "connect: invalid type")),
        (r#"{"id":1,"id":2,"type":"ping"}"#, PushBegins("the frame is no JSON object: duplicate field `id`")),
        ("[1,2", PushBegins("the frame is not JSON: ")),
    ]
    .into_iter()
    .map(|(text, answer)| (text.to_owned(), answer))
    .collect::<Vec<_>>();
    let no_objects = [
        "",
        " ",
        "{",
        "}",
        "hello",
        "null",
        "true",
        "5",
        "\"x\"",
        "{'id':1}",
        "{\"id\":1,}",
        "{\"id\":1,\"type\":\"ping\"} x",
        "\u{feff}{}",
        "\0",
        "{\"id\":01,\"type\":\"ping\"}",
        "{\"id\":1,\"type\":\"\u{1}\"}",
    ];
    cases.extend(no_objects.map(|text| (text.to_owned(), PushBegins(NO_OBJECT))));
    let ids = ["-1", "1.5", "1.0", "1e3", "9007199254740992", "18446744073709551616", "\"1\"", "{}", "[1]", "true"];
    cases.extend(ids.map(|id| (format!(r#"{{"id":{id},"type":"ping"}}"#), Push(IDS.into()))));
    cases.push((list(1001), Push("the frame has 1001 commands; allowed are 1 to 1000".into())));
    cases.push(("[".repeat(60_000), PushBegins("the frame is not JSON: ")));
    cases.push((r#"{"id":"#.repeat(10_000), PushBegins(NO_OBJECT)));
    // A long text is not quoted back at length.
    let long = "x".repeat(60_000);
    let told = format!("type \"{}\" is not known; {TYPES}", &long[..64]);
    cases.push((format!(r#"{{"id":1,"type":"{long}"}}"#), Reply(1, told)));
    cases
}

#[tokio::test]
async fn a_malformed_message_is_answered_and_the_connection_stays() {
    let mut scene = Scene::start(Node::builder("memory:").set("limits.malformed_frames", 1000)).await;
    let mut client = scene.node().client().connect("acme", "mallory", TokenPlace::Command).await;
    let counts =
        [(MALFORMED, 1), (BAD_REQUESTS, 1), ("fanfare_connections", 0), (r#"fanfare_commands_total{type="ping"}"#, 1)];
    for (text, answer) in bad_messages() {
        let name: String = text.chars().take(80).collect();
        let act = async |_: &Node| {
            client.send(text).await;
            let told = client.message().await;
            client.send(r#"{"id":77,"type":"ping"}"#).await;
            assert_eq!(client.message().await, done(77), "{name}");
            told
        };
        let told = scene.case(&name, &counts, act).await;
        match answer {
            Answer::Reply(id, message) => assert_eq!(told, error(id, "BAD_REQUEST", &message), "{name}"),
            Answer::Push(message) => assert_eq!(told, error_push("BAD_REQUEST", &message), "{name}"),
            Answer::ReplyBegins(id, begin) => {
                let message = message_of(&told["message"], begin);
                assert_eq!(told, error(id, "BAD_REQUEST", message), "{name}");
            }
            Answer::PushBegins(begin) => {
                let message = message_of(&told["data"]["message"], begin);
                assert_eq!(told, error_push("BAD_REQUEST", message), "{name}");
            }
        }
    }

    // In an array one does not disturb the others, and each is answered in its place.
    let array = async |_: &Node| {
        client.send(r#"[{"id":1,"type":"ping"},5,{"id":2},{"id":3,"type":"ping"}]"#).await;
        [client.message().await, client.message().await, client.message().await, client.message().await]
    };
    let [first, second, third, fourth] = scene.case("an array", &[(MALFORMED, 2), (BAD_REQUESTS, 2)], array).await;
    assert_eq!((first, fourth), (done(1), done(3)));
    assert_eq!(second["event"], "system:error");
    assert_eq!(third, error(2, "BAD_REQUEST", &format!("type is missing; {TYPES}")));
}

#[tokio::test]
async fn messagepack_garbage_is_answered_and_the_connection_stays() {
    let mut scene = Scene::start(Node::builder("memory:").set("limits.malformed_frames", 1000)).await;
    let handshake =
        scene.node().client().subprotocols("fanfare.v1.msgpack").query(&format!("token={}", token("acme", "mallory")));
    let mut client = handshake.open_connected().await;
    let deep = [vec![0x81, 0xa1, b'x'], vec![0x91; 5000], vec![0xc0]].concat();
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("nothing", vec![], "the frame is neither a map nor an array of maps"),
        ("a number", vec![0x05], "the frame is neither a map nor an array of maps"),
        ("JSON", br#"{"id":1,"type":"ping"}"#.to_vec(), "the frame is neither a map nor an array of maps"),
        ("a byte that is never used", vec![0x81, 0xa2, b'i', b'd', 0xc1], "MessagePack at byte 4: 0xc1 is never used"),
        ("an array of numbers", vec![0x91, 0x05], "an element of the frame's array is not a map"),
        ("no commands", vec![0x90], "the frame has 0 commands; allowed are 1 to 1000"),
        ("a key that is no string", vec![0x81, 0x01, 0x01], ""),
        ("an end in the middle", vec![0x82, 0xa2, b'i', b'd', 0x01, 0xa4, b't'], ""),
        ("a map of 4 billion", vec![0xdf, 0xff, 0xff, 0xff, 0xff], ""),
        ("an array of 4 billion", vec![0xdd, 0xff, 0xff, 0xff, 0xff], ""),
        ("5,000 levels", deep, ""),
        ("bytes behind the map", vec![0x80, 0x80], ""),
    ];
    for (name, bytes, message) in cases {
        let act = async |_: &Node| answer_in_msgpack(&mut client, bytes).await;
        let told = scene.case(name, &[(MALFORMED, 1), (BAD_REQUESTS, 1), ("fanfare_connections", 0)], act).await;
        let message = match message {
            "" => message_of(&told["data"]["message"], "MessagePack at byte "),
            exact => exact,
        };
        assert_eq!(told, error_push("BAD_REQUEST", message), "{name}");
    }
    // Random bytes: whatever they happen to be, each has an answer, and a ping behind them has its own.
    let mut random = 0x9e37_79b9_7f4a_7c15_u64;
    let act = async |_: &Node| {
        for round in 0..300 {
            let bytes: Vec<u8> = (0..round % 60 + 1).map(|_| next_random(&mut random)).collect();
            answer_in_msgpack(&mut client, bytes).await;
        }
    };
    scene.case("random bytes", &[("fanfare_connections", 0)], act).await;
}

/// Sends bytes and a ping behind them; gives what came before the answer to the ping.
async fn answer_in_msgpack(client: &mut Client, bytes: Vec<u8>) -> Value {
    client.send_message(Message::binary(bytes)).await;
    let ping = b"\x82\xa2id\xcd\x03\xe7\xa4type\xa4ping";
    client.send_message(Message::binary(ping.to_vec())).await;
    let told = client.message().await;
    assert_eq!(client.message().await, done(999));
    told
}

#[tokio::test]
async fn the_configured_number_of_malformed_messages_closes() {
    let mut scene = Scene::start(Node::builder("memory:").set("limits.malformed_frames", 100)).await;
    let counts = [
        (MALFORMED, 100),
        (BAD_REQUESTS, 100),
        (r#"fanfare_disconnections_total{code="bad_request"}"#, 1),
        ("fanfare_connections", 0),
    ];
    let frames = async |node: &Node| {
        let mut client = node.client().open().await;
        // The node may close before all of it is sent.
        let bytes = crate::raw::text("{").repeat(1000);
        let mut raw = crate::raw::Raw::open(node.public(), "/ws", "").await;
        raw.write(&bytes).await;
        for _ in 0..100 {
            assert!(raw.text().await.starts_with(r#"{"event":"system:error","data":{"code":"BAD_REQUEST""#));
        }
        assert_eq!(raw.closed().await, (4503, "too many malformed commands".to_owned()));
        // It is one client's own count.
        client.send(r#"{"type":"pong"}"#).await;
        assert!(client.next_within(std::time::Duration::from_millis(50)).await.is_none());
    };
    scene.case("1,000 frames", &counts, frames).await;

    let array = async |node: &Node| {
        let mut client = node.client().connect("acme", "mallory", TokenPlace::Command).await;
        let bad = vec!["5"; 900].join(",");
        client.send(format!(r#"[{bad},{{"id":9,"type":"publish","channel":"board:calm","event":"intrusion"}}]"#)).await;
        client.closed(4503).await
    };
    // What was read already of the same message is counted as what it is.
    let counts =
        [(BAD_REQUESTS, 100), (r#"fanfare_disconnections_total{code="bad_request"}"#, 1), ("fanfare_connections", 0)];
    let told = scene.case("an array of 900", &counts, array).await;
    assert_eq!(told.len(), 100);
    assert!(told.iter().all(|push| push["data"]["code"] == "BAD_REQUEST"));

    // 99 are borne.
    let act = async |node: &Node| {
        let mut client = node.client().connect("acme", "mallory", TokenPlace::Command).await;
        for _ in 0..99 {
            client.send("{").await;
        }
        client.command(json!({ "type": "ping" })).await
    };
    assert_eq!(scene.case("99", &[(MALFORMED, 99)], act).await, done(2));
}

fn message_of<'a>(told: &'a Value, begin: &str) -> &'a str {
    let message = told.as_str().unwrap_or_else(|| panic!("no message: {told}"));
    assert!(message.starts_with(begin), "{message}");
    assert!(message.len() <= 512, "{message}");
    message
}

/// xorshift64: the same bytes in every run.
fn next_random(state: &mut u64) -> u8 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state >> 32) as u8
}
