//! A small node's WebSocket, which the test plays itself.

use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

use crate::SOON;

/// Listens on a free port.
pub(crate) struct FakeSocket {
    listener: TcpListener,
    address: SocketAddr,
}

/// One client that came.
pub(crate) struct Session {
    socket: WebSocketStream<TcpStream>,
}

impl FakeSocket {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        Self { listener, address }
    }

    pub(crate) fn url(&self) -> String {
        format!("ws://{}/ws", self.address)
    }

    pub(crate) async fn accept_tcp(&self) -> TcpStream {
        timeout(SOON, self.listener.accept()).await.expect("a client in time").unwrap().0
    }

    pub(crate) async fn accept(&self) -> Session {
        Session { socket: tokio_tungstenite::accept_async(self.accept_tcp().await).await.unwrap() }
    }

    /// A client whose commands were answered; gives them too.
    pub(crate) async fn accept_subscriber(&self) -> (Session, Vec<Value>) {
        let mut session = self.accept().await;
        let connect = session.read().await;
        let subscribe = session.read().await;
        let connected = json!({ "session": "s", "protocol": 1, "tenant": "default", "ping_interval_ms": 25_000 });
        session.send(&json!({ "id": connect["id"], "type": "reply", "result": connected }).to_string()).await;
        let channels = subscribe["channels"].as_array().unwrap();
        let outcomes: Vec<Value> = channels.iter().map(|channel| json!({ "channel": channel })).collect();
        let result = json!({ "subscriptions": outcomes });
        session.send(&json!({ "id": subscribe["id"], "type": "reply", "result": result }).to_string()).await;
        (session, vec![connect, subscribe])
    }
}

impl Session {
    pub(crate) async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.unwrap();
    }

    pub(crate) async fn read(&mut self) -> Value {
        match timeout(SOON, self.socket.next()).await.expect("a frame in time").unwrap().unwrap() {
            Message::Text(text) => serde_json::from_str(&text).unwrap(),
            other => panic!("{other:?} is no text"),
        }
    }

    pub(crate) async fn close(mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
        self.socket.close(Some(frame)).await.unwrap();
        // Until the client has answered and gone, so that it has read the frame.
        while let Ok(Some(Ok(_))) = timeout(SOON, self.socket.next()).await {}
    }

    /// Whether the client ended the connection politely.
    pub(crate) async fn closed_by_client(mut self) -> bool {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("an end in time") {
                Some(Ok(Message::Close(_))) => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return false,
            }
        }
    }
}
