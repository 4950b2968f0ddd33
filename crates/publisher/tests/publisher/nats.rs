//! Over a real NATS server, received by a plain client of others.

use std::time::Duration;

use fanfare_publisher::{Acceptance, Builder, ConnectError, Publication, PublishError, Publisher};
use fanfare_testkit::{NatsServer, wait_for};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use crate::SOON;

/// A plain subscription that the server has confirmed: it answered a request that was written behind it. A flush
/// of the client only writes.
pub(crate) async fn subscribe(server: &NatsServer, subject: &str) -> (async_nats::Client, async_nats::Subscriber) {
    let client = async_nats::connect(server.url()).await.unwrap();
    let subscriber = client.subscribe(subject.to_owned()).await.unwrap();
    let answer = client.request("nobody.answers", "".into()).await;
    assert_eq!(answer.unwrap_err().kind(), async_nats::RequestErrorKind::NoResponders);
    (client, subscriber)
}

async fn next(subscriber: &mut async_nats::Subscriber) -> (String, String) {
    let message = timeout(SOON, subscriber.next()).await.expect("a message in time").unwrap();
    (message.subject.to_string(), String::from_utf8(message.payload.to_vec()).unwrap())
}

#[tokio::test]
async fn a_plain_client_gets_the_envelope_on_the_channels_subject() {
    let server = NatsServer::start().await;
    let (_client, mut events) = subscribe(&server, "rt.pub.>").await;
    let publisher = Builder::new().tenant("acme").connect(&server.url()).await.unwrap();
    let publication = Publication::new("project:clx123", "project:funded").raw_data(r#"{"n": 1.50}"#).unwrap();
    publisher.send(publication.id("i").key("k").version(3).timestamp(5).exclude("s")).await.unwrap();
    let body =
        r#"{"event":"project:funded","data":{"n": 1.50},"timestamp":5,"id":"i","key":"k","version":3,"exclude":["s"]}"#;
    assert_eq!(next(&mut events).await, ("rt.pub.acme.project.clx123".into(), body.into()));
    let other = Publication::new("a", "x").tenant("other");
    let id = publisher.send(other).await.unwrap().id;
    assert_eq!(next(&mut events).await, ("rt.pub.other.a".into(), format!(r#"{{"event":"x","id":"{id}"}}"#)));
    publisher.close().await;
    let error = publisher.publish("a", "x", &1).await.unwrap_err();
    assert!(matches!(error, PublishError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_batch_arrives_wholly_and_in_order_per_channel() {
    const EVENTS: usize = 2_000;
    let server = NatsServer::start().await;
    let (_client, mut events) = subscribe(&server, "two.pub.default.*").await;
    let publisher = Builder::new().prefix("two").connect(&server.url()).await.unwrap();
    let batch = (0..EVENTS).map(|n| Publication::new(["a", "b", "c"][n % 3], "x").data(&n).unwrap());
    assert_eq!(publisher.batch(batch).await.unwrap().len(), EVENTS);
    let mut last = [None; 3];
    for _ in 0..EVENTS {
        let (subject, body) = next(&mut events).await;
        let n = serde_json::from_str::<serde_json::Value>(&body).unwrap()["data"].as_u64().unwrap();
        let channel = n as usize % 3;
        assert_eq!(subject, format!("two.pub.default.{}", ["a", "b", "c"][channel]));
        assert!(last[channel] < Some(n), "{n} came after {:?}", last[channel]);
        last[channel] = Some(n);
    }
    publisher.close().await;
}

#[tokio::test]
async fn what_is_published_while_the_server_restarts_is_accepted_within_the_deadline() {
    let server = NatsServer::start().await;
    let publisher = Builder::new().connect(&server.url()).await.unwrap();
    publisher.publish("a", "x", &"before").await.unwrap();
    server.kill();
    let publishing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish("a", "x", &"meanwhile").await }
    });
    server.restart().await;
    timeout(SOON, publishing).await.expect("an answer in time").unwrap().unwrap();
    let (_client, mut events) = subscribe(&server, "rt.pub.default.a").await;
    publisher.publish("a", "x", &"after").await.unwrap();
    wait_for("the event after the restart", SOON, async || next(&mut events).await.1.contains("after").then_some(()))
        .await;
    publisher.close().await;
}

#[tokio::test]
async fn a_server_that_is_away_has_accepted_nothing() {
    let server = NatsServer::start().await;
    let publisher = Builder::new().deadline(Duration::from_secs(2)).connect(&server.url()).await.unwrap();
    publisher.publish("a", "x", &1).await.unwrap();
    server.stop().await;
    // The end of the connection may not be known at the first attempt: it is written then, or not known what became of it.
    let error = wait_for("an error that is sure", SOON, async || {
        let error = publisher.publish("a", "x", &2).await.err()?;
        (error.acceptance() != Acceptance::Unknown).then_some(error)
    })
    .await;
    let PublishError::NotAccepted { by, attempts, .. } = &error else { panic!("{error}") };
    assert_eq!(*by, "nats");
    assert!(*attempts > 1, "{error}");
    let batch = publisher.batch(["a", "a", "b"].map(|channel| Publication::new(channel, "x"))).await.unwrap_err();
    assert_eq!(batch.count(Acceptance::NotAccepted), 3, "{batch}");
}

#[tokio::test]
async fn a_body_over_the_servers_limit_is_refused_once() {
    let server = NatsServer::builder().line("max_payload: 1000").start().await;
    let publisher = Publisher::connect(&server.url()).await.unwrap();
    let error = publisher.publish("a", "x", &"y".repeat(2_000)).await.unwrap_err();
    assert!(matches!(&error, PublishError::Refused { by: "nats", .. }), "{error}");
    publisher.publish("a", "x", &"y").await.unwrap();
    publisher.close().await;
}

#[tokio::test]
async fn who_may_not_connect_is_told_and_no_secret_is_shown() {
    let server = NatsServer::builder().password("alice", "secret").start().await;
    let publisher = Publisher::connect(&server.url()).await.unwrap();
    publisher.publish("a", "x", &1).await.unwrap();
    publisher.close().await;
    let wrong = format!("nats://alice:hunter2@{}", server.address());
    let error = Builder::new().deadline(Duration::from_secs(2)).connect(&wrong).await.unwrap_err();
    assert!(matches!(error, ConnectError::Refused { .. } | ConnectError::Unreachable { .. }), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}
