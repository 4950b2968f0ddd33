//! A client that keeps its positions over its sessions and comes back with them, to whichever node.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    net::SocketAddr,
    time::{Duration, Instant},
};

use fanfare_checker::{ClientLog, Delivered, Gap, Position, Subscribed};
use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

use super::TENANT;
use crate::{client::Received, handshake::Handshake, msgpack, token::token};

/// How long a node may take to answer a handshake or to take a command, before the client tries another one.
const PATIENCE: Duration = Duration::from_secs(5);

/// Data that begins so is a mark, see [`LogicalClient::marks`].
pub(super) const MARK: &str = "mark:";

/// One client over all its sessions.
pub(super) struct LogicalClient {
    name: String,
    channels: Vec<String>,
    habits: Habits,
    clock: Instant,
    log: ClientLog,
    socket: Option<WebSocketStream<TcpStream>>,
    /// Commands that are not answered yet, with their channels.
    asked: HashMap<u64, Vec<String>>,
    /// Channels that were asked for in a list, with which position; each is told of by a push before the list is answered.
    listed: HashMap<String, Option<Position>>,
    /// Channels that were asked for alone.
    single: HashMap<String, Option<Position>>,
    last_id: u64,
    marks: BTreeMap<String, BTreeSet<String>>,
}

/// How a client speaks.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Habits {
    /// MessagePack instead of JSON.
    pub(super) msgpack: bool,
    /// One command with a list of its channels, instead of one command for each.
    pub(super) by_list: bool,
    /// What the kernel takes while it does not read.
    pub(super) receive_buffer: Option<u32>,
    /// How long a node may take to answer a handshake or to take a command; else [`PATIENCE`].
    pub(super) patience: Option<Duration>,
}

/// Why a session is over, or did not begin.
#[derive(Debug)]
pub(super) enum Lost {
    /// No answer to the handshake, or a refusal.
    Handshake(String),
    /// The connection ended, with a close code where there was one.
    Ended(Option<u16>),
    /// A subscribe was refused, with this error.
    Refused(Value),
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshake(reason) => write!(f, "no handshake: {reason}"),
            Self::Ended(code) => write!(f, "the connection ended, close code {code:?}"),
            Self::Refused(error) => write!(f, "refused: {error}"),
        }
    }
}

impl LogicalClient {
    /// A client with channels, whose log takes its times from a clock.
    pub(super) fn new(name: impl Into<String>, channels: Vec<String>, clock: Instant) -> Self {
        let name = name.into();
        let log = ClientLog::new(&name);
        Self {
            name,
            channels,
            habits: Habits::default(),
            clock,
            log,
            socket: None,
            asked: HashMap::new(),
            listed: HashMap::new(),
            single: HashMap::new(),
            last_id: 0,
            marks: BTreeMap::new(),
        }
    }

    pub(super) fn habits(mut self, habits: Habits) -> Self {
        self.habits = habits;
        self
    }

    /// Opens a session and asks for all channels, from where it stands. The answers come by [`receive`](Self::receive).
    pub(super) async fn connect(&mut self, node: SocketAddr) -> Result<(), Lost> {
        assert!(self.socket.is_none(), "{} is connected", self.name);
        let mut handshake =
            Handshake::new(node).header("authorization", &format!("Bearer {}", token(TENANT, &self.name)));
        if self.habits.msgpack {
            handshake = handshake.subprotocols("fanfare.v1.msgpack");
        }
        if let Some(bytes) = self.habits.receive_buffer {
            handshake = handshake.receive_buffer(bytes);
        }
        let opened = timeout(self.patience(), handshake.open_socket()).await;
        let (socket, _) = opened
            .map_err(|_| Lost::Handshake("no answer".to_owned()))?
            .map_err(|error| Lost::Handshake(error.to_string()))?;
        self.socket = Some(socket);
        let places = self.channels.iter().map(|channel| (channel.clone(), self.log.position(channel).cloned()));
        let places: Vec<_> = places.collect();
        if self.habits.by_list {
            self.ask(places).await
        } else {
            for place in places {
                self.ask(vec![place]).await?;
            }
            Ok(())
        }
    }

