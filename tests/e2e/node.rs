//! A node: the program itself, as a process of its own.

use std::{
    fs,
    net::SocketAddr,
    process::ExitStatus,
    time::{Duration, Instant},
};

use fanfare_testkit::{Process, wait_for};
use serde::Deserialize;
use tokio::time::sleep;
use toml::{Table, Value};

use crate::{SOON, handshake::Handshake, metrics::Metrics, token};

/// The key of the internal API.
pub(crate) const API_KEY: &str = "an-api-key-of-the-tests";

/// How often metrics are looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running `fanfare-gateway`. It ends with its owner.
pub(crate) struct Node {
    process: Process,
    public: SocketAddr,
    internal: SocketAddr,
    http: reqwest::Client,
}

/// What a node is started with: a configuration file.
pub(crate) struct NodeBuilder {
    configuration: Table,
}

/// The one line on standard output.
#[derive(Deserialize)]
struct ReadyLine {
    ready: bool,
    public: SocketAddr,
    internal: SocketAddr,
}

impl NodeBuilder {
    /// Sets a key such as `limits.outbox_bytes`.
    pub(crate) fn set(mut self, key: &str, value: impl Into<Value>) -> Self {
        let mut table = &mut self.configuration;
        let (path, name) = key.rsplit_once('.').unwrap_or(("", key));
        for part in path.split('.').filter(|part| !part.is_empty()) {
            let entry = table.entry(part).or_insert_with(|| Table::new().into());
            table = entry.as_table_mut().unwrap_or_else(|| panic!("{key}: {part} is no table"));
        }
        table.insert(name.to_owned(), value.into());
        self
    }

    /// Starts the node and waits for its ready line.
    pub(crate) async fn start(self) -> Node {
        let process = Process::new(env!("CARGO_BIN_EXE_fanfare-gateway")).arguments(["--config", "fanfare.toml"]);
        let file = process.directory().join("fanfare.toml");
        fs::write(&file, self.configuration.to_string()).expect("the private directory can be written to");
        process.start();
        let line = wait_for("the ready line", SOON, async || {
            assert!(process.is_running(), "the node ended while starting\n{}", process.log());
            process.stdout().split_once('\n').map(|(line, _)| line.to_owned())
        })
        .await;
        let ready: ReadyLine = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line:?}: {error}"));
        assert!(ready.ready && ready.public.port() != 0 && ready.internal.port() != 0, "{line}");
        Node { process, public: ready.public, internal: ready.internal, http: http() }
    }
}

impl Node {
    /// A node with authentication, an API key and patterns, on free ports of loopback.
    pub(crate) fn builder(broker: &str) -> NodeBuilder {
        Self::development()
            .set("broker", broker)
            .set("api_key", API_KEY)
            .set("auth.hmac_secret", token::SECRET)
            .set("auth.leeway", "0s")
            .set("namespace_defaults.patterns", true)
            .set("namespaces.board.publish", "token")
    }

    /// A node that is told nothing but to listen on free ports.
    pub(crate) fn development() -> NodeBuilder {
        NodeBuilder { configuration: Table::new() }.set("listen", "127.0.0.1:0").set("internal_listen", "127.0.0.1:0")
    }

    /// A node as [`builder`](Self::builder) has it.
    pub(crate) async fn start(broker: &str) -> Self {
        Self::builder(broker).start().await
    }

    /// As many nodes on one broker.
    pub(crate) async fn start_many<const N: usize>(broker: &str) -> [Self; N] {
        let nodes: Vec<_> = futures_util::future::join_all((0..N).map(|_| Self::start(broker))).await;
        nodes.try_into().unwrap_or_else(|_| unreachable!("as many as were started"))
    }

    /// Where clients connect.
    pub(crate) fn public(&self) -> SocketAddr {
        self.public
    }

    /// Where the API, metrics and health are.
    pub(crate) fn internal(&self) -> SocketAddr {
        self.internal
    }

    /// Begins the handshake of a client.
    pub(crate) fn client(&self) -> Handshake {
        Handshake::new(self.public)
    }

    /// The process, for its log and its memory.
    pub(crate) fn process(&self) -> &Process {
        &self.process
    }

    /// SIGKILL.
    pub(crate) fn kill(&self) {
        self.process.kill();
    }

    /// SIGTERM; how it ended, which it must do within `deadline`.
    pub(crate) async fn stop(&self, deadline: Duration) -> ExitStatus {
        self.process.stop(deadline).await.expect("it was started")
    }

    /// What it counts.
    pub(crate) async fn metrics(&self) -> Metrics {
        let (status, body) = self.get("/metrics").await;
        assert_eq!(status, 200, "{body}");
        Metrics::parse(&body)
    }

    /// The status of `/readyz`.
    pub(crate) async fn ready(&self) -> u16 {
        self.get("/readyz").await.0
    }

    /// Status and body of a path of the internal port.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        self.answer(self.http.get(format!("http://{}{path}", self.internal))).await
    }

    /// The same with the API key.
    pub(crate) async fn get_with_key(&self, path: &str) -> (u16, String) {
        self.answer(self.http.get(format!("http://{}{path}", self.internal)).header("x-api-key", API_KEY)).await
    }

    /// Status and body of `POST` with the API key, to a path of the internal port.
    pub(crate) async fn post(&self, path: &str, body: impl Into<String>) -> (u16, String) {
        let request = self.http.post(format!("http://{}{path}", self.internal));
        let json = request.header("content-type", "application/json").header("x-api-key", API_KEY);
        self.answer(json.body(body.into())).await
    }

    /// Publishes an envelope through `POST /api/publish`, which must accept it.
    pub(crate) async fn publish(&self, tenant: &str, channel: &str, envelope: &str) {
        let fields = envelope.trim_start().strip_prefix('{').expect("an envelope is an object");
        let body = format!(r#"{{"tenant":"{tenant}","channel":"{channel}",{fields}"#);
        let (status, answer) = self.post("/api/publish", body).await;
        assert_eq!(status, 200, "{envelope}: {answer}");
    }

    async fn answer(&self, request: reqwest::RequestBuilder) -> (u16, String) {
        let response = request.send().await.unwrap_or_else(|error| panic!("{error:?}\n{}", self.process.log()));
        (response.status().as_u16(), response.text().await.expect("a body of text"))
    }

    /// Waits until it counts as said. Some of it is counted some time after it has happened.
    pub(crate) async fn wait_for_metrics(&self, what: &str, condition: impl Fn(&Metrics) -> bool) {
        let begun = Instant::now();
        loop {
            let metrics = self.metrics().await;
            if condition(&metrics) {
                return;
            }
            assert!(begun.elapsed() < SOON, "waited {SOON:?} in vain for {what}: {metrics:#?}");
            sleep(POLL_INTERVAL).await;
        }
    }
}

fn http() -> reqwest::Client {
    // Another test of this process may have been first; one provider is as good as the other, it is the same.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().timeout(SOON).build().expect("an HTTP client can be made")
}
