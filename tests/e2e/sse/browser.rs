//! A browser's own `EventSource`, on a page of another origin, whose nodes go away one after the other.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use axum::{Json, Router, extract::State, response::Html, routing};
use fanfare_testkit::{Process, TcpProxy, wait_until};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle, time::sleep};

use super::{SharedBroker, node, publish};
use crate::{MACHINE, SOON};

const CHANNELS: [&str; 2] = ["log:a", "log:b"];
/// Between two publications; on each channel every second.
const PUBLISH_EVERY: Duration = Duration::from_millis(10);
/// A browser takes its time to start, and waits for up to 2 s before it comes back.
const LONG: Duration = Duration::from_secs(60);

/// One thing that the page dispatched.
#[derive(Clone, Debug, Deserialize)]
struct Told {
    kind: String,
    #[serde(default)]
    id: String,
    #[serde(default)]
    object: Value,
    /// The `EventSource` has given up.
    #[serde(default)]
    closed: bool,
}

type Log = Arc<Mutex<Vec<Told>>>;

fn locked(log: &Log) -> MutexGuard<'_, Vec<Told>> {
    log.lock().expect("nobody panics with it")
}

/// Serves the page, and takes what it tells.
struct Page {
    address: SocketAddr,
    log: Log,
    serving: JoinHandle<()>,
}

impl Page {
    async fn serve() -> Self {
        let log = Log::default();
        let take = async |State(log): State<Log>, Json(told): Json<Vec<Told>>| locked(&log).extend(told);
        let router = Router::new()
            .route("/", routing::get(async || Html(include_str!("page.html"))))
            .route("/told", routing::post(take))
            .with_state(log.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.expect("the listener is ours") });
        Self { address, log, serving }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    fn count(&self, kind: &str) -> usize {
        locked(&self.log).iter().filter(|told| told.kind == kind).count()
    }

    async fn opened(&self, times: usize) {
        wait_until("the browser's stream", LONG, || self.count("open") >= times).await;
    }

    async fn received(&self, publications: usize) {
        wait_until("publications", LONG, || self.count("tick") >= publications).await;
    }

    /// Channel and number of every publication, in order.
    fn numbers(&self) -> Vec<(String, u64)> {
        let number = |told: &Told| {
            let channel = told.object["channel"].as_str().expect("a publication").to_owned();
            (channel, told.object["data"].as_u64().expect("a number"))
        };
        locked(&self.log).iter().filter(|told| told.kind == "tick").map(number).collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Opens a page without a window. tests/install-servers.sh installs the browser.
fn browse(url: &str) -> Process {
    let process = Process::new("chromium");
    let profile = process.directory().join("profile");
    let process = process
        .arguments(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .arguments(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arguments(["--disable-dev-shm-usage", "--remote-debugging-port=0"])
        .argument(format!("--user-data-dir={}", profile.display()))
        .environment("HOME", &profile)
        .argument(url);
    process.start();
    process
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_nothing_with_nats() {
    let _alone = MACHINE.lock().await;
    misses_nothing("NATS", SharedBroker::nats().await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn misses_nothing_with_redis() {
    let _alone = MACHINE.lock().await;
    misses_nothing("Redis", SharedBroker::redis().await).await;
}

async fn misses_nothing(name: &str, broker: SharedBroker) {
    let page = Page::serve().await;
    let start = async || node(&broker.url()).set("allowed_origins", vec![page.origin()]).start().await;
    let (first, second, third) = tokio::join!(start(), start(), start());
    let proxy = TcpProxy::start(first.public());
    let stream = format!("http://{}/sse?channels={}", proxy.address(), CHANNELS.join(","));
    let stream: String = url::form_urlencoded::byte_serialize(stream.as_bytes()).collect();
    let browser = browse(&format!("{}/?stream={stream}", page.origin()));
    page.opened(1).await;
    wait_until("the subscriptions", SOON, || page.count("system:subscribed") == CHANNELS.len()).await;

    // The third node takes what is published all the time.
    let stop = tokio_util::sync::CancellationToken::new();
    let publishing = async {
        let mut number = 0;
        while !stop.is_cancelled() {
            number += 1;
            for channel in CHANNELS {
                publish(&third, channel, number).await;
                sleep(PUBLISH_EVERY).await;
            }
        }
        number
    };
    let begun = Instant::now();
    let trouble = async {
        page.received(100).await;
        proxy.retarget(second.public());
        first.kill();
        page.opened(2).await;
        page.received(page.count("tick") + 200).await;
        proxy.retarget(third.public());
        assert!(second.stop(SOON).await.success(), "{}", second.process().log());
        page.opened(3).await;
        for times in 4..=5 {
            page.received(page.count("tick") + 200).await;
            proxy.cut();
            page.opened(times).await;
        }
        page.received(page.count("tick") + 100).await;
        stop.cancel();
    };
    let (published, ()) = tokio::join!(publishing, trouble);
    let all = CHANNELS.len() * published as usize;
    page.received(all).await;
    let took = begun.elapsed();

    let numbers = page.numbers();
    for channel in CHANNELS {
        let got: Vec<u64> = numbers.iter().filter(|(own, _)| own == channel).map(|(_, number)| *number).collect();
        assert_eq!(got, (1..=published).collect::<Vec<_>>(), "{channel}: lost, twice or out of order");
    }
    let log = locked(&page.log).clone();
    let answers: Vec<_> = log.iter().filter(|told| told.kind == "system:subscribed").collect();
    assert_eq!(answers.len(), 5 * CHANNELS.len());
    for answer in &answers[CHANNELS.len()..] {
        assert_eq!(answer.object["data"]["recovered"], json!(true), "{answer:?}");
    }
    assert!(!log.iter().any(|told| told.closed || told.kind == "system:gap"), "it gave up, or was told of a gap");
    assert_eq!(page.count("system:draining"), 1);
    let id = &log.iter().rfind(|told| told.kind == "tick").expect("there are many").id;
    println!(
        "{name}: an EventSource in Chromium got all of {all} events on {} channels once and in order, in {took:.1?}; 1 node was \
         killed, 1 went away, 2 times the connection was cut: {} streams; the last id is {id}",
        CHANNELS.len(),
        page.count("open"),
    );
    drop(browser);
}
