//! The internal port as its callers see it.

mod history;
mod presence;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    body::Body,
    http::{HeaderMap, Request},
};
use fanfare_broker::{BrokerError, Interest, InterestId, Lifecycle, Publish, Published};
use fanfare_session::Time;
use http_body_util::BodyExt as _;
use serde_json::Value;
use tower::ServiceExt as _;

use super::*;
use crate::{
    config::{Inputs, Overrides},
    telemetry,
};

const KEY: &str = "api-key-0123456789";

/// A broker that keeps what is published, and fails for channels whose name says so.
#[derive(Default)]
struct Recorder(Mutex<Vec<Publish>>);

#[async_trait]
impl Broker for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }

    async fn publish(&self, publish: Publish) -> Result<Published, BrokerError> {
        match publish.channel.as_str() {
            "fail:unavailable" => return Err(BrokerError::Unavailable { broker: "recorder" }),
            "fail:timeout" => {
                return Err(BrokerError::Timeout { broker: "recorder", waited: Duration::from_secs(5) });
            }
            "fail:size" => return Err(BrokerError::TooLarge { broker: "recorder", bytes: 9, limit: 8 }),
            // Slower than what comes after it: answers must still be in order.
            "slow" => tokio::task::yield_now().await,
            _ => {}
        }
        self.0.lock().unwrap().push(publish);
        Ok(Published::default())
    }

    async fn tell(&self, _: Lifecycle) -> Result<(), BrokerError> {
        unreachable!("the API tells nothing of connections")
    }

    async fn add_interests(&self, _interests: &[Interest]) -> Result<(), BrokerError> {
        Ok(())
    }

    async fn remove_interests(&self, _interests: &[InterestId]) {}

    async fn close(&self) {}
}

fn load(environment: &[(&str, &str)]) -> Config {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Config::load(&Inputs { file: None, environment, overrides: Overrides::default() }).unwrap()
}

/// The routes, with what is behind them.
struct Port {
    router: Router,
    broker: Arc<Recorder>,
    readiness: Arc<Readiness>,
}

struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Port {
    fn new(environment: &[(&str, &str)]) -> Self {
        let recorder = Arc::new(Recorder::default());
        Self::over(&load(environment), recorder.clone(), recorder)
    }

    fn over(config: &Config, broker: Arc<dyn Broker>, recorder: Arc<Recorder>) -> Self {
        Self::with(config, broker, recorder, None, Vec::new())
    }

    fn with(
        config: &Config,
        broker: Arc<dyn Broker>,
        recorder: Arc<Recorder>,
        presence: Option<PresenceHandle>,
        shards: Vec<ShardInbox>,
    ) -> Self {
        let readiness = Arc::new(Readiness::default());
        let prometheus = telemetry::install_metrics().unwrap();
        let history = HistoryReader::new(config, broker.clone(), Arc::new(tokio::sync::Semaphore::new(1)));
        let served = Served {
            broker,
            history,
            presence,
            shards,
            readiness: readiness.clone(),
            prometheus,
            clock: Clock::start(),
        };
        let state = InternalState::new(config, served);
        Self { router: router(state), broker: recorder, readiness }
    }

    fn production() -> Self {
        Self::new(&[
            ("FANFARE_API_KEYS", "another-key-0123456, api-key-0123456789"),
            ("FANFARE_AUTH__HMAC_SECRET", "0123456789abcdef0123456789abcdef"),
            ("FANFARE_BROKER", "memory:"),
            ("FANFARE_LIMITS__API_BODY_BYTES", "2KiB"),
            ("FANFARE_LIMITS__PUBLICATION_BYTES", "1KiB"),
            ("FANFARE_LIMITS__API_BATCH", "3"),
        ])
    }

    fn development() -> Self {
        Self::new(&[])
    }

    async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let request = Request::builder().method(method).uri(path);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        let response = self.router.clone().oneshot(request.body(Body::from(body.to_owned())).unwrap()).await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        Answer { status, headers, text: String::from_utf8(bytes.to_vec()).unwrap() }
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("x-api-key", KEY)], body).await
    }

    fn published(&self) -> Vec<(String, String, String)> {
        let published = std::mem::take(&mut *self.broker.0.lock().unwrap());
        let text = |publish: &Publish| String::from_utf8(publish.body.to_vec()).unwrap();
        published
            .iter()
            .map(|publish| (publish.tenant.to_string(), publish.channel.to_string(), text(publish)))
            .collect()
    }
}

impl Answer {
    /// The status, code and message of an error; that nothing else is in it.
    fn error(&self) -> (u16, String, String) {
        let value: Value = serde_json::from_str(&self.text).unwrap();
        let error = value["error"].as_object().unwrap();
        assert_eq!(value.as_object().unwrap().len(), 1);
        assert_eq!(error.keys().collect::<Vec<_>>(), ["code", "message", "retryable"]);
        assert_eq!(self.headers["content-type"], "application/json");
        (self.status, error["code"].as_str().unwrap().into(), error["message"].as_str().unwrap().into())
    }
}

