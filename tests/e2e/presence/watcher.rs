//! A client that reads all the time, and keeps what it knows of each channel.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use fanfare_testkit::{wait_for, wait_until};
use futures_util::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, task::JoinHandle};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::view::View;
use crate::{SOON, client::Received, handshake::Handshake, node::Node, token::sign};

type Sink = Arc<tokio::sync::Mutex<SplitSink<WebSocketStream<TcpStream>, Message>>>;

/// One session on a node. It ends with its owner, as when a page is closed.
pub(super) struct Watcher {
    user: String,
    channels: Vec<String>,
    sink: Sink,
    known: Arc<Mutex<Known>>,
    reading: JoinHandle<()>,
    last_id: u64,
}

/// What came.
#[derive(Default)]
pub(super) struct Known {
    views: BTreeMap<String, View>,
    /// All events that are neither of presence nor `system:*`.
    publications: Vec<Value>,
    /// `system:*`, but pings.
    system: Vec<Value>,
    replies: HashMap<u64, Value>,
    /// Questions of its own, after a hole in the versions.
    asked: HashMap<u64, String>,
    last_asked: u64,
    end: Option<Received>,
}

/// Ids of questions that the client asks by itself begin here.
const OWN_IDS: u64 = 1 << 32;

impl Watcher {
    /// A session of a user who may see all that the tests' tokens allow.
    pub(super) async fn connect(node: &Node, user: &str) -> Self {
        Self::connect_with(node, user, &super::claims(user)).await
    }

    /// A session with any claims.
    pub(super) async fn connect_with(node: &Node, user: &str, claims: &Value) -> Self {
        Self::open(node.client().header("authorization", &format!("Bearer {}", sign(claims))), user).await
    }

    /// A session by a handshake that connects without a command.
    pub(super) async fn open(handshake: Handshake, user: &str) -> Self {
        let (socket, _) = handshake.open_socket().await.unwrap_or_else(|error| panic!("{user}'s handshake: {error}"));
        let (sink, stream) = socket.split();
        let sink = Arc::new(tokio::sync::Mutex::new(sink));
        let known = Arc::new(Mutex::new(Known { last_asked: OWN_IDS, ..Known::default() }));
        let reading = tokio::spawn(read(stream, Arc::clone(&sink), Arc::clone(&known)));
        let watcher = Self { user: user.to_owned(), channels: Vec::new(), sink, known, reading, last_id: 0 };
        watcher.wait("the session", |known| known.told("system:connected") > 0).await;
        watcher
    }

    /// A session that watches channels, and knows who is there.
    pub(super) async fn watch(node: &Node, user: &str, channels: &[impl AsRef<str>]) -> Self {
        let mut watcher = Self::connect(node, user).await;
        watcher.subscribe(channels, json!({ "presence": true })).await;
        for channel in channels {
            watcher.wait("a snapshot", |known| known.view(channel.as_ref()).is_known()).await;
        }
        watcher
    }

    /// Subscribes to channels, with more fields of the command. All of it must be allowed.
    pub(super) async fn subscribe(&mut self, channels: &[impl AsRef<str>], fields: Value) {
        for channels in channels.chunks(50) {
            let names: Vec<_> = channels.iter().map(AsRef::as_ref).collect();
            let mut command = json!({ "type": "subscribe", "channels": names });
            command.as_object_mut().expect("it is one").extend(fields.as_object().expect("fields").clone());
            let reply = self.command(command).await;
            let outcomes = reply["result"]["subscriptions"].as_array().unwrap_or_else(|| panic!("{reply}"));
            assert!(outcomes.iter().all(|outcome| outcome["error"].is_null()), "{reply}");
            self.channels.extend(names.into_iter().map(str::to_owned));
        }
    }

    /// Sends a command with the next id and waits for its reply, which may be an error.
    pub(super) async fn command(&mut self, mut command: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        command["id"] = json!(id);
        self.send(command.to_string()).await;
        self.reply(id).await
    }

    /// Sends a command, whose answer must be a result; the result.
    pub(super) async fn ask(&mut self, command: Value) -> Value {
        let reply = self.command(command).await;
        assert_eq!(reply["type"], "reply", "{}: {reply}", self.user);
        reply["result"].clone()
    }

    /// Sends a command, whose answer must be an error; its code.
    pub(super) async fn refused(&mut self, command: Value) -> String {
        let reply = self.command(command.clone()).await;
        assert_eq!(reply["type"], "error", "{command}: {reply}");
        reply["code"].as_str().expect("a code").to_owned()
    }

    /// Waits for the reply to a command.
    pub(super) async fn reply(&self, id: u64) -> Value {
        self.wait_for(&format!("the reply to {id}"), SOON, |known| known.replies.remove(&id)).await
    }

    /// Sends one text message.
    pub(super) async fn send(&self, text: String) {
        let sent = self.sink.lock().await.send(Message::text(text)).await;
        sent.unwrap_or_else(|error| panic!("{} cannot send: {error}; {:?}", self.user, self.known().end));
    }

    /// What it knows now.
    pub(super) fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until something is so.
    pub(super) async fn wait(&self, what: &str, mut condition: impl FnMut(&Known) -> bool) {
        self.wait_for(what, SOON, |known| condition(known).then_some(())).await;
    }

    /// As [`wait`](Self::wait), within a time.
    pub(super) async fn wait_within(&self, time: Duration, what: &str, mut condition: impl FnMut(&Known) -> bool) {
        self.wait_for(what, time, |known| condition(known).then_some(())).await;
    }

