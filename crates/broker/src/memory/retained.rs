//! What is retained of all channels: positions, history and ids. Pure; time is an argument.
//!
//! All channels share one epoch. A channel's numbering begins at 1 and goes on for as long as the channel is remembered,
//! which is much longer than its publications are: only when there are [`limits::MEMORY_CHANNELS`] are channels without
//! publications forgotten, the idlest first. The highest offset of those that were forgotten is the floor: it is where a channel that is not
//! known stands, and its numbering begins behind it. So an offset never comes twice within the epoch, nothing is stored for
//! channels that are only asked about, and what cannot be known (whether there was something before the floor) is not
//! claimed.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use fanfare_protocol::{Body, Channel, Epoch, Position, Tenant};
use tokio::time::Instant;

use super::{ids::Ids, ring::Ring};
use crate::{HistoryOptions, HistoryPage, HistoryRead, LivePosition, Recorded, Retention, Standing, limits};

/// A channel of a tenant.
pub(super) type ChannelKey = Arc<(Tenant, Channel)>;

/// What a retained publication costs beside its body, in bytes, roughly.
const RECORD_OVERHEAD: usize = std::mem::size_of::<Recorded>() + std::mem::size_of::<Mark>();

/// How far [`Expiry::marks`] may grow before those are looked for that mean nothing any more.
const SPARE_MARKS: usize = 1_024;

#[derive(Debug)]
pub(super) struct Retained {
    options: HistoryOptions,
    bounds: Bounds,
    epoch: Epoch,
    channels: HashMap<ChannelKey, Ring>,
    expiries: HashMap<Box<str>, Expiry>,
    ids: Ids,
    /// Channels that had no publication when they were put here, the idlest first. Each is here once at most.
    idle: VecDeque<ChannelKey>,
    /// The highest offset of the channels that were forgotten.
    floor: u64,
    bytes: usize,
    reached: Reached,
}

/// How much is retained at most, all channels together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) channels: usize,
    pub(super) bytes: usize,
    pub(super) ids: usize,
}

/// Which bounds were told already.
#[derive(Debug, Default)]
struct Reached {
    channels: bool,
    bytes: bool,
    ids: bool,
}

/// When the publications of a namespace end. All have the same time to live, so the first to come is the first to go.
#[derive(Debug)]
struct Expiry {
    retention: Retention,
    marks: VecDeque<Mark>,
    /// How many of the marks stand for a publication that is still retained.
    valid: usize,
}

#[derive(Debug)]
struct Mark {
    at: Instant,
    channel: ChannelKey,
    offset: u64,
}

/// What became of a publication.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// It is the newest one now.
    New(LivePosition),
    /// Its id was published before.
    Known(Position),
}

impl Default for Bounds {
    fn default() -> Self {
        Self { channels: limits::MEMORY_CHANNELS, bytes: limits::MEMORY_BYTES, ids: limits::MEMORY_IDS }
    }
}

impl Retained {
    pub(super) fn new(options: HistoryOptions, bounds: Bounds) -> Self {
        let expiry = |retention: &Retention| Expiry { retention: *retention, marks: VecDeque::new(), valid: 0 };
        Self {
            expiries: options.namespaces.iter().map(|(name, retention)| (name.clone(), expiry(retention))).collect(),
            ids: Ids::new(options.dedupe_window, bounds.ids),
            options,
            bounds,
            epoch: random_epoch(),
            channels: HashMap::new(),
            idle: VecDeque::new(),
            floor: 0,
            bytes: 0,
            reached: Reached::default(),
        }
    }

    /// The same without anything retained, in another epoch.
    pub(super) fn begin_anew(&mut self) {
        *self = Self::new(self.options.clone(), self.bounds);
    }

    /// Appends a publication; `None` where the namespace keeps no history. `timestamp` is in milliseconds since the Unix
    /// epoch.
    pub(super) fn append(
        &mut self,
        now: Instant,
        channel: &ChannelKey,
        id: Option<&str>,
        body: Body,
        timestamp: u64,
    ) -> Option<Appended> {
        let retention = self.options.retention(&channel.1)?;
        self.expire(now);
        if let Some(offset) = id.and_then(|id| self.ids.find(channel, id)) {
            return Some(Appended::Known(self.position(offset)));
        }
        let (offset, previous) = self.next_offset(channel);
        self.bytes += body.bytes.len() + RECORD_OVERHEAD;
        if let Some(expiry) = self.expiries.get_mut(channel.1.namespace()) {
            expiry.marks.push_back(Mark { at: now, channel: Arc::clone(channel), offset });
            expiry.valid += 1;
        }
        let ring = self.channels.entry(Arc::clone(channel)).or_insert_with(|| Ring::beginning_after(offset - 1));
        ring.push(Recorded { offset, body, timestamp: Some(timestamp) });
        while self.channels.get(channel).is_some_and(|ring| ring.len() > retention.size as usize) {
            self.drop_oldest(channel);
        }
        if let Some(id) = id
            && self.ids.insert(now, channel, id, offset)
            && !std::mem::replace(&mut self.reached.ids, true)
        {
            tracing::warn!(
                limit = self.bounds.ids,
                "so many ids within the dedupe window that the oldest are forgotten"
            );
        }
        self.keep_within_bounds();
        Some(Appended::New(LivePosition { position: self.position(offset), previous }))
    }

