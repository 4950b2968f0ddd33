//! What a client receives.

use serde_json::Value;
use tokio_tungstenite::tungstenite::{self, Message, protocol::CloseFrame};

use crate::{msgpack, publication::Publication};

/// One thing that came through a client's socket.
#[derive(Clone, Debug)]
pub(crate) enum Received {
    Text(String),
    Binary(Vec<u8>),
    Ping,
    Pong,
    /// A close frame, with its code where it has one.
    Close(Option<u16>),
    /// The connection ended without a close frame.
    Broken,
}

impl Received {
    pub(super) fn from_socket(next: Option<Result<Message, tungstenite::Error>>) -> Self {
        match next {
            Some(Ok(Message::Text(text))) => Self::Text(text.as_str().to_owned()),
            Some(Ok(Message::Binary(bytes))) => Self::Binary(bytes.to_vec()),
            Some(Ok(Message::Ping(_))) => Self::Ping,
            Some(Ok(Message::Pong(_))) => Self::Pong,
            Some(Ok(Message::Close(frame))) => Self::Close(frame.map(|CloseFrame { code, .. }| code.into())),
            Some(Ok(Message::Frame(frame))) => unreachable!("frames are put together to messages: {frame:?}"),
            Some(Err(_)) | None => Self::Broken,
        }
    }

    /// The object in a message, whatever its dialect.
    pub(crate) fn object(&self) -> Option<Value> {
        match self {
            Self::Text(text) => Some(serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))),
            Self::Binary(bytes) => Some(msgpack::decode(bytes)),
            _ => None,
        }
    }

    /// The publication in a text message, if it is one.
    pub(crate) fn publication(&self) -> Option<Publication> {
        match self {
            Self::Text(text) => Publication::parse(text),
            _ => None,
        }
    }

    /// Whether nothing can come after it.
    pub(crate) fn is_end(&self) -> bool {
        matches!(self, Self::Close(_) | Self::Broken)
    }
}
