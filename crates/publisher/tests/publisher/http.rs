//! Over the HTTP API of a node.

use std::time::{Duration, Instant};

use fanfare_publisher::{Acceptance, Builder, Publication, PublishError, Publisher};
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::node::{Answer, FakeNode, error};

async fn publisher(node: &FakeNode) -> Publisher {
    Builder::new().tenant("acme").api_key("k1").connect(&node.url()).await.unwrap()
}

fn event(id: &str) -> Publication {
    Publication::new("project:a", "x").id(id)
}

#[tokio::test]
async fn a_publication_is_one_request_with_key_and_all_fields() {
    let node = FakeNode::start([]).await;
    let publisher = publisher(&node).await;
    let published = publisher.publish_raw("project:a", "project:funded", r#"{"n": 1.50}"#).await.unwrap();
    let requests = node.requests();
    assert_eq!(requests.len(), 1);
    let request = &requests[0];
    assert_eq!(request.path, "/api/publish");
    assert_eq!((request.api_key.as_deref(), request.content_type.as_deref()), (Some("k1"), Some("application/json")));
    assert_eq!(
        request.body,
        format!(
            r#"{{"tenant":"acme","channel":"project:a","event":"project:funded","data":{{"n": 1.50}},"id":"{}"}}"#,
            published.id
        )
    );
    publisher.close().await;
}

#[tokio::test]
async fn what_may_succeed_is_sent_again_with_the_same_id() {
    let busy = Answer::Say(429, error("RATE_LIMIT", true));
    let away = Answer::Say(503, error("UNAVAILABLE", true));
    let node = FakeNode::start([busy, away, Answer::Say(500, json!("a page of a proxy"))]).await;
    let published = publisher(&node).await.publish("project:a", "x", &1).await.unwrap();
    let ids: Vec<Value> = node.requests().iter().map(|request| request.json()["id"].clone()).collect();
    assert_eq!(ids, vec![json!(published.id); 4]);
}

#[tokio::test]
async fn what_is_refused_is_not_sent_again() {
    for (status, code) in [(400, "BAD_REQUEST"), (401, "UNAUTHORIZED"), (413, "LIMIT_EXCEEDED")] {
        let node = FakeNode::start([Answer::Say(status, error(code, false))]).await;
        let failed = publisher(&node).await.send(event("i")).await.unwrap_err();
        assert_eq!(failed.acceptance(), Acceptance::Refused);
        let text = format!("publication i on project:a was refused by http: {code}: because of {code}");
        assert_eq!(failed.to_string(), text);
        assert_eq!(node.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let node = FakeNode::start([Answer::Say(307, json!({}))]).await;
    let failed = publisher(&node).await.send(event("i")).await.unwrap_err();
    assert!(matches!(&failed, PublishError::Refused { reason, .. } if reason.contains("307")), "{failed}");
}

#[tokio::test]
async fn retry_after_is_kept() {
    let node = FakeNode::start([Answer::RetryAfter(503, 1)]).await;
    let began = Instant::now();
    publisher(&node).await.send(event("i")).await.unwrap();
    assert!(began.elapsed() >= Duration::from_secs(1), "{:?}", began.elapsed());
    assert_eq!(node.requests().len(), 2);
}

#[tokio::test]
async fn an_attempt_without_an_answer_is_made_again_and_leaves_the_outcome_unknown() {
    let node = FakeNode::start([Answer::Silence, Answer::Say(503, error("UNAVAILABLE", true)), Answer::Silence]).await;
    let builder = Builder::new().attempt_timeout(Duration::from_millis(100)).deadline(Duration::from_millis(700));
    let publisher = builder.clone().connect(&node.url()).await.unwrap();
    publisher.send(event("i")).await.unwrap();
    assert_eq!(node.requests().len(), 4);

    let silent = FakeNode::start((0..100).map(|_| Answer::Silence)).await;
    let publisher = builder.connect(&silent.url()).await.unwrap();
    let failed = publisher.send(event("i")).await.unwrap_err();
    assert_eq!(failed.acceptance(), Acceptance::Unknown, "{failed}");
    assert!(silent.requests().len() > 1);
}

#[tokio::test]
async fn a_node_that_is_away_has_accepted_nothing() {
    // A port that was free a moment ago.
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let publisher = Builder::new().deadline(Duration::from_millis(500)).connect(&url).await.unwrap();
    let failed = publisher.send(event("i")).await.unwrap_err();
    let PublishError::NotAccepted { attempts, reason, .. } = &failed else { panic!("{failed}") };
    assert!(*attempts > 1 && reason.contains("no connection"), "{failed}");
}

#[tokio::test]
async fn of_a_batch_only_what_may_succeed_is_sent_again() {
    let results = json!({ "results": [{}, error("FORBIDDEN", false), error("UNAVAILABLE", true), {}] });
    let node = FakeNode::start([Answer::Say(200, results)]).await;
    let batch = ["yes", "no", "later", "too"].map(event);
    let failed = publisher(&node).await.batch(batch).await.unwrap_err();
    assert_eq!((failed.accepted(), failed.count(Acceptance::Refused)), (3, 1));
    assert_eq!(failed.outcomes()[1].as_ref().unwrap_err().id(), Some("no"));
    let requests = node.requests();
    let first: Vec<Value> =
        requests[0].json()["publications"].as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
    assert_eq!(first, ["yes", "no", "later", "too"]);
    // What is left is one, and goes as one.
    assert_eq!((requests[1].path.as_str(), &requests[1].json()["id"]), ("/api/publish", &json!("later")));
    assert_eq!((requests[0].path.as_str(), requests.len()), ("/api/batch", 2));
}

#[tokio::test]
async fn a_batch_that_is_refused_as_a_whole_is_refused_for_each() {
    let node = FakeNode::start([Answer::Say(401, error("UNAUTHORIZED", false))]).await;
    let failed = publisher(&node).await.batch(["a", "b"].map(event)).await.unwrap_err();
    assert_eq!(failed.count(Acceptance::Refused), 2);
    assert_eq!(node.requests().len(), 1);
}

#[tokio::test]
async fn an_answer_of_something_else_leaves_the_outcome_unknown() {
    let strange = (0..100).map(|_| Answer::Say(200, json!({ "results": [{}] })));
    let node = FakeNode::start(strange).await;
    let publisher = Builder::new().deadline(Duration::from_millis(300)).connect(&node.url()).await.unwrap();
    let failed = publisher.batch(["a", "b"].map(event)).await.unwrap_err();
    assert_eq!(failed.count(Acceptance::Unknown), 2, "{failed}");
}

#[tokio::test]
async fn many_events_go_in_requests_of_bounded_size_in_order() {
    let node = FakeNode::start([]).await;
    let batch = (0..600).map(|n| Publication::new("project:a", "x").data(&n).unwrap());
    let published = publisher(&node).await.batch(batch).await.unwrap();
    assert_eq!(published.len(), 600);
    let requests = node.requests();
    let data: Vec<Vec<u64>> = requests
        .iter()
        .map(|request| {
            let body = request.json();
            body["publications"].as_array().unwrap().iter().map(|one| one["data"].as_u64().unwrap()).collect()
        })
        .collect();
    assert_eq!(data.iter().map(Vec::len).collect::<Vec<_>>(), [256, 256, 88]);
    assert_eq!(data.concat(), (0..600).collect::<Vec<u64>>());
}
