//! Limits of the protocol, each with its unit. What a node may configure is a default here and a hard bound where it says so.

/// Bytes in a channel name, separators included. Hard bound.
pub const CHANNEL_BYTES: usize = 255;
/// Segments in a channel name. Hard bound.
pub const CHANNEL_SEGMENTS: usize = 8;
/// Bytes in one segment of a channel, and in a tenant. Hard bound.
pub const SEGMENT_BYTES: usize = 64;
/// Bytes in an event name. Hard bound.
pub const EVENT_BYTES: usize = 255;
/// Bytes in a publication's `id`, `key` and `traceparent`, each. Hard bound.
pub const FIELD_BYTES: usize = 255;
/// Sessions that one envelope may exclude. Hard bound.
pub const EXCLUDED_SESSIONS: usize = 64;
/// Commands in one frame of a client. Hard bound.
pub const COMMANDS_PER_FRAME: usize = 1_000;
/// The largest `id` of a command: what a JavaScript number holds exactly.
pub const COMMAND_ID: u64 = (1 << 53) - 1;
/// Bytes in one message of a client; a node may configure another.
pub const MESSAGE_BYTES: usize = 64 * 1024;
/// Bytes of a publication's body at the broker; a node may configure another.
pub const PUBLICATION_BYTES: usize = 1024 * 1024;
/// Bytes of a token.
pub const TOKEN_BYTES: usize = 16 * 1024;
/// Bytes of an error's message; a longer one is cut.
pub const ERROR_MESSAGE_BYTES: usize = 512;
/// Levels of arrays and maps in a client's MessagePack frame.
pub const MSGPACK_DEPTH: usize = 64;
/// Channels that a handshake (`/ws?channels=`) may name.
pub const HANDSHAKE_CHANNELS: usize = 50;
/// Publications that `history` gives where the client names no `limit`.
pub const HISTORY_PUBLICATIONS: u32 = 100;
/// Bytes of a member's state: an application's own word. Hard bound.
pub const STATE_BYTES: usize = 32;
/// Members that `presence` gives where the client names no `limit`.
pub const PRESENCE_MEMBERS: usize = 100;
/// Members in one snapshot, or one page of `presence`; a node may configure another.
pub const PRESENCE_PAGE: usize = 500;
/// Bytes of a member's `info`; a node may configure another.
pub const PRESENCE_INFO_BYTES: usize = 1024;
/// Commands `set_presence` of one session in a second; a node may configure another.
pub const PRESENCE_UPDATES: u32 = 10;
/// Commands `signal` of one session in a second; a node may configure another.
pub const SIGNALS: u32 = 10;
/// Publications of a channel's past that a client may ask for at once; a node may configure another.
pub const RECOVERY_PUBLICATIONS: usize = 1_000;