fn error(status: u16, code: &str, message: &str) -> (u16, String, String) {
    (status, code.into(), message.into())
}

#[tokio::test]
async fn an_event_is_published_as_it_is() {
    let port = Port::production();
    let body =
        r#"{"tenant":"acme","channel":"project:a","event":"project:funded","data":{ "n" : 1.50 },"timestamp":7}"#;
    let answer = port.post("/api/publish", body).await;
    assert_eq!((answer.status, answer.text.as_str()), (200, "{}"));
    let envelope = r#"{"event":"project:funded","data":{ "n" : 1.50 },"timestamp":7}"#;
    assert_eq!(port.published(), [("acme".into(), "project:a".into(), envelope.into())]);
}

#[tokio::test]
async fn a_broadcast_answers_for_every_channel() {
    let port = Port::production();
    let body = r#"{"channels":["slow","a b","fail:unavailable"],"event":"e"}"#;
    let answer = port.post("/api/broadcast", body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text,
        r#"{"results":[{"channel":"slow"},{"channel":"a b","error":{"code":"BAD_REQUEST","message":"channel \"a b\": ' ' is not allowed in a segment; allowed are A-Z a-z 0-9 _ - = @ + ~ ,","retryable":false}},{"channel":"fail:unavailable","error":{"code":"UNAVAILABLE","message":"recorder is not connected; nothing was sent","retryable":true}}]}"#
    );
    assert_eq!(port.published(), [("default".into(), "slow".into(), r#"{"event":"e"}"#.into())]);
    let answer = port.post("/api/broadcast", r#"{"channels":["a","b","c","d"],"event":"e"}"#).await;
    let message = "channels has 4 entries; allowed are 1 to 3 (limits.api_batch)";
    assert_eq!(answer.error(), error(413, "LIMIT_EXCEEDED", message));
}

#[tokio::test]
async fn a_batch_answers_for_every_publication_and_keeps_their_order() {
    let port = Port::production();
    let body =
        r#"{"publications":[{"channel":"a","event":"1"},{"channel":"a"},{"channel":"a","event":"2","tenant":"acme"}]}"#;
    let answer = port.post("/api/batch", body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(
        answer.text,
        r#"{"results":[{},{"error":{"code":"BAD_REQUEST","message":"the body is not valid: missing field `event` at line 1 column 15","retryable":false}},{}]}"#
    );
    let published = port.published();
    assert_eq!(published[0], ("default".into(), "a".into(), r#"{"event":"1"}"#.into()));
    assert_eq!(published[1], ("acme".into(), "a".into(), r#"{"event":"2"}"#.into()));
}

#[tokio::test]
async fn what_the_broker_says_becomes_a_code_and_a_status() {
    let port = Port::production();
    let of = async |channel: &str| {
        port.post("/api/publish", &format!(r#"{{"channel":"{channel}","event":"e"}}"#)).await.error()
    };
    assert_eq!(of("fail:unavailable").await, error(503, "UNAVAILABLE", "recorder is not connected; nothing was sent"));
    assert_eq!(of("fail:timeout").await, error(504, "TIMEOUT", "recorder did not answer within 5s"));
    assert_eq!(of("fail:size").await, error(413, "LIMIT_EXCEEDED", "the body has 9 bytes; recorder allows 8"));
}

#[tokio::test]
async fn without_a_right_key_nothing_is_published() {
    let port = Port::production();
    let body = r#"{"channel":"a","event":"e"}"#;
    for path in ["/api/publish", "/api/broadcast", "/api/batch"] {
        let missing = port.send("POST", path, &[], body).await;
        assert_eq!(missing.error(), error(401, "UNAUTHORIZED", "X-API-Key is missing"), "{path}");
        for key in [
            "",
            "wrong-key-012345678",
            "api-key-012345678",
            "api-key-01234567890",
            "another-key-0123456, api-key-0123456789",
        ] {
            let wrong = port.send("POST", path, &[("x-api-key", key)], body).await;
            assert_eq!(
                wrong.error(),
                error(401, "UNAUTHORIZED", "X-API-Key is not one that is accepted here"),
                "{key}"
            );
        }
    }
    for key in [KEY, "another-key-0123456"] {
        assert_eq!(port.send("POST", "/api/publish", &[("x-api-key", key)], body).await.status, 200);
    }
    assert_eq!(port.published().len(), 2);
}

#[tokio::test]
async fn without_any_key_the_api_is_closed() {
    let port =
        Port::new(&[("FANFARE_AUTH__HMAC_SECRET", "0123456789abcdef0123456789abcdef"), ("FANFARE_BROKER", "memory:")]);
    let message = "this node has no API key configured, so its API takes no requests (FANFARE_API_KEY)";
    let body = r#"{"channel":"a","event":"e"}"#;
    assert_eq!(port.post("/api/publish", body).await.error(), error(401, "UNAUTHORIZED", message));
    assert_eq!(port.published().len(), 0);
}

#[tokio::test]
async fn bodies_have_limits() {
    let port = Port::production();
    let of = |bytes: usize| format!(r#"{{"channel":"a","event":"e","data":"{}"}}"#, "x".repeat(bytes));
    assert_eq!(port.post("/api/publish", &of(1_000)).await.status, 200);
    let answer = port.post("/api/publish", &of(1_010)).await;
    assert_eq!(answer.error(), error(413, "LIMIT_EXCEEDED", "the body has 1033 bytes; allowed are 1024"));
    let answer = port.post("/api/publish", &of(3_000)).await;
    assert_eq!(
        answer.error(),
        error(413, "LIMIT_EXCEEDED", "the body has more than 2048 bytes (limits.api_body_bytes)")
    );
}

#[tokio::test]
async fn what_is_not_there_is_told_as_json() {
    let port = Port::production();
    let missing = port.post("/api/nothing", "").await;
    let message = "there is nothing here; see docs/operations.md for what is";
    assert_eq!(missing.error(), error(404, "NOT_FOUND", message));
    assert_eq!(port.send("GET", "/", &[], "").await.error(), error(404, "NOT_FOUND", message));
    let method = port.send("GET", "/api/publish", &[("x-api-key", KEY)], "").await;
    let message = "this method is not allowed here: what publishes takes POST, the rest GET";
    assert_eq!(method.error(), error(405, "BAD_REQUEST", message));
}

#[tokio::test]
async fn health_and_readiness_need_no_key() {
    let port = Port::production();
    let health = port.send("GET", "/healthz", &[], "").await;
    assert_eq!((health.status, health.text.as_str()), (200, "ok\n"));
    let starting = port.send("GET", "/readyz", &[], "").await;
    assert_eq!(starting.status, 503);
    assert_eq!(starting.text, r#"{"ready":false,"reasons":[{"message":"the node is starting","reason":"starting"}]}"#);
    port.readiness.set_started();
    let ready = port.send("GET", "/readyz", &[], "").await;
    assert_eq!((ready.status, ready.text.as_str()), (200, r#"{"ready":true}"#));
    port.readiness.broker_interrupted(Time::from_millis(0));
    let begun = std::time::Instant::now();
    while port.send("GET", "/readyz", &[], "").await.status == 200 {
        assert!(begun.elapsed() < Duration::from_secs(10), "the node stays ready without its broker");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    port.readiness.broker_resumed();
    assert_eq!(port.send("GET", "/readyz", &[], "").await.status, 200);
}

#[tokio::test]
async fn requests_are_counted_and_timed() {
    let port = Port::production();
    assert_eq!(port.post("/api/publish", r#"{"channel":"a","event":"e"}"#).await.status, 200);
    assert_eq!(port.send("POST", "/api/batch", &[], "").await.status, 401);
    let metrics = port.send("GET", "/metrics", &[], "").await;
    assert_eq!(metrics.headers["content-type"], METRICS_TYPE);
    for part in [
        r#"fanfare_api_requests_total{endpoint="publish",status="200"} "#,
        r#"fanfare_api_requests_total{endpoint="batch",status="401"} "#,
        r#"fanfare_api_request_duration_seconds_bucket{endpoint="publish",le="10"} "#,
        r#"fanfare_api_publications_total{result="ok"} "#,
        "# HELP fanfare_connections Connections that are open now.",
    ] {
        assert!(metrics.text.contains(part), "{part}\n{}", metrics.text);
    }
}

#[tokio::test]
async fn development_mode_serves_this_machine_and_json_only() {
    let port = Port::development();
    let body = r#"{"channel":"a","event":"e"}"#;
    let (host, json) = (("host", "localhost:9000"), ("content-type", "application/json; charset=utf-8"));
    assert_eq!(port.send("POST", "/api/publish", &[host, json], body).await.status, 200);
    let local_page = ("origin", "http://localhost:5173");
    assert_eq!(port.send("POST", "/api/publish", &[host, json, local_page], body).await.status, 200);
    assert_eq!(port.published().len(), 2);

    let refused = async |headers: &[(&str, &str)]| port.send("POST", "/api/publish", headers, body).await.error();
    let no_json = error(400, "BAD_REQUEST", "in development mode Content-Type must be application/json");
    assert_eq!(refused(&[host]).await, no_json);
    assert_eq!(refused(&[host, ("content-type", "text/plain")]).await, no_json);
    let message = r#"host "rebound.example:9000" is not this machine's; in development mode only loopback is served"#;
    assert_eq!(refused(&[("host", "rebound.example:9000"), json]).await, error(403, "FORBIDDEN", message));
    let message = r#"origin "https://evil.example" is not allowed here; allowed is loopback only, in development mode"#;
    assert_eq!(refused(&[host, json, ("origin", "https://evil.example")]).await, error(403, "FORBIDDEN", message));
    let message = "the request was forwarded (x-forwarded-for); in development mode only direct requests are served";
    assert_eq!(refused(&[host, json, ("x-forwarded-for", "10.0.0.1")]).await, error(403, "FORBIDDEN", message));
    let metrics = port.send("GET", "/metrics", &[("host", "rebound.example")], "").await;
    assert_eq!(metrics.status, 403, "nor does it tell anything");
    assert_eq!(port.published().len(), 0);
}