    /// Reads a part of a channel's history; `None` where its namespace keeps none.
    pub(super) fn read(&mut self, now: Instant, read: &HistoryRead) -> Option<HistoryPage> {
        self.options.retention(&read.channel)?;
        self.expire(now);
        let unknown;
        let ring = match self.channels.get(&(read.tenant.clone(), read.channel.clone())) {
            Some(ring) => ring,
            None => {
                unknown = Ring::beginning_after(self.floor);
                &unknown
            }
        };
        let part = ring.read(read.range, read.max_publications, read.max_bytes);
        Some(HistoryPage {
            publications: part.publications,
            position: self.position(ring.last()),
            more: part.more,
            whole: part.whole,
        })
    }

    /// Where channels stand. The error is the first whose namespace keeps no history.
    pub(super) fn stand<'a>(
        &mut self,
        now: Instant,
        channels: &'a [(Tenant, Channel)],
    ) -> Result<Vec<Standing>, &'a Channel> {
        self.expire(now);
        let standing = |channel: &'a (Tenant, Channel)| {
            self.options.retention(&channel.1).ok_or(&channel.1)?;
            let ring = self.channels.get(channel);
            let position = self.position(ring.map_or(self.floor, Ring::last));
            Ok(Standing { position, empty: ring.is_none_or(Ring::is_empty) })
        };
        channels.iter().map(standing).collect()
    }

    fn position(&self, offset: u64) -> Position {
        Position { offset, epoch: self.epoch.clone() }
    }

    /// The next offset of a channel, and that of the publication before it, where that can be known.
    fn next_offset(&self, channel: &ChannelKey) -> (u64, Option<u64>) {
        match self.channels.get(channel) {
            Some(ring) => (ring.last() + 1, Some(ring.last())),
            None => (self.floor + 1, (self.floor == 0).then_some(0)),
        }
    }

    /// Drops what has had its time.
    fn expire(&mut self, now: Instant) {
        self.ids.expire(now);
        let mut expired = Vec::new();
        for expiry in self.expiries.values_mut() {
            while let Some(mark) = expiry.marks.front()
                && (mark.is_void(&self.channels) || now.duration_since(mark.at) >= expiry.retention.ttl)
                && let Some(mark) = expiry.marks.pop_front()
            {
                if !mark.is_void(&self.channels) {
                    expired.push(mark.channel);
                }
            }
        }
        for channel in expired {
            self.drop_oldest(&channel);
        }
    }

    /// Drops the oldest publication of a channel.
    fn drop_oldest(&mut self, channel: &ChannelKey) {
        let Some(ring) = self.channels.get_mut(channel) else { return };
        let Some(record) = ring.pop() else { return };
        self.bytes -= record.body.bytes.len() + RECORD_OVERHEAD;
        if ring.is_empty() && !std::mem::replace(&mut ring.in_line, true) {
            self.idle.push_back(Arc::clone(channel));
        }
        if let Some(expiry) = self.expiries.get_mut(channel.1.namespace()) {
            expiry.valid -= 1;
            if expiry.marks.len() > 2 * expiry.valid + SPARE_MARKS {
                let channels = &self.channels;
                expiry.marks.retain(|mark| !mark.is_void(channels));
            }
        }
    }

    fn keep_within_bounds(&mut self) {
        while self.bytes > self.bounds.bytes && self.drop_oldest_of_all() {
            if !std::mem::replace(&mut self.reached.bytes, true) {
                tracing::warn!(
                    limit_bytes = self.bounds.bytes,
                    "the history is full; the oldest publications are dropped"
                );
            }
        }
        while self.channels.len() > self.bounds.channels && self.forget_idlest() {
            if !std::mem::replace(&mut self.reached.channels, true) {
                tracing::warn!(
                    limit = self.bounds.channels,
                    "so many channels with history that the idlest are forgotten"
                );
            }
        }
    }

    /// Says whether there was one.
    fn drop_oldest_of_all(&mut self) -> bool {
        for expiry in self.expiries.values_mut() {
            while expiry.marks.front().is_some_and(|mark| mark.is_void(&self.channels)) {
                expiry.marks.pop_front();
            }
        }
        let oldest = self.expiries.values_mut().filter(|expiry| !expiry.marks.is_empty());
        let oldest = oldest.min_by_key(|expiry| expiry.marks.front().map(|mark| mark.at));
        let Some(mark) = oldest.and_then(|expiry| expiry.marks.pop_front()) else { return false };
        self.drop_oldest(&mark.channel);
        true
    }

    /// Forgets a channel without publications; where all have some, makes one. Says whether there was one.
    fn forget_idlest(&mut self) -> bool {
        loop {
            let Some(channel) = self.idle.pop_front() else {
                if self.drop_oldest_of_all() {
                    continue;
                }
                return false;
            };
            let Some(ring) = self.channels.get_mut(&channel) else { continue };
            ring.in_line = false;
            if ring.is_empty() {
                self.floor = self.floor.max(ring.last());
                self.channels.remove(&channel);
                return true;
            }
        }
    }
}

impl Mark {
    /// Whether its publication is not retained any more.
    fn is_void(&self, channels: &HashMap<ChannelKey, Ring>) -> bool {
        channels.get(&self.channel).is_none_or(|ring| self.offset <= ring.retained_after())
    }
}

fn random_epoch() -> Epoch {
    Epoch::parse(&format!("{:016x}", fastrand::u64(..))).expect("hexadecimal digits are an epoch")
}

#[cfg(test)]
#[path = "retained_tests.rs"]
mod tests;
