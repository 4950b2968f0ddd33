//! A WebSocket client on a library of others, that keeps what it received.

use std::{collections::VecDeque, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

pub(crate) use crate::client_message::Received;
use crate::{SOON, publication::Publication};

/// How much of what came before a failed test shows.
const LOG_TAIL: usize = 10;

/// An open WebSocket. It reads only while something is waited for, so a client that waits for nothing does not read.
pub(crate) struct Client {
    socket: WebSocketStream<TcpStream>,
    /// What came while a reply was waited for, and was none.
    waiting: VecDeque<Received>,
    log: Vec<Received>,
    last_id: u64,
    session: String,
}

impl Client {
    pub(crate) fn new(socket: WebSocketStream<TcpStream>) -> Self {
        Self { socket, waiting: VecDeque::new(), log: Vec::new(), last_id: 0, session: String::new() }
    }

    /// Keeps what the node said when the session began.
    pub(super) fn connected(&mut self, result: Value) {
        let session = result["session"].as_str().unwrap_or_else(|| panic!("no session in {result}"));
        self.session = session.to_owned();
    }

    /// The session's id.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// Everything that came, in order, pings included.
    pub(crate) fn log(&self) -> &[Received] {
        &self.log
    }

    /// Sends one text message.
    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.send_message(Message::text(text.into())).await;
    }

    /// Sends one message of any kind.
    pub(crate) async fn send_message(&mut self, message: Message) {
        self.socket.send(message).await.unwrap_or_else(|error| panic!("cannot send: {error}\n{}", self.tail()));
    }

    /// Sends a command with the next id and waits for its reply, which may be an error. What comes before it waits for
    /// [`next`](Self::next).
    pub(crate) async fn command(&mut self, command: Value) -> Value {
        let id = self.begin(command).await;
        self.reply(id).await
    }

    /// Sends a command with the next id, and gives the id.
    pub(crate) async fn begin(&mut self, mut command: Value) -> u64 {
        self.last_id += 1;
        command["id"] = json!(self.last_id);
        self.send(command.to_string()).await;
        self.last_id
    }

    /// Waits for the reply to a command.
    pub(crate) async fn reply(&mut self, id: u64) -> Value {
        let reply_in = |received: &Received| received.object().filter(|object| object["id"] == id);
        if let Some(index) = self.waiting.iter().position(|received| reply_in(received).is_some()) {
            return self.waiting.remove(index).as_ref().and_then(reply_in).expect("it was found there");
        }
        loop {
            let received = self.receive(SOON).await;
            match reply_in(&received) {
                Some(object) => return object,
                None if received.is_end() => panic!("{received:?} instead of a reply\n{}", self.tail()),
                _ => self.waiting.push_back(received),
            }
        }
    }

    /// Subscribes to a channel or pattern, which must be allowed.
    pub(crate) async fn subscribe(&mut self, channel: &str) {
        let reply = self.command(json!({ "type": "subscribe", "channel": channel })).await;
        assert_eq!(reply["result"], json!({ "channel": channel }), "{reply}");
    }

    /// What comes next, WebSocket's own pings and pongs left out.
    pub(crate) async fn next(&mut self) -> Received {
        match self.waiting.pop_front() {
            Some(received) => received,
            None => self.receive(SOON).await,
        }
    }

    /// What comes next within a time, if anything does.
    pub(crate) async fn next_within(&mut self, time: Duration) -> Option<Received> {
        match self.waiting.pop_front() {
            Some(received) => Some(received),
            None => timeout(time, self.read()).await.ok(),
        }
    }

    /// The next message, which must be there, as an object.
    pub(crate) async fn message(&mut self) -> Value {
        let received = self.next().await;
        received.object().unwrap_or_else(|| panic!("{received:?} instead of a message\n{}", self.tail()))
    }

    /// The next message, which must be a push with this event.
    pub(crate) async fn expect(&mut self, event: &str) -> Value {
        let push = self.message().await;
        assert_eq!(push["event"], event, "{push}\n{}", self.tail());
        push
    }

    /// The next message, which must be a publication.
    pub(crate) async fn publication(&mut self) -> Publication {
        let received = self.next().await;
        received.publication().unwrap_or_else(|| panic!("{received:?} instead of a publication\n{}", self.tail()))
    }

    /// Reads to the end; how it ended, and the messages before it.
    pub(crate) async fn end(&mut self) -> (Received, Vec<Value>) {
        let mut messages = Vec::new();
        loop {
            let received = self.next().await;
            match received.object() {
                Some(object) => messages.push(object),
                None if received.is_end() => return (received, messages),
                None => {}
            }
        }
    }

    /// Reads to the end, which must be a close with this code; the messages before it.
    pub(crate) async fn closed(&mut self, code: u16) -> Vec<Value> {
        let (end, messages) = self.end().await;
        assert!(matches!(end, Received::Close(Some(own)) if own == code), "{end:?} instead of {code}\n{}", self.tail());
        messages
    }

    async fn receive(&mut self, time: Duration) -> Received {
        match timeout(time, self.read()).await {
            Ok(received) => received,
            Err(_) => panic!("nothing came for {time:?}\n{}", self.tail()),
        }
    }

    /// Reads what is neither ping nor pong; those are answered by the library and kept in the log.
    async fn read(&mut self) -> Received {
        loop {
            let received = Received::from_socket(self.socket.next().await);
            self.log.push(received.clone());
            if matches!(received, Received::Close(_)) {
                // The library answers a close with the next thing that it does. The node may be gone already.
                let _ = self.socket.flush().await;
            }
            if !matches!(received, Received::Ping | Received::Pong) {
                return received;
            }
        }
    }

    /// The last of what came, for the message of a failed test.
    fn tail(&self) -> String {
        let tail = &self.log[self.log.len().saturating_sub(LOG_TAIL)..];
        format!("the last of {} that came: {tail:#?}", self.log.len())
    }
}