    /// As `connect`, to a node that has to be there, and waits for all answers.
    pub(super) async fn join(&mut self, node: SocketAddr) {
        self.connect(node).await.unwrap_or_else(|lost| panic!("{}: {lost}", self.name));
        self.receive_until("all answers", Self::is_subscribed).await;
    }

    /// Takes the next message into the log. The session is over where it fails.
    pub(super) async fn receive(&mut self) -> Result<(), Lost> {
        let socket = self.socket.as_mut().unwrap_or_else(|| panic!("{} is not connected", self.name));
        let received = Received::from_socket(socket.next().await);
        if let Received::Close(code) = received {
            return Err(self.lost(Lost::Ended(code)));
        }
        if received.is_end() {
            return Err(self.lost(Lost::Ended(None)));
        }
        let Some(object) = received.object() else { return Ok(()) };
        self.take(&object).await.map_err(|lost| self.lost(lost))
    }

    /// Receives until something is so; the session must live so long.
    pub(super) async fn receive_until(&mut self, what: &str, mut enough: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + crate::SOON;
        while !enough(self) {
            let left = deadline.saturating_duration_since(Instant::now());
            let received = timeout(left, self.receive()).await;
            let received = received.unwrap_or_else(|_| panic!("{} waited in vain for {what}", self.name));
            received.unwrap_or_else(|lost| panic!("{} waited for {what}: {lost}", self.name));
        }
    }

    /// Ends the session without a word.
    pub(super) fn cut(&mut self) {
        self.lost(Lost::Ended(None));
    }

    /// On how many channels a publication with this data came.
    pub(super) fn marks(&self, mark: &str) -> usize {
        self.marks.get(mark).map_or(0, BTreeSet::len)
    }

    /// Whether all its subscribes are answered.
    pub(super) fn is_subscribed(&self) -> bool {
        self.asked.is_empty()
    }

    /// Whether it is subscribed and stands at these offsets, or behind them.
    pub(super) fn has_reached(&self, offsets: &HashMap<String, u64>) -> bool {
        let stands = |channel: &String| self.log.position(channel).is_some_and(|own| own.offset >= offsets[channel]);
        self.socket.is_some() && self.is_subscribed() && self.channels.iter().all(stands)
    }

    /// What it received. A session that is open ends.
    pub(super) fn into_log(self) -> ClientLog {
        self.log
    }

    fn patience(&self) -> Duration {
        self.habits.patience.unwrap_or(PATIENCE)
    }

    fn lost(&mut self, lost: Lost) -> Lost {
        if self.socket.take().is_some() {
            self.log.disconnected(self.clock.elapsed());
        }
        self.asked.clear();
        self.listed.clear();
        self.single.clear();
        lost
    }

    async fn ask(&mut self, places: Vec<(String, Option<Position>)>) -> Result<(), Lost> {
        self.last_id += 1;
        let asked = places.iter().map(|(channel, since)| match since {
            Some(Position { offset, epoch }) => {
                json!({ "channel": channel, "since": { "offset": offset, "epoch": **epoch } })
            }
            None => json!({ "channel": channel }),
        });
        let mut asked: Vec<_> = asked.collect();
        let mut command = match self.habits.by_list {
            true => json!({ "channels": asked }),
            false => asked.remove(0),
        };
        command["type"] = "subscribe".into();
        command["id"] = self.last_id.into();
        self.asked.insert(self.last_id, places.iter().map(|(channel, _)| channel.clone()).collect());
        let waiting = if self.habits.by_list { &mut self.listed } else { &mut self.single };
        waiting.extend(places);
        self.send(&command).await
    }