    /// Waits until a user has, as far as is known on a channel, so many connections.
    pub(super) async fn wait_connections(&self, channel: &str, user: &str, connections: u64) {
        let own = &self.user;
        let what = format!("{connections} connections of {user} on {channel}, as {own} knows");
        self.wait(&what, |known| known.connections(channel, user) == connections).await;
    }

    /// Waits until the node has ended the session.
    pub(super) async fn wait_end(&self) {
        wait_until(&format!("the end of {}'s session", self.user), SOON, || self.known().end.is_some()).await;
    }

    async fn wait_for<T>(&self, what: &str, time: Duration, mut probe: impl FnMut(&mut Known) -> Option<T>) -> T {
        wait_for(&format!("{what} ({})", self.user), time, async || {
            let mut known = self.known();
            if let Some(found) = probe(&mut known) {
                return Some(found);
            }
            let over = known.end.is_some() || self.reading.is_finished();
            assert!(!over, "{} waits for {what}, and its session ended: {:?}", self.user, known.end);
            None
        })
        .await
    }

    /// Nothing came that must not come, and all that was told has come.
    pub(super) fn assert_sound(&self) {
        let known = self.known();
        for (channel, view) in &known.views {
            assert!(view.faults().is_empty(), "{} on {channel}: {:#?}", self.user, view.faults());
            assert_eq!(view.holes(), 0, "{} missed versions on {channel}", self.user);
        }
    }

    /// The session's id.
    pub(super) fn session(&self) -> String {
        let known = self.known();
        let connected = known.system.iter().find(|push| push["event"] == "system:connected").expect("it is connected");
        connected["data"]["session"].as_str().expect("an id").to_owned()
    }

    /// Where it is subscribed.
    pub(super) fn channels(&self) -> &[String] {
        &self.channels
    }

    /// The user.
    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Closes the socket without a word.
    pub(super) async fn cut(mut self) {
        self.reading.abort();
        // It was aborted, or had ended with its session.
        let _ = (&mut self.reading).await;
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

impl Known {
    /// A channel.
    pub(super) fn view(&self, channel: &str) -> &View {
        static NOTHING: std::sync::LazyLock<View> = std::sync::LazyLock::new(View::default);
        self.views.get(channel).unwrap_or(&NOTHING)
    }

    /// All channels of which anything was told.
    pub(super) fn views(&self) -> &BTreeMap<String, View> {
        &self.views
    }

    /// How many connections a user has on a channel.
    pub(super) fn connections(&self, channel: &str, user: &str) -> u64 {
        self.view(channel).member(user).map_or(0, |seen| seen.connections)
    }

    /// Publications and signals, in order.
    pub(super) fn publications(&self) -> &[Value] {
        &self.publications
    }

    /// How many publications and signals had this event.
    pub(super) fn count(&self, event: &str) -> usize {
        self.publications.iter().filter(|publication| publication["event"] == event).count()
    }

    /// How many `system:*` with this event came.
    pub(super) fn told(&self, event: &str) -> usize {
        self.system.iter().filter(|push| push["event"] == event).count()
    }

    /// `system:*`, but pings.
    pub(super) fn system(&self) -> &[Value] {
        &self.system
    }

    /// How the session ended.
    pub(super) fn end(&self) -> Option<&Received> {
        self.end.as_ref()
    }

    /// Takes a message; what has to be sent now.
    fn take(&mut self, at: Instant, object: Value) -> Option<Value> {
        if let Some(id) = object["id"].as_u64().filter(|_| object["event"].is_null()) {
            match self.asked.remove(&id) {
                Some(channel) => self.views.entry(channel).or_default().replace(&object["result"]),
                None => assert!(self.replies.insert(id, object).is_none(), "two replies to {id}"),
            }
            return None;
        }
        let event = object["event"].as_str().unwrap_or_else(|| panic!("neither reply nor push: {object}"));
        if event == "system:ping" {
            return Some(json!({ "type": "pong" }));
        }
        if event.starts_with("presence:") {
            let channel = object["channel"].as_str().unwrap_or_else(|| panic!("no channel in {object}")).to_owned();
            let whole = self.views.entry(channel.clone()).or_default().take(at, &object);
            if whole {
                return None;
            }
            self.last_asked += 1;
            self.asked.insert(self.last_asked, channel.clone());
            return Some(json!({ "id": self.last_asked, "type": "presence", "channel": channel }));
        }
        let list = if event.starts_with("system:") { &mut self.system } else { &mut self.publications };
        list.push(object);
        None
    }
}

async fn read(mut stream: SplitStream<WebSocketStream<TcpStream>>, sink: Sink, known: Arc<Mutex<Known>>) {
    loop {
        let received = Received::from_socket(stream.next().await);
        let at = Instant::now();
        if received.is_end() {
            known.lock().unwrap_or_else(PoisonError::into_inner).end = Some(received);
            // The library answers a close with the next thing that it does. The node may be gone already.
            let _ = sink.lock().await.flush().await;
            return;
        }
        let Some(object) = received.object() else { continue };
        let answer = known.lock().unwrap_or_else(PoisonError::into_inner).take(at, object);
        if let Some(answer) = answer
            && sink.lock().await.send(Message::text(answer.to_string())).await.is_err()
        {
            return;
        }
    }
}
