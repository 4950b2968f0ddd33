//! Limits inside a node that are not configured, each with its unit.

use std::time::Duration;

/// Publications' bytes that the hub keeps for a shard whose inbox is full.
pub(crate) const SHARD_BACKLOG_BYTES: usize = 32 * 1024 * 1024;
/// How long a shard's inbox may stay full before the shard is interrupted.
pub(crate) const SHARD_STALL: Duration = Duration::from_secs(1);
/// Requests of all shards that wait for the hub.
pub(crate) const HUB_INBOX_REQUESTS: usize = 65_536;
/// Sockets that were accepted and wait for one shard.
pub(crate) const ACCEPTED_SOCKETS: usize = 1_024;
/// Sockets that are accepted before others get their turn.
pub(crate) const ACCEPTS_PER_TURN: usize = 64;
/// Sockets of one shard whose handshake is not done.
pub(crate) const HANDSHAKES: usize = 4_096;
/// Events that the hub takes from the broker before it looks after everything else.
pub(crate) const HUB_EVENTS_PER_TURN: usize = 256;
/// Interests that are added at the broker in one call.
pub(crate) const INTERESTS_PER_CALL: usize = 1_024;
/// Patterns of one tenant in one namespace, on this node.
pub(crate) const PATTERNS_PER_NAMESPACE: usize = 256;
/// Calls at the broker at one time above which interests wait until they fill one.
pub(crate) const PART_CALLS: usize = 2;
/// Calls at the broker for interests at one time.
pub(crate) const INTEREST_CALLS: usize = 4;
/// Keys of publications that wait for one connection which gets only the newest of each.
pub(crate) const CONFLATED_KEYS: usize = 4_096;
/// Bytes of publications that wait for one connection which gets only the newest per key.
pub(crate) const CONFLATED_BYTES: usize = 1024 * 1024;
/// How old a channel's position may be that a client begins with: beyond it, the hub knows it better.
pub(crate) const POSITION_AGE: Duration = Duration::from_secs(5);
/// Bytes of what one connection missed, of all its channels, that wait for its socket; beyond it more is refused.
pub(crate) const CATCH_UP_BYTES: usize = 16 * 1024 * 1024;
/// Pages that a connection which catches up is given before others get their turn.
pub(crate) const PAGES_PER_TURN: usize = 8;
/// Timelines that the hub looks at, because their time has come, before it looks after everything else.
pub(crate) const TIMERS_PER_TURN: usize = 1_024;
/// Channels that one call asks the broker about.
pub(crate) const POSITIONS_PER_CALL: usize = 256;
/// Calls that ask the broker where channels stand, at one time.
pub(crate) const POSITION_CALLS: usize = 4;
/// How long publications of channels with history stay in memory.
pub(crate) const RING_AGE: Duration = Duration::from_secs(60);
/// Publishes of clients that wait for the broker, of all shards.
pub(crate) const CLIENT_PUBLISHES: usize = 8_192;
/// Places of a shard's table that are looked at for a service before the shard goes on.
pub(crate) const INSPECTED_PER_TURN: usize = 4_096;
/// Topics of a connection that a service is told of.
pub(crate) const INSPECTED_TOPICS: usize = 100;
/// Reads of history for clients that wait, of all shards.
pub(crate) const CLIENT_READS: usize = 4_096;
/// Lifecycle events of all shards that wait to be told. Beyond it the newest are dropped, which is counted.
pub(crate) const LIFECYCLE_EVENTS: usize = 65_536;
/// Lifecycle events that the broker is working on at one time, each of another session or channel.
pub(crate) const LIFECYCLE_AT_ONCE: usize = 256;
/// Lifecycle events that wait for another of the same session or channel, before the next is looked at.
pub(crate) const LIFECYCLE_IN_LINE: usize = 4_096;
/// How long lifecycle events may take to be told at the end of the node, where its deadline leaves less.
pub(crate) const LIFECYCLE_DRAIN_TIME: Duration = Duration::from_secs(1);
/// Sessions of dead nodes that a node remembers to have told of.
pub(crate) const LIFECYCLE_LOST_SESSIONS: usize = 65_536;
/// Publishes of clients that the broker is working on at one time.
pub(crate) const CLIENT_PUBLISHES_IN_FLIGHT: usize = 1_024;
/// Requests of all shards that wait for the presence driver.
pub(crate) const PRESENCE_INBOX_REQUESTS: usize = 65_536;
/// Requests of one shard that its driver's inbox did not take, above which sessions may not make more. Those that end what was
/// begun are taken always: there is one for each that began.
pub(crate) const PRESENCE_UNSENT_REQUESTS: usize = 65_536;
/// Requests that the presence driver takes before it looks after everything else.
pub(crate) const PRESENCE_REQUESTS_PER_TURN: usize = 1_024;
/// Events that the presence driver takes from its store before it looks after everything else.
pub(crate) const PRESENCE_EVENTS_PER_TURN: usize = 256;
/// Questions who is present that wait for their answer, of all shards and services.
pub(crate) const PRESENCE_QUESTIONS: usize = 65_536;
/// Calls at the presence store at one time.
pub(crate) const PRESENCE_CALLS: usize = 64;
/// How long a call at the presence store may take.
pub(crate) const PRESENCE_CALL_TIME: Duration = Duration::from_secs(5);
/// How long a node that goes away may take to tell the presence store so.
pub(crate) const PRESENCE_DRAIN_TIME: Duration = Duration::from_secs(1);
/// Bytes of announcements that wait for one shard. Beyond it only the newest of each channel is kept.
pub(crate) const PRESENCE_BACKLOG_BYTES: usize = 4 * 1024 * 1024;
/// Messages that a shard takes from its inbox for one tick.
pub(crate) const MESSAGES_PER_TICK: usize = 1_024;
/// Bytes of publications that a tick takes before it writes: a fraction of an outbox, so that a burst for one connection
/// does not look like a slow consumer.
pub(crate) const TICK_BYTES: usize = 256 * 1024;
/// Sessions that a shard tells of an interruption of everything before it writes.
pub(crate) const GAPS_PER_TURN: usize = 1_024;
/// Ticks one after the other before reads and timers get their turn, however few connections they wrote.
pub(crate) const TICKS_PER_YIELD: usize = 8;
/// Connections that are written before reads and timers get their turn.
pub(crate) const FLUSHES_PER_YIELD: usize = 128;
/// Pieces in one vectored write.
pub(crate) const PIECES_PER_WRITE: usize = 32;
/// Sockets that tell of themselves at once, before others of the shard's tasks get their turn.
pub(crate) const SOCKET_EVENTS: usize = 256;
/// Reads of one connection before others get their turn.
pub(crate) const READS_PER_TURN: usize = 4;
/// Bytes of a shard's read buffer, which serves all its connections.
pub(crate) const READ_BUFFER_BYTES: usize = 64 * 1024;
/// How long a closed connection may take to read what was sent before and to answer the close.
pub(crate) const CLOSE_LINGER: Duration = Duration::from_secs(5);
/// Granularity of a shard's timers.
pub(crate) const TIMER_TICK: Duration = Duration::from_millis(50);
/// Publications' bytes in a shard's inbox. Above it the inbox counts as full.
pub(crate) const SHARD_INBOX_BYTES: usize = 16 * 1024 * 1024;
/// How often the hub looks again at a shard whose inbox was full.
pub(crate) const SHARD_RETRY: Duration = Duration::from_millis(1);
/// Streams on one HTTP/2 socket at one time.
pub(crate) const HTTP2_STREAMS: u32 = 100;
/// Bytes of a request's headers over HTTP/2.
pub(crate) const HTTP2_HEADER_BYTES: u32 = 32 * 1024;
/// Bytes that a client may send before we have read: nothing of a request's body is of interest.
pub(crate) const HTTP2_WINDOW_BYTES: u32 = 65_535;
/// Bytes of one HTTP/2 stream that have left its outbox and not the socket.
pub(crate) const HTTP2_SEND_BYTES: usize = 32 * 1024;
/// Bytes that a stream over HTTP/2 takes from its outbox at once.
pub(crate) const HTTP2_CHUNK_BYTES: usize = 16 * 1024;
