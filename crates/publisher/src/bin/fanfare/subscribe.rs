//! `fanfare subscribe`: prints events as they come, over the WebSocket of a node.

use std::time::Duration;

use clap::Args;
use fanfare_protocol::Topic;
use fanfare_publisher::{Epoch, Position, RetryPolicy};
use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Error, Message, error::UrlError, protocol::CloseFrame},
};
use url::Url;

use crate::{
    exit,
    exit::Failed,
    output,
    positions::{self, Positions},
};

const EXAMPLES: &str = "\
Examples:
  fanfare subscribe project:clx123
  fanfare subscribe 'project:*' --url wss://rt.example.com/ws --count 10 | jq .data
  fanfare subscribe project:clx123 --count 1 --timeout 10s || echo 'nothing came'
  fanfare subscribe project:clx123 --rewind 10
  fanfare subscribe project:clx123 --since b7f2.41
  export FANFARE_TOKEN=$(fanfare token --sub a --channel 'user:*' --allow subscribe)
  fanfare subscribe user:a project:clx123

Each event is one line of JSON. What the node itself says (system:…) goes to
standard error. After a break it connects again by itself, unless the node says
that this is of no use (close codes 4500 to 4999). On channels with history it
goes on where it was, and each event is printed once; where events may have been
missed, and on channels without history, that is told on standard error.

An event of a channel with history carries \"offset\" and \"epoch\": the position to
go on from with --since EPOCH.OFFSET.";

/// Print the events of channels as they come, one line of JSON each.
#[derive(Args)]
#[command(after_long_help = format!("{EXAMPLES}\n\n{}", exit::HELP))]
pub(crate) struct Arguments {
    /// Channels, or patterns such as 'project:*' where the namespace permits
    #[arg(required = true, value_name = "CHANNEL")]
    channels: Vec<String>,
    /// The WebSocket of a node
    #[arg(long, env = "FANFARE_WS_URL", hide_env_values = true, default_value = "ws://127.0.0.1:8000/ws")]
    url: String,
    /// A token; without it the client is anonymous. Other users of the machine can see arguments: prefer the variable
    #[arg(long, env = "FANFARE_TOKEN", hide_env_values = true)]
    token: Option<String>,
    /// Begin behind this position of the channel: an event's epoch and offset. One channel with history, no pattern
    #[arg(long, value_name = "EPOCH.OFFSET", value_parser = positions::parse)]
    since: Option<Position>,
    /// Begin with the newest so many events of each channel; with --since only where that cannot be recovered from.
    /// Channels with history, no patterns
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    rewind: Option<u32>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// End after so long, with exit code 4 where --count is given and was not reached
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// How long to go on trying to connect, at the start and after a break
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = humantime::parse_duration)]
    deadline: Duration,
}

/// Pauses between attempts to connect.
const RETRY: RetryPolicy = RetryPolicy { base: Duration::from_millis(250), cap: Duration::from_secs(10) };

/// How long the node may take for a handshake, and to answer the commands.
const ANSWER: Duration = Duration::from_secs(10);

/// The ids of the two commands.
const CONNECT: u64 = 1;
const SUBSCRIBE: u64 = 2;

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Prints events until there were enough.
pub(crate) async fn run(arguments: Arguments) -> Result<(), Failed> {
    for channel in &arguments.channels {
        Topic::parse(channel).map_err(|error| Failed::usage(format!("channel {channel:?}: {error}")))?;
    }
    let url = Url::parse(&arguments.url);
    if !url.is_ok_and(|url| matches!(url.scheme(), "ws" | "wss")) {
        let url = fanfare_broker::mask_url(&arguments.url);
        return Err(Failed::usage(format!("url {url:?}: allowed are ws://… and wss://…")));
    }
    let positions = Positions::new(arguments.channels.clone(), arguments.since.clone(), arguments.rewind);
    let positions = positions.map_err(Failed::usage)?;
    let subscriber = Subscriber { count: arguments.count.unwrap_or(u64::MAX), arguments, positions, printed: 0 };
    let (limit, counted) = (subscriber.arguments.timeout, subscriber.arguments.count.is_some());
    match limit {
        None => subscriber.run().await,
        Some(limit) => match timeout(limit, subscriber.run()).await {
            Ok(ended) => ended,
            Err(_) if counted => Err(Failed::unavailable(format!("fewer events came within {limit:?}"))),
            Err(_) => Ok(()),
        },
    }
}

