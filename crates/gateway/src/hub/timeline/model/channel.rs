//! A channel at a broker: what was published, what of it is retained, and what the broker says of it.

use std::collections::VecDeque;

use super::*;

/// How a broker numbers publications.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Numbering {
    /// From 1, without holes; every epoch begins anew.
    Memory,
    /// Without holes; a new epoch goes on where the last one stood, and of what was before it nothing is known.
    Redis,
    /// The numbers of a stream with other channels.
    Nats,
}

/// A publication, or one of another channel of the stream.
#[derive(Clone, Copy, Debug)]
struct Retained {
    offset: u64,
    bytes: usize,
    at: u64,
}

#[derive(Debug)]
pub(super) struct Channel {
    numbering: Numbering,
    size: usize,
    ttl: u64,
    /// All that was ever published, by epoch: offset and bytes.
    published: Vec<Vec<(u64, usize)>>,
    /// Oldest first.
    log: VecDeque<Retained>,
    /// The stream's other channels.
    others: VecDeque<Retained>,
    /// The last number of the epoch.
    head: u64,
    /// Before the first number of the epoch.
    base: u64,
}

impl Channel {
    pub(super) fn new(numbering: Numbering, config: &TimelineConfig) -> Self {
        let ttl = config.ttl.as_millis() as u64;
        let (log, others) = (VecDeque::new(), VecDeque::new());
        Self { numbering, size: config.size, ttl, published: vec![Vec::new()], log, others, head: 0, base: 0 }
    }

    pub(super) fn epoch(&self) -> usize {
        self.published.len() - 1
    }

    pub(super) fn head(&self) -> u64 {
        self.head
    }

    pub(super) fn place(&self, offset: u64) -> Position {
        place(self.epoch(), offset)
    }

    /// Others are published in the same stream.
    pub(super) fn publish_others(&mut self, now: u64, count: u64) {
        if self.numbering == Numbering::Nats {
            for _ in 0..count {
                self.head += 1;
                self.others.push_back(Retained { offset: self.head, bytes: 0, at: now });
            }
        }
    }

    pub(super) fn publish(&mut self, now: u64, bytes: usize) -> (LivePosition, Entry<Published>) {
        let before = self.published[self.epoch()].last().map(|(offset, _)| *offset);
        let previous = match self.numbering {
            Numbering::Memory => Some(before.unwrap_or(0)),
            Numbering::Redis => before.or((self.base == 0).then_some(0)),
            Numbering::Nats => self.log.back().map(|last| last.offset),
        };
        self.head += 1;
        let (epoch, offset) = (self.epoch(), self.head);
        self.published[epoch].push((offset, bytes));
        self.log.push_back(Retained { offset, bytes, at: now });
        if self.log.len() > self.size {
            self.log.pop_front();
        }
        (LivePosition { position: self.place(offset), previous }, Entry { offset, bytes, publication: (epoch, offset) })
    }

    pub(super) fn begin_epoch(&mut self) {
        self.published.push(Vec::new());
        (self.log, self.others) = (VecDeque::new(), VecDeque::new());
        if self.numbering != Numbering::Redis {
            self.head = 0;
        }
        self.base = self.head;
    }

    /// Time has come so far.
    pub(super) fn expire(&mut self, now: u64) {
        let ttl = self.ttl;
        self.log.retain(|one| now - one.at < ttl);
        self.others.retain(|one| now - one.at < ttl);
    }

    pub(super) fn standing(&self) -> Standing {
        let position = match self.numbering {
            Numbering::Nats => self.log.back().map_or(self.head, |last| last.offset),
            Numbering::Memory | Numbering::Redis => self.head,
        };
        Standing { position: self.place(position), empty: self.log.is_empty() }
    }

    pub(super) fn retained(&self) -> Vec<u64> {
        self.log.iter().map(|one| one.offset).collect()
    }

    /// What was published behind the one and up to the other offset: offsets and bytes.
    pub(super) fn between(&self, epoch: usize, after: u64, up_to: u64) -> Vec<(u64, usize)> {
        let within = |one: &&(u64, usize)| after < one.0 && one.0 <= up_to;
        self.published[epoch].iter().filter(within).copied().collect()
    }

    /// Whether the broker can prove that nothing behind the offset was lost to retention.
    pub(super) fn is_whole(&self, after: u64) -> bool {
        let first = self.log.front().map_or(self.head + 1, |first| first.offset);
        let first_of_all = self.others.front().map_or(first, |other| other.offset.min(first));
        match self.numbering {
            _ if after > self.head => false,
            Numbering::Memory | Numbering::Redis => after + 1 >= first,
            Numbering::Nats => {
                (first <= after && !self.log.is_empty()) || (first_of_all <= after + 1 && self.log.len() < self.size)
            }
        }
    }

    /// Whether offsets have holes, so that not even the number of publications between two is known.
    pub(super) fn has_holes(&self) -> bool {
        self.numbering == Numbering::Nats
    }

    /// Whether something may have been lost behind the offset, and nobody can say.
    pub(super) fn cannot_prove(&self, after: u64) -> bool {
        self.has_holes() && !self.is_whole(after)
    }

    /// Of offsets before this a page of the newest does not say whether the publications that it leaves out lie behind them.
    pub(super) fn cut_at(&self, read: Read, page: &Page<Published>, most: usize) -> u64 {
        let is_full = matches!(read, Read::Newest { count } if count >= most);
        let is_cut = self.has_holes() && is_full && page.more;
        page.entries.first().filter(|_| is_cut).map_or(0, |first| first.offset - 1)
    }

    /// Reads up to where the channel stood when the read began.
    pub(super) fn read(&self, read: Read, target: u64, config: &TimelineConfig) -> Page<Published> {
        // The others read at one moment.
        let target = if self.numbering == Numbering::Nats { target } else { self.head };
        let (after, most) = match read {
            Read::Missed { after } | Read::Recovery { after } => (after, config.recovery_publications),
            Read::Newest { count } => (0, count),
        };
        let wanted: Vec<_> = self.log.iter().filter(|one| after < one.offset && one.offset <= target).collect();
        let mut bytes = 0;
        let fits = |(number, one): &(usize, &&Retained)| {
            bytes += one.bytes;
            *number == 0 || (*number < most && bytes <= config.recovery_bytes)
        };
        let entry = |one: &Retained| {
            let Retained { offset, bytes, .. } = *one;
            Entry { offset, bytes, publication: (self.epoch(), offset) }
        };
        let newest = matches!(read, Read::Newest { .. });
        let mut entries: Vec<_> = if newest {
            wanted.iter().rev().enumerate().take_while(fits).map(|(_, one)| entry(one)).collect()
        } else {
            wanted.iter().enumerate().take_while(fits).map(|(_, one)| entry(one)).collect()
        };
        if newest {
            entries.reverse();
        }
        let more = entries.len() < wanted.len();
        let whole = newest || self.is_whole(after);
        let offset = if self.numbering == Numbering::Nats && after <= self.head { target.max(after) } else { target };
        Page { entries, position: self.place(offset), more, whole }
    }
}
