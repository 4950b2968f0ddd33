//! The server side of WebSocket framing: RFC 6455, and permessage-deflate of RFC 7692.
//!
//! Nothing here does IO. A connection owns a [`Parser`] of 16 bytes; the read buffer, the
//! [`Scratch`] for decompression and the [`Deflater`] belong to the shard and serve all its
//! connections one after another.
//!
//! ```
//! use fanfare_gateway::websocket::{Event, Parser, Scratch, encode};
//!
//! let mut parser = Parser::new(64 * 1024, false);
//! let mut scratch = Scratch::new();
//! let mut read_buffer = *b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58";
//! let mut replies = Vec::new();
//!
//! let mut unread = &mut read_buffer[..];
//! while let Some(event) = parser.next(&mut unread, &mut scratch)? {
//!     match event {
//!         Event::Text(text) => encode::text(text, &mut replies),
//!         Event::Binary(bytes) => encode::binary(bytes, &mut replies),
//!         Event::Ping(payload) => encode::pong(payload, &mut replies),
//!         Event::Pong(_) => {}
//!         Event::Close { code, .. } => encode::close(code, "", &mut replies),
//!     }
//! }
//! assert_eq!(replies, b"\x81\x05Hello");
//! # Ok::<(), fanfare_gateway::websocket::ProtocolError>(())
//! ```

pub mod close;
pub mod deflate;
pub mod encode;
mod error;
pub mod extensions;
mod frame;
pub mod handshake;
mod mask;
mod parser;
pub mod subprotocol;
mod utf8;

pub use deflate::{DEFLATE_MIN_BYTES, Deflater, Scratch};
pub use encode::{Header, MessageKind};
pub use error::ProtocolError;
pub use extensions::PerMessageDeflate;
pub use handshake::{HandshakeError, Upgrade};
pub use parser::{Event, Parser};
pub use subprotocol::Subprotocol;

/// Largest payload of a control frame, in bytes (RFC 6455 section 5.5).
pub const MAX_CONTROL_PAYLOAD_BYTES: usize = 125;

/// Largest reason in a close frame, in bytes: a control payload less the two bytes of the code.
pub const MAX_CLOSE_REASON_BYTES: usize = MAX_CONTROL_PAYLOAD_BYTES - 2;

#[cfg(test)]
mod against_tungstenite;
#[cfg(test)]
mod test_client;
