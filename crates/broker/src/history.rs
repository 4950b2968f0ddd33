//! What a broker retains of a channel, and how it is read.

use std::{collections::HashMap, time::Duration};

use fanfare_protocol::{Body, Channel, Position, Tenant};

/// How much of each channel of a namespace is retained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Publications per channel. Never 0.
    pub size: u32,
    /// How long a publication is retained.
    pub ttl: Duration,
}

/// Which namespaces keep history, and how the broker keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryOptions {
    /// By namespace. Channels of all others are live only.
    pub namespaces: HashMap<Box<str>, Retention>,
    /// NATS: create and update the streams; else they are only checked, and what is missing is an error at start.
    pub manage_streams: bool,
    /// NATS: where streams are kept.
    pub storage: Storage,
    /// NATS: copies of each stream: 1, 3 or 5.
    pub replicas: u8,
    /// NATS: bytes of one namespace's stream; the oldest publications go first. `None`: no limit of its own.
    pub max_bytes: Option<u64>,
    /// How long the id of a publication is remembered: one that comes again is not published again.
    pub dedupe_window: Duration,
    /// NATS: this connection only publishes. Streams have to be there and take its subjects; what else they are like is the
    /// nodes' business.
    pub publish_only: bool,
}

/// Where NATS keeps streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// On disk.
    File,
    /// In memory; only with three replicas or more.
    Memory,
}

/// What is to be read of a channel's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryRead {
    /// Whose channel it is.
    pub tenant: Tenant,
    /// Which channel. Its namespace keeps history.
    pub channel: Channel,
    /// Which part.
    pub range: HistoryRange,
    /// At most so many publications. Never 0.
    pub max_publications: usize,
    /// About so many bytes of bodies; one publication alone may be larger.
    pub max_bytes: usize,
}

/// A part of a channel's history.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HistoryRange {
    /// The oldest publications that lie behind this offset.
    After(u64),
    /// The newest publications that lie before this offset, or of all. Listed oldest first.
    Before(Option<u64>),
}

/// What was read.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    /// Oldest first. Of the numbering that `position` names, all of them.
    pub publications: Vec<Recorded>,
    /// Where the channel stood, as the broker's leader said, when the read began. The position of a channel without
    /// publications is one that all coming publications lie behind.
    pub position: Position,
    /// Whether there is more in the direction of the read, up to `position`.
    pub more: bool,
    /// For [`HistoryRange::After`]: proven that nothing between the offset and the first publication here (or `position`,
    /// where there is none) was lost to retention. `false` too where the offset lies behind `position`. Always `true` for
    /// the other range.
    pub whole: bool,
}

/// Where a channel stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The position of the newest retained publication; of a channel without any, one that all coming publications lie
    /// behind.
    pub position: Position,
    /// Nothing is retained on the channel now, so there is nothing to read.
    pub empty: bool,
}

/// One retained publication.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Its place on the channel.
    pub offset: u64,
    /// What was published.
    pub body: Body,
    /// The broker's time in milliseconds since the Unix epoch, where it has one.
    pub timestamp: Option<u64>,
}

impl Default for HistoryOptions {
    /// No history.
    fn default() -> Self {
        Self {
            namespaces: HashMap::new(),
            manage_streams: true,
            storage: Storage::File,
            replicas: 1,
            max_bytes: None,
            dedupe_window: Duration::from_secs(120),
            publish_only: false,
        }
    }
}

impl HistoryOptions {
    /// What is retained of the channel; `None` where it is live only.
    pub fn retention(&self, channel: &Channel) -> Option<Retention> {
        self.namespaces.get(channel.namespace()).copied()
    }
}