struct Subscriber {
    arguments: Arguments,
    positions: Positions,
    count: u64,
    printed: u64,
}

/// How one connection ended.
enum Ended {
    /// There were enough events.
    Enough,
    /// It broke, or the node closed it: connect again, after at least so long.
    Broken { reason: String, after: Duration },
}

impl Ended {
    fn broken(reason: impl Into<String>) -> Self {
        Self::Broken { reason: reason.into(), after: Duration::ZERO }
    }
}

impl Subscriber {
    async fn run(mut self) -> Result<(), Failed> {
        let mut failures = 0;
        let mut give_up = Instant::now() + self.arguments.deadline;
        loop {
            let mut connection = Connection::default();
            let ended = match timeout_at(give_up, self.open()).await {
                Ok(Ok(socket)) => self.follow(socket, &mut connection, give_up).await?,
                Ok(Err(error)) => refused_for_good(&error, &self.arguments.url)?,
                Err(_) => Ended::broken("no answer"),
            };
            let Ended::Broken { reason, after } = ended else { return Ok(()) };
            if connection.subscribed {
                failures = 0;
                give_up = Instant::now() + self.arguments.deadline;
                let meanwhile = match self.positions.all_known() {
                    true => "what comes until then is asked for afterwards",
                    false => "events may be missed until then",
                };
                eprintln!("fanfare: {reason}; connecting again, {meanwhile}");
            }
            if failures == 0 && !connection.subscribed {
                eprintln!("fanfare: {reason}; going on to try for {:?}", self.arguments.deadline);
            }
            failures += 1;
            let delay = RETRY.delay_with_hint(failures, fastrand::f64(), Some(after));
            if Instant::now() + delay >= give_up {
                let (url, deadline) = (fanfare_broker::mask_url(&self.arguments.url), self.arguments.deadline);
                return Err(Failed::unavailable(format!("{url}: no connection within {deadline:?}: {reason}")));
            }
            sleep(delay).await;
        }
    }

    async fn open(&self) -> Result<Socket, Error> {
        let (mut socket, _) = tokio_tungstenite::connect_async(&self.arguments.url).await?;
        // Both at once: nobody has to wait a round trip.
        let mut connect = json!({ "id": CONNECT, "type": "connect" });
        if let Some(token) = self.arguments.token.as_ref().filter(|token| !token.is_empty()) {
            connect["token"] = json!(token);
        }
        let subscribe = json!({ "id": SUBSCRIBE, "type": "subscribe", "channels": self.positions.wanted() });
        socket.feed(Message::text(connect.to_string())).await?;
        socket.send(Message::text(subscribe.to_string())).await?;
        Ok(socket)
    }

    /// Reads until the connection ends. The commands have to be answered by `give_up`.
    async fn follow(
        &mut self,
        mut socket: Socket,
        connection: &mut Connection,
        give_up: Instant,
    ) -> Result<Ended, Failed> {
        loop {
            let silence = Instant::now() + connection.silence();
            let until = if connection.subscribed { silence } else { silence.min(give_up) };
            let Ok(next) = timeout_at(until, socket.next()).await else {
                return Ok(Ended::broken("the node has fallen silent"));
            };
            let step = match next {
                None => return Ok(Ended::broken("the connection has ended")),
                Some(Err(error)) => return Ok(Ended::broken(format!("the connection broke: {error}"))),
                Some(Ok(Message::Text(text))) => self.take(&text, connection)?,
                Some(Ok(Message::Close(frame))) => return closed(frame, connection.reconnect_after),
                Some(Ok(_)) => Step::Go,
            };
            match step {
                Step::Go => {}
                Step::Answer(text) => {
                    // Where it cannot be sent, the next read says why.
                    let _ = socket.send(Message::text(text)).await;
                }
                Step::End(ended) => {
                    // A courtesy: the node need not find out by itself.
                    let _ = timeout(Duration::from_secs(1), socket.close(None)).await;
                    return Ok(ended);
                }
            }
        }
    }

