//! Parts of the node, each alone, so that bench/instructions can count what they cost. Not an interface: it follows the code.

use std::sync::Arc;

use fanfare_protocol::Delivery;

use crate::{
    encoding::{EncodedPublication, Variant},
    websocket::Deflater,
};

pub use crate::{
    hub::bench::HubAlone,
    shard::bench::{ShardAlone, SharedPiece, Tick, TopicsAlone},
};

/// A frame of a publication, by dialect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Frame {
    /// The native dialect in JSON.
    Json,
    /// The same, compressed.
    JsonDeflate,
    /// The native dialect in MessagePack.
    MessagePack,
    /// The same, compressed.
    MessagePackDeflate,
    /// An event of a stream.
    Sse,
}

impl From<Frame> for Variant {
    fn from(frame: Frame) -> Self {
        match frame {
            Frame::Json => Self::Json,
            Frame::JsonDeflate => Self::JsonDeflate,
            Frame::MessagePack => Self::MessagePack,
            Frame::MessagePackDeflate => Self::MessagePackDeflate,
            Frame::Sse => Self::Sse,
        }
    }
}

/// A publication as the hub makes it, with its JSON frame.
#[derive(Debug)]
pub struct Encoded(pub(crate) Arc<EncodedPublication>);

impl Encoded {
    /// Writes the JSON frame.
    #[must_use]
    pub fn new(delivery: &Delivery<'_>) -> Self {
        Self(Arc::new(EncodedPublication::new(delivery)))
    }

    /// The frame of a dialect, which the first call makes.
    pub fn frame(&self, frame: Frame, deflater: &mut Deflater) -> &[u8] {
        self.0.frame(frame.into(), deflater)
    }
}
