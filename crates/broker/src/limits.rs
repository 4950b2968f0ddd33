//! Limits of the adapters, each with its unit.

use std::time::Duration;

/// Publications that wait for the hub. Where the hub falls behind, adapters wait; what is then dropped is told as an
/// interruption.
pub const EVENTS: usize = 8_192;

/// Bytes of publications that wait for the hub. The one that crosses the limit is still taken.
pub const EVENT_BYTES: usize = 64 * 1024 * 1024;

/// Places beside [`EVENTS`] that only interruptions and their ends may take, so that no publication keeps them out.
pub const CONTROL_EVENTS: usize = 256;

/// Bytes that may wait in a client library while the adapter waits for the hub, about: it is looked at ten times a second.
pub const HELD_BACK_BYTES: u64 = 64 * 1024 * 1024;

/// How long an adapter waits for a hub that takes nothing. After it (or [`HELD_BACK_BYTES`]) publications are discarded until the hub has read
/// half of what waits, and the hub is told so by an interruption of everything.
pub const STALL: Duration = Duration::from_secs(1);

/// Longest pause before an attempt to connect again. The pauses are jittered.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// How long `close` waits for connections to end.
pub const CLOSE: Duration = Duration::from_secs(2);

/// Redis link: messages that wait for whoever listens. Where none is taken for [`STALL`], what follows is lost, and told as an
/// interruption.
pub const LISTENED: usize = 1_024;

/// NATS: how long lifecycle events are kept for services that are away.
pub const LIFECYCLE_AGE: Duration = Duration::from_secs(24 * 3_600);

/// NATS: lifecycle events that are kept for services that are away, of all tenants; the oldest go first.
pub const LIFECYCLE_EVENTS: u64 = 1_000_000;

/// Memory adapter: bytes of publications that are retained, all channels together. Beyond it the oldest are dropped, whatever
/// their namespace's retention says.
pub const MEMORY_BYTES: usize = 256 * 1024 * 1024;

/// Memory adapter: channels whose numbering is remembered. Beyond it the idlest are forgotten; a client that comes back to
/// one of them is told that it may have missed something.
pub const MEMORY_CHANNELS: usize = 100_000;

/// Memory adapter: lifecycle events that are kept for whoever asks. Beyond it the oldest are forgotten.
pub const MEMORY_TOLD: usize = 4_096;

/// Memory adapter: ids of publications that are remembered for the dedupe window. Beyond it the oldest are forgotten.
pub const MEMORY_IDS: usize = 200_000;
