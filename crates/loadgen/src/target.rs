//! What is measured and how it is spoken to: the options that all commands share.

use std::{net::SocketAddr, time::SystemTime};

use clap::{Args, builder::TypedValueParser as _};

use crate::{LoadError, literal::Literal, process::Usage, token};

/// The servers, the sockets, and what is published to them.
///
/// In the path, the subprotocol, the hello and the subject `{n}` is the channel's number, `{i}` the socket's, and
/// `{token}` a token for the socket, made with the secret.
#[derive(Clone, Debug, Args)]
pub(crate) struct Target {
    /// The server's address. Given several times: the nodes of a cluster, among which the sockets are dealt out.
    #[arg(long = "server", required = true, value_name = "ADDRESS")]
    pub(crate) servers: Vec<SocketAddr>,
    /// The server's process, for its CPU time and memory; of several the sum.
    #[arg(long = "pid", required = true, value_name = "PID")]
    pub(crate) pids: Vec<u32>,
    /// The broker's process, where a server has one, for its CPU time.
    #[arg(long)]
    pub(crate) broker_pid: Option<u32>,
    /// Path and query of the handshake.
    #[arg(long, default_value = "/ws?channels=bench:{n}")]
    pub(crate) path: String,
    /// The WebSocket subprotocol that is offered.
    #[arg(long)]
    pub(crate) protocol: Option<String>,
    /// Offers permessage-deflate without context takeover. Compressed frames are counted, not the events in them.
    #[arg(long)]
    pub(crate) deflate: bool,
    /// What a socket sends after its handshake, for servers that do not subscribe by path: text with `\\r` and `\\n`, or
    /// `hex:…` for a binary message.
    #[arg(long)]
    pub(crate) hello: Option<String>,
    /// What stands in every event and in nothing else, right before the time it was published at: a frame may hold several
    /// events. Empty: frames are counted.
    #[arg(long, default_value = "\"t\":")]
    pub(crate) marker: Literal,
    /// What stands in the answer to a subscription, which each socket waits for; empty: the handshake is enough.
    #[arg(long, default_value = "system:subscribed")]
    pub(crate) subscribed: Literal,
    /// A message that is a ping by the server's own protocol.
    #[arg(long, requires = "pong")]
    pub(crate) ping: Option<Literal>,
    /// What is answered to that ping.
    #[arg(long)]
    pub(crate) pong: Option<Literal>,
    /// What tokens are signed with (HS256).
    #[arg(long)]
    pub(crate) secret: Option<String>,
    /// Sockets.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) sockets: usize,
    /// Channels; socket i is on channel i modulo this.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..).map(|channels| channels as usize))]
    pub(crate) channels: usize,
    /// Bytes of an event's data.
    #[arg(long, default_value_t = 128)]
    pub(crate) bytes: usize,
    /// Where to publish: `floor` for the floor's own port, or a URL of `nats:`, `http:`, `mqtt:`, `socketio+redis:` or
    /// `pusher+http:` (`pusher+http://KEY:SECRET@HOST:PORT/APP`). A path of `http:` may hold `{n}`.
    #[arg(long, default_value = "floor")]
    pub(crate) publish: String,
    /// The NATS subject, the MQTT topic, the Socket.IO room or the Pusher channel.
    #[arg(long, default_value = "rt.pub.default.bench.{n}")]
    pub(crate) subject: String,
}

impl Target {
    /// The server of a socket.
    pub(crate) fn server(&self, socket: usize) -> SocketAddr {
        self.servers[socket % self.servers.len()]
    }

    /// The channel of a socket.
    pub(crate) fn channel(&self, socket: usize) -> usize {
        socket % self.channels
    }

    /// How many of the sockets `0..sockets` are on a channel.
    pub(crate) fn subscribers(&self, channel: usize, sockets: usize) -> usize {
        (sockets + self.channels - 1 - channel) / self.channels
    }

    /// A socket's request for the upgrade.
    pub(crate) fn request(&self, socket: usize) -> Vec<u8> {
        let (server, path) = (self.server(socket), self.filled(&self.path, socket));
        let protocol = self.protocol.as_deref().map(|name| self.filled(name, socket));
        let protocol = protocol.map(|name| format!("Sec-WebSocket-Protocol: {name}\r\n")).unwrap_or_default();
        let extension = if self.deflate {
            "Sec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover\r\n"
        } else {
            ""
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n{protocol}{extension}\r\n"
        );
        request.into_bytes()
    }

    /// What a socket sends once it is upgraded.
    pub(crate) fn hello(&self, socket: usize) -> Result<Option<Literal>, LoadError> {
        self.hello.as_deref().map(|hello| self.filled(hello, socket).parse()).transpose()
    }

    /// A template with its places filled for a socket.
    pub(crate) fn filled(&self, template: &str, socket: usize) -> String {
        let text = template.replace("{n}", &self.channel(socket).to_string()).replace("{i}", &socket.to_string());
        if !text.contains("{token}") {
            return text;
        }
        let channel = format!("bench:{}", self.channel(socket));
        let secret = self.secret.as_deref().unwrap_or_default();
        text.replace("{token}", &token::signed(secret, &format!("user-{socket}"), &channel, SystemTime::now()))
    }

    /// What servers, broker and load have used until now.
    pub(crate) fn usage(&self) -> Result<Usage, LoadError> {
        Usage::read(&self.pids, self.broker_pid)
    }
}

/// Options from words, for tests.
#[cfg(test)]
pub(crate) fn parsed<T: Args>(words: impl IntoIterator<Item = impl AsRef<str>>) -> T {
    let words = words.into_iter().map(|word| word.as_ref().to_owned());
    let matches = T::augment_args(clap::Command::new("load").no_binary_name(true)).try_get_matches_from(words);
    let options = matches.and_then(|matches| T::from_arg_matches(&matches));
    options.unwrap_or_else(|error| panic!("{error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(options: &[&str]) -> Target {
        let always = ["--server", "127.0.0.1:1", "--server", "127.0.0.1:2", "--pid", "1"];
        parsed(always.iter().chain(options))
    }

    #[test]
    fn places_are_filled_for_each_socket() {
        let target = target(&["--channels", "3", "--path", "/{n}/{i}", "--hello", "SUB {n}\\r\\n"]);
        assert!(target.request(7).starts_with(b"GET /1/7 HTTP/1.1\r\nHost: 127.0.0.1:2\r\n"));
        assert_eq!(target.hello(5).unwrap().unwrap().bytes, b"SUB 2\r\n");
        let counts: Vec<_> = (0..3).map(|channel| target.subscribers(channel, 8)).collect();
        assert_eq!(counts, [3, 3, 2]);
    }

    #[test]
    fn a_token_is_made_where_it_is_asked_for() {
        let target = target(&["--path", "/ws?token={token}", "--secret", "s"]);
        let path = target.filled(&target.path, 4);
        assert_eq!(path.split('.').count(), 3, "{path}");
    }
}