    /// One frame of the node.
    fn take(&mut self, text: &str, connection: &mut Connection) -> Result<Step, Failed> {
        let frame: Frame<'_> = match serde_json::from_str(text) {
            Ok(frame) => frame,
            Err(error) => {
                eprintln!("fanfare: passed over a frame that is none of the protocol's: {error}");
                return Ok(Step::Go);
            }
        };
        match (frame.r#type.as_deref(), frame.event.as_deref()) {
            (Some("reply"), _) => connection.reply(frame.id.and_then(|id| id.get().parse().ok()), frame.result),
            (Some("error"), _) => refused(&error_of(text), "the node refused"),
            (_, Some("system:ping")) => Ok(Step::Answer(r#"{"type":"pong"}"#)),
            (_, Some("system:subscribed")) => self.begin(frame.data),
            (_, Some(event)) if event.starts_with("system:") => {
                eprintln!("{}", one_line(text));
                match event {
                    "system:draining" => connection.reconnect_after = reconnect_after(frame.data),
                    "system:gap" => self.pass_over(frame.data),
                    _ => {}
                }
                Ok(Step::Go)
            }
            (_, Some(_)) => self.print(text, frame.place),
            (_, None) => Ok(Step::Go),
        }
    }

    /// A channel with history is subscribed to: what lies behind the position that was asked for comes first.
    fn begin(&mut self, data: Option<&RawValue>) -> Result<Step, Failed> {
        let Some(Ok(begun)) = data.map(|data| serde_json::from_str::<Begun<'_>>(data.get())) else {
            return Ok(Step::Go);
        };
        if begun.recovered == Some(false) {
            eprintln!("fanfare: events on {} may have been missed", begun.channel);
        }
        for publication in begun.publications {
            let place: Place = serde_json::from_str(publication.get()).unwrap_or_default();
            if let end @ Step::End(_) = self.print(publication.get(), place)? {
                return Ok(end);
            }
        }
        if let Some(position) = begun.position {
            self.positions.advance(&begun.channel, position);
        }
        Ok(Step::Go)
    }

    /// What was missed for good is not asked for again.
    fn pass_over(&mut self, data: Option<&RawValue>) {
        if let Some(Ok(Gap { channel, to: Some(to) })) = data.map(|data| serde_json::from_str(data.get())) {
            self.positions.advance(&channel, to);
        }
    }

    /// Prints an event, unless that was done on a connection before.
    fn print(&mut self, text: &str, place: Place) -> Result<Step, Failed> {
        if let Place { channel: Some(channel), offset: Some(offset), epoch: Some(epoch) } = place
            && !self.positions.advance(&channel, Position { offset, epoch })
        {
            return Ok(Step::Go);
        }
        output::line(one_line(text).as_bytes())?;
        self.printed += 1;
        Ok(if self.printed >= self.count { Step::End(Ended::Enough) } else { Step::Go })
    }
}

/// What is known of one connection.
#[derive(Default)]
struct Connection {
    subscribed: bool,
    ping_interval: Option<Duration>,
    /// What the node asked for before it closes.
    reconnect_after: Duration,
}

impl Connection {
    /// How long the node may be silent: it pings in between.
    fn silence(&self) -> Duration {
        self.ping_interval.map_or(ANSWER, |interval| interval * 2 + ANSWER)
    }

    fn reply(&mut self, id: Option<u64>, result: Option<&RawValue>) -> Result<Step, Failed> {
        let result = result.map_or("{}", RawValue::get);
        match id {
            Some(CONNECT) => {
                let connected: Connected = serde_json::from_str(result).unwrap_or_default();
                self.ping_interval = connected.ping_interval_ms.map(Duration::from_millis);
            }
            Some(SUBSCRIBE) => {
                let outcome: Subscriptions = serde_json::from_str(result).unwrap_or_default();
                for subscription in outcome.subscriptions {
                    if let Some(error) = subscription.error {
                        return refused(&error, &format!("{} was refused", subscription.channel));
                    }
                }
                self.subscribed = true;
                eprintln!("fanfare: subscribed");
            }
            _ => {}
        }
        Ok(Step::Go)
    }
}

/// What to do after a frame.
enum Step {
    Go,
    Answer(&'static str),
    End(Ended),
}

/// What is read of every frame of a node.
#[derive(Deserialize)]
struct Frame<'a> {
    r#type: Option<String>,
    event: Option<String>,
    /// A number in replies, a text in events.
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(flatten)]
    place: Place,
}

/// Where an event stands; the position is there on channels with history.
#[derive(Default, Deserialize)]
struct Place {
    channel: Option<String>,
    offset: Option<u64>,
    epoch: Option<Epoch>,
}