    async fn send(&mut self, command: &Value) -> Result<(), Lost> {
        let message = match self.habits.msgpack {
            true => Message::binary(msgpack::encode(command)),
            false => Message::text(command.to_string()),
        };
        let patience = self.patience();
        let socket = self.socket.as_mut().expect("only who is connected sends");
        match timeout(patience, socket.send(message)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(self.lost(Lost::Ended(None))),
        }
    }

    async fn take(&mut self, object: &Value) -> Result<(), Lost> {
        let at = self.clock.elapsed();
        if let Some(id) = object["id"].as_u64() {
            let channels = self.asked.remove(&id).unwrap_or_else(|| panic!("nobody asked for {object}"));
            return self.answered(at, object, &channels);
        }
        match object["event"].as_str() {
            Some("system:ping") => self.send(&json!({ "type": "pong" })).await,
            Some("system:gap") => {
                let data = &object["data"];
                let (from, to) = (position_in(&data["from"]), position_in(&data["to"]));
                let reason = text(&data["reason"]).to_owned();
                self.log.gap(at, text(&data["channel"]), Gap { reason, from, to });
                Ok(())
            }
            Some("system:subscribed") => {
                let channel = text(&object["data"]["channel"]);
                let since = self.listed.remove(channel).unwrap_or_else(|| panic!("nobody asked for {object}"));
                self.subscribed(at, channel, since, &object["data"]);
                Ok(())
            }
            Some("system:error") => Err(Lost::Refused(object["data"].clone())),
            Some(event) if event.starts_with("system:") => Ok(()),
            Some(_) => {
                let channel = text(&object["channel"]);
                self.mark(channel, object);
                self.log.delivered(at, channel, delivered_in(object));
                Ok(())
            }
            None => panic!("neither reply nor push: {object}"),
        }
    }

    fn answered(&mut self, at: Duration, reply: &Value, channels: &[String]) -> Result<(), Lost> {
        if reply["type"] == "error" {
            return Err(Lost::Refused(reply.clone()));
        }
        let result = &reply["result"];
        let Some(outcomes) = result["subscriptions"].as_array() else {
            let since = self.single.remove(&channels[0]).expect("it was asked for alone");
            assert_eq!(result["channel"], channels[0].as_str(), "{reply}");
            self.subscribed(at, &channels[0], since, result);
            return Ok(());
        };
        assert_eq!(outcomes.len(), channels.len(), "{reply}");
        for (outcome, channel) in outcomes.iter().zip(channels) {
            assert_eq!(outcome["channel"], channel.as_str(), "{reply}");
            if !outcome["error"].is_null() {
                return Err(Lost::Refused(outcome["error"].clone()));
            }
            assert!(!self.listed.contains_key(channel), "the list was answered before {channel} was told of");
        }
        Ok(())
    }

    fn subscribed(&mut self, at: Duration, channel: &str, since: Option<Position>, result: &Value) {
        let publications = result["publications"].as_array().map_or(&[][..], Vec::as_slice);
        publications.iter().for_each(|publication| self.mark(channel, publication));
        let subscribed = Subscribed {
            since,
            recovered: result["recovered"].as_bool(),
            publications: publications.iter().map(delivered_in).collect(),
            position: position_in(&result["position"]),
        };
        self.log.subscribed(at, channel, subscribed);
    }

    fn mark(&mut self, channel: &str, publication: &Value) {
        if let Some(mark) = publication["data"].as_str().filter(|data| data.starts_with(MARK)) {
            self.marks.entry(mark.to_owned()).or_default().insert(channel.to_owned());
        }
    }
}

/// A publication in a push or a reply.
pub(super) fn delivered_in(publication: &Value) -> Delivered {
    Delivered::new(text(&publication["id"]), text(&publication["data"]), position_in(publication))
}

/// A position, or an object that carries one.
pub(super) fn position_in(value: &Value) -> Option<Position> {
    Some(Position::new(value["offset"].as_u64()?, value["epoch"].as_str()?))
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}
