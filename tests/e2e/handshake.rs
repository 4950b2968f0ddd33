//! The handshake of a client, by a WebSocket library of others.

use std::net::SocketAddr;

use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{
        self,
        client::IntoClientRequest,
        handshake::client::{Request, Response},
        http::{HeaderName, HeaderValue},
        protocol::WebSocketConfig,
    },
};

use crate::{SOON, client::Client, token::token};

/// A buffer per client; the library's default of 128 KiB is too much where there are a thousand.
const READ_BUFFER_BYTES: usize = 8 * 1024;

/// A handshake that is put together.
pub(crate) struct Handshake {
    address: SocketAddr,
    query: Vec<String>,
    headers: Vec<(String, String)>,
    receive_buffer: Option<u32>,
}

/// Where a client puts its token.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenPlace {
    Command,
    Subprotocol,
    Header,
    Query,
}

impl TokenPlace {
    pub(crate) const ALL: [Self; 4] = [Self::Command, Self::Subprotocol, Self::Header, Self::Query];
}

impl Handshake {
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, query: Vec::new(), headers: Vec::new(), receive_buffer: None }
    }

    /// Adds to the query, as it stands: `channels=a,b`.
    pub(crate) fn query(mut self, pair: &str) -> Self {
        self.query.push(pair.to_owned());
        self
    }

    /// Adds a header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Offers subprotocols, separated by commas.
    pub(crate) fn subprotocols(self, offers: &str) -> Self {
        self.header("sec-websocket-protocol", offers)
    }

    /// How many bytes the kernel takes for a client that does not read (`SO_RCVBUF`; the kernel doubles it).
    pub(crate) fn receive_buffer(mut self, bytes: u32) -> Self {
        self.receive_buffer = Some(bytes);
        self
    }

    /// Opens the WebSocket.
    pub(crate) async fn open(self) -> Client {
        let address = self.address;
        let (client, _) = self.try_open().await.unwrap_or_else(|error| panic!("the handshake at {address}: {error}"));
        client
    }

    /// Opens the WebSocket; gives the answer too, or says why it was refused.
    pub(crate) async fn try_open(self) -> Result<(Client, Response), tungstenite::Error> {
        let (socket, response) = self.open_socket().await?;
        Ok((Client::new(socket), response))
    }

    /// Opens the WebSocket for a client that is less than a [`Client`].
    pub(crate) async fn open_socket(self) -> Result<(WebSocketStream<TcpStream>, Response), tungstenite::Error> {
        let request = self.request();
        let socket = TcpSocket::new_v4()?;
        if let Some(bytes) = self.receive_buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        let opening = async {
            let stream = socket.connect(self.address).await?;
            stream.set_nodelay(true)?;
            let config = WebSocketConfig::default().read_buffer_size(READ_BUFFER_BYTES);
            client_async_with_config(request, stream, Some(config)).await
        };
        tokio::time::timeout(SOON, opening).await.expect("an answer to the handshake in time")
    }

    /// Opens the WebSocket with a token of this user and waits until the session is connected.
    pub(crate) async fn connect(self, tenant: &str, user: &str, place: TokenPlace) -> Client {
        self.connect_with(&token(tenant, user), place).await
    }

    /// Opens the WebSocket with a token and waits until the session is connected.
    pub(crate) async fn connect_with(self, token: &str, place: TokenPlace) -> Client {
        match place {
            TokenPlace::Command => {
                let mut client = self.open().await;
                let reply = client.command(serde_json::json!({ "type": "connect", "token": token })).await;
                client.connected(reply["result"].clone());
                return client;
            }
            TokenPlace::Subprotocol => self.subprotocols(&format!("fanfare.v1.json, bearer, {token}")),
            TokenPlace::Header => self.header("authorization", &format!("Bearer {token}")),
            TokenPlace::Query => self.query(&format!("token={token}")),
        }
        .open_connected()
        .await
    }

    /// Opens the WebSocket of a client that needs no command to be connected, and waits until it is.
    pub(crate) async fn open_connected(self) -> Client {
        let mut client = self.open().await;
        let push = client.expect("system:connected").await;
        client.connected(push["data"].clone());
        client
    }

    fn request(&self) -> Request {
        let query = if self.query.is_empty() { String::new() } else { format!("?{}", self.query.join("&")) };
        let url = format!("ws://{}/ws{query}", self.address);
        let mut request = url.into_client_request().expect("a URL");
        for (name, value) in &self.headers {
            let name: HeaderName = name.parse().expect("a header's name");
            request.headers_mut().append(name, HeaderValue::from_str(value).expect("a header's value"));
        }
        request
    }
}
