//! What one client received.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
    time::Duration,
};

/// A place on a channel, as the wire has it.
#[derive(Clone, PartialEq, Eq)]
pub struct Position {
    /// Its place in the order.
    pub offset: u64,
    /// Which numbering.
    pub epoch: Arc<str>,
}

/// A publication that arrived.
#[derive(Clone, Debug)]
pub struct Delivered {
    pub(crate) id: Arc<str>,
    pub(crate) body: u64,
    pub(crate) position: Option<Position>,
}

/// The answer to a subscribe.
#[derive(Clone, Debug, Default)]
pub struct Subscribed {
    /// The position the client came back with.
    pub since: Option<Position>,
    /// Whether it is promised everything behind `since`.
    pub recovered: Option<bool>,
    /// What came inside the reply, in its order.
    pub publications: Vec<Delivered>,
    /// Where the subscription stands after `publications`.
    pub position: Option<Position>,
}

/// The client was told that something is missing.
#[derive(Clone, Debug)]
pub struct Gap {
    /// Why, in the node's word.
    pub reason: String,
    /// The last position before it.
    pub from: Option<Position>,
    /// The position behind which publications come again.
    pub to: Option<Position>,
}

/// Everything that one logical client received, by channel and in the order of arrival.
#[derive(Debug)]
pub struct ClientLog {
    pub(crate) name: String,
    pub(crate) channels: BTreeMap<String, ChannelLog>,
    pub(crate) disconnects: usize,
}

/// What it received on one channel.
#[derive(Debug, Default)]
pub(crate) struct ChannelLog {
    pub(crate) events: Vec<(Duration, Event)>,
    position: Option<Position>,
}

#[derive(Debug)]
pub(crate) enum Event {
    Subscribed(Subscribed),
    Delivered(Delivered),
    Gap(Gap),
    Unsubscribed,
    Disconnected,
}

impl Position {
    /// A place on a channel.
    pub fn new(offset: u64, epoch: &str) -> Self {
        Self { offset, epoch: epoch.into() }
    }
}

impl Delivered {
    /// A publication by its id, with the text of its data. On a channel with history it has a position.
    pub fn new(id: &str, data: &str, position: Option<Position>) -> Self {
        Self { id: id.into(), body: fingerprint(data), position }
    }
}

impl ClientLog {
    /// The log of a client, whose name is for the report.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), channels: BTreeMap::new(), disconnects: 0 }
    }

    /// It was answered that it is subscribed.
    pub fn subscribed(&mut self, at: Duration, channel: &str, subscribed: Subscribed) {
        let log = self.channel(channel);
        if subscribed.position.is_some() {
            log.position.clone_from(&subscribed.position);
        }
        log.events.push((at, Event::Subscribed(subscribed)));
    }

    /// A publication was pushed to it.
    pub fn delivered(&mut self, at: Duration, channel: &str, mut delivered: Delivered) {
        let log = self.channel(channel);
        if let Some(position) = &mut delivered.position {
            // Millions of positions share a few epochs.
            if let Some(last) = log.position.as_ref().filter(|last| last.epoch == position.epoch) {
                position.epoch = Arc::clone(&last.epoch);
            }
            log.position = Some(position.clone());
        }
        log.events.push((at, Event::Delivered(delivered)));
    }

    /// It was told of a gap.
    pub fn gap(&mut self, at: Duration, channel: &str, gap: Gap) {
        let log = self.channel(channel);
        if gap.to.is_some() {
            log.position.clone_from(&gap.to);
        }
        log.events.push((at, Event::Gap(gap)));
    }

    /// It gave the channel up: nothing more is owed to it there.
    pub fn unsubscribed(&mut self, at: Duration, channel: &str) {
        self.channel(channel).events.push((at, Event::Unsubscribed));
    }

    /// Its session ended, whoever ended it.
    pub fn disconnected(&mut self, at: Duration) {
        self.disconnects += 1;
        for log in self.channels.values_mut() {
            log.events.push((at, Event::Disconnected));
        }
    }

    /// Where it stands on a channel: what it comes back with.
    pub fn position(&self, channel: &str) -> Option<&Position> {
        self.channels.get(channel)?.position.as_ref()
    }

    fn channel(&mut self, channel: &str) -> &mut ChannelLog {
        if !self.channels.contains_key(channel) {
            self.channels.insert(channel.to_owned(), ChannelLog::default());
        }
        self.channels.get_mut(channel).expect("it was inserted")
    }
}

/// What data is compared by: logs of millions of deliveries keep no texts.
pub(crate) fn fingerprint(data: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    data.hash(&mut hasher);
    hasher.finish()
}

impl fmt::Debug for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.offset, self.epoch)
    }
}

/// For the report: what came, in one line.
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Subscribed(Subscribed { since, recovered, publications, position }) => {
                write!(f, "subscribed since {since:?}: recovered {recovered:?}, {} [", publications.len())?;
                for delivered in publications {
                    write!(f, " {:?}", delivered.position.as_ref().map(|position| position.offset))?;
                }
                write!(f, " ], stands at {position:?}")
            }
            Self::Delivered(Delivered { id, position, .. }) => write!(f, "delivered {id} {position:?}"),
            Self::Gap(Gap { reason, from, to }) => write!(f, "gap {reason:?} from {from:?} to {to:?}"),
            Self::Unsubscribed => f.write_str("unsubscribed"),
            Self::Disconnected => f.write_str("disconnected"),
        }
    }
}