/// The data of `system:subscribed`.
#[derive(Deserialize)]
struct Begun<'a> {
    channel: String,
    position: Option<Position>,
    recovered: Option<bool>,
    #[serde(borrow, default)]
    publications: Vec<&'a RawValue>,
}

/// The data of `system:gap`.
#[derive(Deserialize)]
struct Gap {
    channel: String,
    to: Option<Position>,
}

#[derive(Default, Deserialize)]
struct Connected {
    ping_interval_ms: Option<u64>,
}

#[derive(Default, Deserialize)]
struct Subscriptions {
    subscriptions: Vec<Subscription>,
}

#[derive(Deserialize)]
struct Subscription {
    channel: String,
    error: Option<ErrorFields>,
}

#[derive(Default, Deserialize)]
struct ErrorFields {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    retryable: bool,
    reconnect_after_ms: Option<u64>,
}

fn error_of(text: &str) -> ErrorFields {
    serde_json::from_str(text).unwrap_or_default()
}

/// A refusal that may pass is a reason to connect again, any other one is the end.
fn refused(error: &ErrorFields, what: &str) -> Result<Step, Failed> {
    let text = format!("{what}: {}: {}", error.code, error.message);
    if !error.retryable {
        return Err(Failed::refused(text));
    }
    let after = Duration::from_millis(error.reconnect_after_ms.unwrap_or_default());
    Ok(Step::End(Ended::Broken { reason: text, after }))
}

/// Close codes 4500 to 4999 mean: do not come back.
fn closed(frame: Option<CloseFrame>, after: Duration) -> Result<Ended, Failed> {
    let Some(frame) = frame else { return Ok(Ended::Broken { reason: "the node closed".into(), after }) };
    let text = format!("the node closed with {} {}", u16::from(frame.code), frame.reason);
    match u16::from(frame.code) {
        4500..=4999 => Err(Failed::refused(text)),
        _ => Ok(Ended::Broken { reason: text, after }),
    }
}

/// Whether another attempt to connect is of use.
fn refused_for_good(error: &Error, url: &str) -> Result<Ended, Failed> {
    let text = format!("{}: {error}", fanfare_broker::mask_url(url));
    match error {
        Error::Url(UrlError::UnableToConnect(_)) => Ok(Ended::broken(error.to_string())),
        Error::Url(_) | Error::HttpFormat(_) => Err(Failed::usage(text)),
        Error::Http(response) => {
            let status = response.status();
            let asked = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
            match status.as_u16() {
                408 | 429 | 500.. => Ok(Ended::Broken {
                    reason: error.to_string(),
                    after: asked.map(Duration::from_secs).unwrap_or_default(),
                }),
                _ => Err(Failed::refused(text)),
            }
        }
        error => Ok(Ended::broken(error.to_string())),
    }
}

fn reconnect_after(data: Option<&RawValue>) -> Duration {
    let fields: Option<ErrorFields> = data.and_then(|data| serde_json::from_str(data.get()).ok());
    Duration::from_millis(fields.and_then(|fields| fields.reconnect_after_ms).unwrap_or_default())
}

/// In JSON a line break can only be white space between values.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_code_says_whether_to_come_back() {
        let close = |code: u16| closed(Some(CloseFrame { code: code.into(), reason: "why".into() }), Duration::ZERO);
        for code in [1000, 1011, 4000, 4499] {
            assert!(matches!(close(code), Ok(Ended::Broken { .. })), "{code}");
        }
        for code in [4500, 4999] {
            assert!(close(code).is_err(), "{code}");
        }
    }

    #[test]
    fn a_refusal_says_whether_to_come_back() {
        let error = |text: &str| refused(&error_of(text), "it was refused");
        let lasting = error(r#"{"code":"FORBIDDEN","message":"m","retryable":false}"#).err().unwrap();
        assert_eq!(lasting.message(), Some("it was refused: FORBIDDEN: m"));
        let passing = error(r#"{"code":"UNAVAILABLE","message":"m","retryable":true,"reconnect_after_ms":70}"#);
        assert!(matches!(passing, Ok(Step::End(Ended::Broken { after, .. })) if after == Duration::from_millis(70)));
    }

    #[test]
    fn an_event_is_one_line() {
        assert_eq!(one_line("{\"data\":{\r\n\"a\": \"x\\ny\"}}"), "{\"data\":{  \"a\": \"x\\ny\"}}");
    }
}
