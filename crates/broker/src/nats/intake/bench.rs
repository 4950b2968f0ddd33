//! The reading of messages alone, so that bench/instructions can count what it costs. Not an interface: it follows the code.

use bytes::{Bytes, BytesMut};

use super::{
    headers::Headers,
    wire::{Operation, Parser},
};

/// Reads messages from what a server wrote.
#[derive(Debug)]
pub struct Messages(Parser);

impl Default for Messages {
    fn default() -> Self {
        Self(Parser::new())
    }
}

impl Messages {
    /// The payload of the next message, its headers read.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Option<Bytes> {
        match self.0.next(buffer) {
            Ok(Some(Operation::Message(message))) => {
                std::hint::black_box(Headers::read(message.headers()));
                Some(message.into_payload())
            }
            _ => None,
        }
    }
}
