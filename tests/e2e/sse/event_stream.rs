//! A client of server-sent events that reads every byte itself, as WHATWG HTML section 9.2.6 says.

use std::{collections::VecDeque, net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::{SOON, node::Node, raw::Answer};

/// An open stream.
pub(super) struct EventStream {
    stream: TcpStream,
    input: Vec<u8>,
    parser: EventParser,
    /// Status line and headers, in lower case.
    pub(super) head: String,
}

/// What comes of the bytes of a stream, one line after the other.
#[derive(Default)]
pub(super) struct EventParser {
    name: String,
    data: String,
    id: String,
    events: VecDeque<Event>,
    /// What the client would come back with.
    pub(super) last_id: String,
    /// How long it would wait, in milliseconds.
    pub(super) retry: Option<u64>,
    /// Comments so far.
    pub(super) comments: usize,
}

/// An event as a browser dispatches it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Event {
    pub(super) name: String,
    /// What `lastEventId` is.
    pub(super) id: String,
    pub(super) object: Value,
}

impl EventStream {
    /// Opens a stream at a target such as `/sse?channels=a:b`, with more headers, each ended by CR LF.
    pub(super) async fn open(node: &Node, target: &str, headers: &str) -> Self {
        let socket = TcpSocket::new_v4().expect("a socket can be had");
        Self::open_by(socket, node.public(), target, headers).await
    }

    /// The same on a socket with options.
    pub(super) async fn open_by(socket: TcpSocket, address: SocketAddr, target: &str, headers: &str) -> Self {
        match Self::request(socket, address, &format!("GET {target} HTTP/1.1\r\nHost: test\r\n{headers}\r\n")).await {
            Ok(stream) => stream,
            Err(answer) => panic!("{answer:?} instead of a stream at {target}"),
        }
    }

    /// Opens the stream of some channels, where another one was when it ended.
    pub(super) async fn come_back(node: &Node, target: &str, last_id: &str) -> Self {
        Self::open(node, target, &format!("Last-Event-ID: {last_id}\r\n")).await
    }

    /// Sends a request; the answer, where it is no stream.
    pub(super) async fn request(socket: TcpSocket, address: SocketAddr, request: &str) -> Result<Self, Answer> {
        let mut stream = socket.connect(address).await.expect("the node listens");
        stream.write_all(request.as_bytes()).await.expect("the node reads");
        let mut input = Vec::new();
        let end = loop {
            match input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => break end + 4,
                None => assert!(fill(&mut stream, &mut input).await, "the end instead of an answer: {input:?}"),
            }
        };
        let head = String::from_utf8(input.drain(..end).collect()).expect("ASCII").to_ascii_lowercase();
        if head.starts_with("http/1.1 200 ") && head.contains("\r\ncontent-type: text/event-stream\r\n") {
            return Ok(Self { stream, input, parser: EventParser::default(), head });
        }
        let status = head.split(' ').nth(1).and_then(|word| word.parse().ok()).expect("a status line");
        while fill(&mut stream, &mut input).await {}
        Err(Answer { status, head, body: String::from_utf8(input).expect("JSON is UTF-8") })
    }

    /// The next event; `None` at the end of the stream.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            self.parser.take_lines(&mut self.input);
            if let Some(event) = self.parser.events.pop_front() {
                return Some(event);
            }
            if !fill(&mut self.stream, &mut self.input).await {
                // As every client does; the node may be gone already.
                let _ = self.stream.shutdown().await;
                return None;
            }
        }
    }

    /// The next event, which must be there.
    pub(super) async fn event(&mut self) -> Event {
        self.next().await.expect("an event before the end")
    }

    /// The next event, which must have this name; its data.
    pub(super) async fn expect(&mut self, name: &str) -> Value {
        let event = self.event().await;
        assert_eq!(event.name, name, "{event:?}");
        event.object["data"].clone()
    }

    /// The next publication; what the node says of itself before it is passed over.
    pub(super) async fn publication(&mut self) -> Event {
        loop {
            let event = self.event().await;
            if !event.name.starts_with("system:") {
                return event;
            }
        }
    }

    /// Channel and number of as many publications.
    pub(super) async fn numbers(&mut self, count: usize) -> Vec<(String, u64)> {
        let mut numbers = Vec::with_capacity(count);
        for _ in 0..count {
            numbers.push(self.publication().await.number());
        }
        numbers
    }

    /// Waits until all these are subscribed; their answers.
    pub(super) async fn subscribed(&mut self, channels: usize) -> Vec<Value> {
        self.expect("system:connected").await;
        let mut answers = Vec::new();
        for _ in 0..channels {
            answers.push(self.expect("system:subscribed").await);
        }
        answers
    }

    /// Reads to the end.
    pub(super) async fn end(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }

    /// Whether no event comes within a time. Comments may.
    pub(super) async fn is_silent(&mut self, time: Duration) -> bool {
        timeout(time, self.next()).await.is_err()
    }

    pub(super) fn last_id(&self) -> &str {
        &self.parser.last_id
    }

    pub(super) fn retry(&self) -> Option<u64> {
        self.parser.retry
    }

    pub(super) fn comments(&self) -> usize {
        self.parser.comments
    }
}

impl EventParser {
    /// Takes all lines that are whole.
    fn take_lines(&mut self, input: &mut Vec<u8>) {
        let mut begin = 0;
        while let Some(length) = input[begin..].iter().position(|byte| *byte == b'\n') {
            let line = std::str::from_utf8(&input[begin..begin + length]).expect("a stream is UTF-8");
            assert!(!line.contains('\r'), "the node ends lines by LF: {line:?}");
            self.take_line(line);
            begin += length + 1;
        }
        input.drain(..begin);
    }

    /// All events of a text that is whole.
    pub(super) fn events(&mut self, text: &str) -> Vec<Event> {
        self.take_lines(&mut text.as_bytes().to_vec());
        self.events.drain(..).collect()
    }

    fn take_line(&mut self, line: &str) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" if line.is_empty() => self.dispatch(),
            "" => self.comments += 1,
            "event" => value.clone_into(&mut self.name),
            "data" => self.data += &format!("{value}\n"),
            "id" => value.clone_into(&mut self.id),
            "retry" => self.retry = Some(value.parse().expect("a number")),
            other => panic!("a field {other:?}"),
        }
    }

    fn dispatch(&mut self) {
        self.last_id.clone_from(&self.id);
        let (name, data) = (std::mem::take(&mut self.name), std::mem::take(&mut self.data));
        if let Some(data) = data.strip_suffix('\n') {
            let object: Value = serde_json::from_str(data).unwrap_or_else(|error| panic!("{data:?}: {error}"));
            assert_eq!(object["event"], name.as_str(), "the event's name is in its data too");
            self.events.push_back(Event { name, id: self.id.clone(), object });
        }
    }
}

impl Event {
    /// Channel and number of a publication.
    pub(super) fn number(&self) -> (String, u64) {
        let channel = self.object["channel"].as_str().unwrap_or_else(|| panic!("{self:?} is no publication"));
        let number = self.object["data"].as_u64().or(self.object["data"]["n"].as_u64());
        (channel.to_owned(), number.unwrap_or_else(|| panic!("{self:?} has no number")))
    }
}

/// Reads more; `false` at the end, whether it is polite or not.
async fn fill(stream: &mut TcpStream, input: &mut Vec<u8>) -> bool {
    let read = timeout(SOON, stream.read_buf(input)).await.unwrap_or_else(|_| panic!("nothing came, and no end"));
    read.is_ok_and(|count| count > 0)
}
