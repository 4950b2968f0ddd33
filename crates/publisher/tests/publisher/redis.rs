//! Over a real Redis server, received by a plain client of others.

use std::time::Duration;

use fanfare_publisher::{Acceptance, Builder, Publication, PublishError};
use fanfare_testkit::{RedisServer, wait_for};
use fred::{
    clients::Client,
    interfaces::{ClientLike as _, EventInterface as _, PubsubInterface as _},
    types::{Message, config::Config},
};
use tokio::{sync::broadcast, time::timeout};

use crate::SOON;

/// A plain subscription that the server has confirmed.
async fn subscribe(server: &RedisServer, channel: &str) -> (Client, broadcast::Receiver<Message>) {
    let client = fred::types::Builder::from_config(Config::from_url(&server.url()).unwrap()).build().unwrap();
    client.init().await.unwrap();
    let events = client.message_rx();
    client.subscribe(channel).await.unwrap();
    (client, events)
}

async fn next(events: &mut broadcast::Receiver<Message>) -> (String, String) {
    let message = timeout(SOON, events.recv()).await.expect("a message in time").unwrap();
    (message.channel.to_string(), message.value.as_string().unwrap())
}

#[tokio::test]
async fn a_plain_client_gets_the_envelope_on_the_channels_name() {
    let server = RedisServer::start().await;
    let (_client, mut events) = subscribe(&server, "rt:pub:acme:project:clx123").await;
    let publisher = Builder::new().tenant("acme").connect(&server.url()).await.unwrap();
    let publication = Publication::new("project:clx123", "project:funded").raw_data(r#"{"n": 1.50}"#).unwrap();
    publisher.send(publication.id("i").key("k")).await.unwrap();
    let body = r#"{"event":"project:funded","data":{"n": 1.50},"id":"i","key":"k"}"#;
    assert_eq!(next(&mut events).await, ("rt:pub:acme:project:clx123".into(), body.into()));
    publisher.close().await;
    let error = publisher.publish("a", "x", &1).await.unwrap_err();
    assert!(matches!(error, PublishError::Closed { .. }), "{error}");
}

#[tokio::test]
async fn a_batch_arrives_wholly_and_in_order() {
    const EVENTS: u64 = 20;
    let server = RedisServer::start().await;
    let (_client, mut events) = subscribe(&server, "rt:pub:default:a").await;
    let publisher = Builder::new().connect(&server.url()).await.unwrap();
    publisher.batch((0..EVENTS).map(|n| Publication::new("a", "x").data(&n).unwrap())).await.unwrap();
    for n in 0..EVENTS {
        let (_, body) = next(&mut events).await;
        assert_eq!(serde_json::from_str::<serde_json::Value>(&body).unwrap()["data"], n);
    }
    publisher.close().await;
}

#[tokio::test]
async fn what_is_published_while_the_server_restarts_is_accepted_within_the_deadline() {
    let server = RedisServer::start().await;
    let publisher = Builder::new().connect(&server.url()).await.unwrap();
    publisher.publish("a", "x", &"before").await.unwrap();
    server.kill();
    let publishing = tokio::spawn({
        let publisher = publisher.clone();
        async move { publisher.publish("a", "x", &"meanwhile").await }
    });
    server.restart().await;
    timeout(SOON, publishing).await.expect("an answer in time").unwrap().unwrap();
    let (_client, mut events) = subscribe(&server, "rt:pub:default:a").await;
    publisher.publish("a", "x", &"after").await.unwrap();
    wait_for("the event after the restart", SOON, async || next(&mut events).await.1.contains("after").then_some(()))
        .await;
    publisher.close().await;
}

#[tokio::test]
async fn a_server_that_is_away_has_accepted_nothing() {
    let server = RedisServer::start().await;
    let publisher = Builder::new().deadline(Duration::from_secs(2)).connect(&server.url()).await.unwrap();
    publisher.publish("a", "x", &1).await.unwrap();
    server.stop().await;
    // The end of the connection may not be known at the first attempt: then it is not known what became of it either.
    let error = wait_for("an error that is sure", SOON, async || {
        let error = publisher.publish("a", "x", &2).await.unwrap_err();
        (error.acceptance() != Acceptance::Unknown).then_some(error)
    })
    .await;
    assert!(matches!(&error, PublishError::NotAccepted { by: "redis", attempts: 2.., .. }), "{error}");
    let batch = publisher.batch(["a", "a", "b"].map(|channel| Publication::new(channel, "x"))).await.unwrap_err();
    assert_eq!(batch.count(Acceptance::NotAccepted), 3, "{batch}");
}
