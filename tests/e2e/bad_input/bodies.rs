//! What services put on a subject that is no envelope, and subjects that are no channels: never delivered, counted by
//! reason, and the next good one is.

use async_nats::HeaderMap;
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::scene::Scene;
use crate::{broker::Broker, client::Client, handshake::TokenPlace, node::Node, publication::Publication};

/// Bytes of a publication on these nodes.
const PUBLICATION_BYTES: usize = 8192;

/// Bodies with the reason of their refusal.
fn bad_bodies() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let long = |field: &str, bytes: usize| format!(r#"{{"event":"e","{field}":"{}"}}"#, "x".repeat(bytes)).into_bytes();
    let sessions = vec![r#""5f1d7a84c0e94b6fa2d3e81b9c470516""#; 65].join(",");
    let text = |text: &str| text.as_bytes().to_vec();
    vec![
        ("nothing", text(""), "not_an_envelope"),
        ("no JSON", text("hello"), "not_an_envelope"),
        ("a number", text("5"), "not_an_envelope"),
        ("an array", text(r#"["e",{}]"#), "not_an_envelope"),
        ("no event", text(r#"{"data":{}}"#), "not_an_envelope"),
        ("an event that is no string", text(r#"{"event":5}"#), "not_an_envelope"),
        ("two events", text(r#"{"event":"a","event":"b"}"#), "not_an_envelope"),
        ("half an object", text(r#"{"event":"e","data":{"#), "not_an_envelope"),
        ("two objects", text(r#"{"event":"e"}{"event":"e"}"#), "not_an_envelope"),
        ("bytes that are not UTF-8", b"{\"event\":\"\xff\xfe\"}".to_vec(), "not_an_envelope"),
        ("data that is not UTF-8", b"{\"event\":\"e\",\"data\":\"\xff\xfe\"}".to_vec(), "not_an_envelope"),
        ("a byte order mark", text("\u{feff}{\"event\":\"e\"}"), "not_an_envelope"),
        ("a deep nothing", b"[".repeat(4000), "not_an_envelope"),
        ("a timestamp of another kind", text(r#"{"event":"e","timestamp":"now"}"#), "not_an_envelope"),
        ("an empty event", text(r#"{"event":""}"#), "field_length"),
        ("an event of 256 bytes", format!(r#"{{"event":"{}"}}"#, "x".repeat(256)).into_bytes(), "field_length"),
        ("an id of 256 bytes", long("id", 256), "field_length"),
        ("a key of 256 bytes", long("key", 256), "field_length"),
        ("a traceparent of 256 bytes", long("traceparent", 256), "field_length"),
        ("an event of the node's", text(r#"{"event":"system:connected","data":{}}"#), "reserved_event"),
        ("the same in escapes", text(r#"{"event":"\u0073ystem:draining"}"#), "reserved_event"),
        ("two payloads", text(r#"{"event":"e","data":1,"data_base64":"AA=="}"#), "two_payloads"),
        ("no base64", text(r#"{"event":"e","data_base64":"?"}"#), "base64"),
        ("65 excluded", format!(r#"{{"event":"e","exclude":[{sessions}]}}"#).into_bytes(), "too_many_excluded"),
        ("one byte too many", sized(PUBLICATION_BYTES + 1), "too_large"),
        ("a megabyte", sized(1 << 20), "too_large"),
    ]
}

/// An envelope of so many bytes.
fn sized(bytes: usize) -> Vec<u8> {
    let frame = r#"{"event":"e","data":""}"#.len();
    format!(r#"{{"event":"e","data":"{}"}}"#, "x".repeat(bytes - frame)).into_bytes()
}

#[tokio::test]
async fn a_body_that_is_no_envelope_is_refused_on_nats() {
    let broker = Broker::nats().await;
    let Broker::Nats { client, .. } = &broker else { unreachable!("it was started as such") };
    let mut scene = Scene::start(node(&broker)).await;
    bodies(&mut scene, &broker, ".").await;

    // A header names the event; then the body is the data, and has to be what the header says.
    let mut reader = reader(&scene).await;
    let refused = |reason: &str| format!("fanfare_publications_refused_total{{reason=\"{reason}\"}}");
    for (name, event, body, reason) in [
        ("data that is no JSON", "e", &b"hello"[..], "not_json"),
        ("data that is not UTF-8", "e", b"\xff", "not_json"),
        ("a reserved event in the header", "system:connected", b"{}", "reserved_event"),
    ] {
        let act = async |_: &Node| {
            let mut headers = HeaderMap::new();
            headers.insert("Fanfare-Event", event);
            let subject = "rt.pub.acme.project.bodies";
            client.publish_with_headers(subject, headers, body.to_vec().into()).await.expect("it is connected");
            client.flush().await.expect("the server is there");
            broker.publish("acme", "project:bodies", r#"{"event":"good","data":1}"#).await;
            next(&mut reader).await.event
        };
        assert_eq!(scene.case(name, &[(&refused(reason), 1)], act).await, "good", "{name}");
    }
}

#[tokio::test]
async fn a_body_that_is_no_envelope_is_refused_on_redis() {
    let broker = Broker::redis().await;
    let mut scene = Scene::start(node(&broker)).await;
    bodies(&mut scene, &broker, ":").await;
}

fn node(broker: &Broker) -> crate::node::NodeBuilder {
    Node::builder(&broker.url()).set("limits.publication_bytes", PUBLICATION_BYTES as i64)
}

/// A client that is subscribed to the channel of the bad bodies, and to all that a bad subject could be taken for.
async fn reader(scene: &Scene) -> Client {
    let mut client = scene.node().client().connect("acme", "reader", TokenPlace::Command).await;
    client.subscribe("project:bodies").await;
    client.subscribe("project:**").await;
    client
}

/// The next publication but those that keep the others company.
async fn next(reader: &mut Client) -> Publication {
    loop {
        let publication = reader.publication().await;
        if publication.event != "calm" {
            return publication;
        }
    }
}

async fn bodies(scene: &mut Scene, broker: &Broker, separator: &str) {
    let mut reader = reader(scene).await;
    let channel = ["rt", "pub", "acme", "project", "bodies"].join(separator);
    for (name, body, reason) in bad_bodies() {
        let refused = format!("fanfare_publications_refused_total{{reason=\"{reason}\"}}");
        let act = async |_: &Node| {
            publish_bytes(broker, &channel, &body).await;
            broker.publish("acme", "project:bodies", r#"{"event":"good","data":1}"#).await;
            next(&mut reader).await.event
        };
        // The first subscription is enough to refuse it: it is counted once.
        assert_eq!(scene.case(name, &[(&refused, 1)], act).await, "good", "{name}");
    }
    // The largest that is allowed is delivered.
    publish_bytes(broker, &channel, &sized(PUBLICATION_BYTES)).await;
    assert_eq!(next(&mut reader).await.data().len(), PUBLICATION_BYTES - r#"{"event":"e","data":}"#.len());

    // Names that are no channel's, each of which a pattern's subscription at the broker may bring.
    let good = br#"{"event":"bad-name"}"#;
    let name = |tenant: &str, rest: &[&str]| [&["rt", "pub", tenant][..], rest].concat().join(separator);
    let long = "x".repeat(65);
    let names = [
        name("acme", &["project", "a$b"]),
        name("acme", &["project", "ü"]),
        name("acme", &["project", &long]),
        name("acme", &["project", "1", "2", "3", "4", "5", "6", "7", "8"]),
        name("acme", &["project", if separator == "." { "a:b" } else { "a.b" }]),
        name("acme", &["project"]),
        name("acme", &["projects", "bodies"]),
        name("initech", &["project", "bodies"]),
        name("ac$me", &["project", "bodies"]),
        ["rt", "live", "acme", "project", "bodies"].join(separator),
        ["other", "pub", "acme", "project", "bodies"].join(separator),
    ];
    let act = async |_: &Node| {
        for name in &names {
            publish_bytes(broker, name, good).await;
            broker.publish("acme", "project:other", r#"{"event":"good","data":1}"#).await;
            let publication = next(&mut reader).await;
            assert_eq!((publication.event.as_str(), publication.channel.as_str()), ("good", "project:other"), "{name}");
        }
    };
    // The first five come by the patterns; the others are nobody's, and the broker keeps them to itself.
    let refused = r#"fanfare_publications_refused_total{reason="no_channel"}"#;
    scene.case("names that are no channel's", &[(refused, 5)], act).await;
}

/// Publishes any bytes under any name.
async fn publish_bytes(broker: &Broker, name: &str, body: &[u8]) {
    match broker {
        Broker::Nats { client, .. } => {
            client.publish(name.to_owned(), body.to_vec().into()).await.expect("it is connected");
            // Behind the flush the server has it, so that what another connection publishes comes later.
            client.flush().await.expect("the server is there");
        }
        Broker::Redis { server } => {
            let mut stream = TcpStream::connect(server.address()).await.expect("the server is there");
            let mut command =
                format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{name}\r\n${}\r\n", name.len(), body.len()).into_bytes();
            command.extend_from_slice(body);
            command.extend_from_slice(b"\r\n");
            stream.write_all(&command).await.expect("the server takes it");
            let mut reply = [0];
            stream.read_exact(&mut reply).map(|read| read.expect("an answer")).await;
            assert_eq!(reply, *b":");
        }
    }
}
