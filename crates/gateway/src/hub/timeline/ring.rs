//! The newest publications of a channel, as long as they are worth their memory.

use std::collections::VecDeque;

use fanfare_session::Time;

/// One publication of a channel with history.
#[derive(Clone, Debug)]
pub(in crate::hub) struct Entry<P> {
    pub(in crate::hub) offset: u64,
    /// What it costs.
    pub(in crate::hub) bytes: usize,
    pub(in crate::hub) publication: P,
}

/// Bounds of a ring.
#[derive(Clone, Copy, Debug)]
pub(super) struct RingLimits {
    pub(super) publications: usize,
    pub(super) bytes: usize,
    /// How long a publication stays after it came.
    pub(super) age_millis: u64,
}

/// All publications of a channel that lie behind the floor, up to the last one that was delivered.
#[derive(Debug)]
pub(super) struct Ring<P> {
    entries: VecDeque<(Time, Entry<P>)>,
    floor: u64,
    /// Nothing is retained before the first entry.
    reaches_back: bool,
    bytes: usize,
}

impl<P: Clone> Ring<P> {
    /// An empty ring of a channel that stands at the floor.
    pub(super) fn new(floor: u64, reaches_back: bool) -> Self {
        Self { entries: VecDeque::new(), floor, reaches_back, bytes: 0 }
    }

    /// Every publication behind this offset is here.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the newest `count` retained publications are here, or all where they are fewer.
    pub(super) fn has_newest(&self, count: usize) -> bool {
        self.reaches_back || self.entries.len() >= count
    }

    /// Publications that lie behind the offset, which is not below the floor.
    pub(super) fn behind(&self, offset: u64) -> impl Iterator<Item = &Entry<P>> {
        let begin = self.entries.partition_point(|(_, entry)| entry.offset <= offset);
        self.entries.range(begin..).map(|(_, entry)| entry)
    }

    /// The newest publications, oldest first.
    pub(super) fn newest(&self, count: usize) -> impl DoubleEndedIterator<Item = &Entry<P>> {
        self.entries.range(self.entries.len().saturating_sub(count)..).map(|(_, entry)| entry)
    }

    /// Adds the next publication of the channel.
    pub(super) fn push(&mut self, now: Time, entry: Entry<P>) {
        self.bytes += entry.bytes;
        self.entries.push_back((now, entry));
    }

    /// Adds what was read: all publications from behind `floor` up to this ring's floor, at the least.
    pub(super) fn extend_back(&mut self, now: Time, floor: u64, reaches_back: bool, read: Vec<Entry<P>>) {
        let first = self.floor;
        for entry in read.into_iter().rev().filter(|entry| entry.offset <= first) {
            self.bytes += entry.bytes;
            self.entries.push_front((now, entry));
        }
        self.floor = self.floor.min(floor);
        self.reaches_back |= reaches_back;
    }

    /// Drops the oldest publications beyond the bounds.
    pub(super) fn trim(&mut self, now: Time, limits: RingLimits) {
        let too_old = |at: Time| now.as_millis().saturating_sub(at.as_millis()) > limits.age_millis;
        while self.entries.len() > limits.publications
            || self.bytes > limits.bytes
            || self.entries.front().is_some_and(|(at, _)| too_old(*at))
        {
            self.drop_oldest();
        }
        // A queue keeps its memory otherwise, and a channel may have seen a storm once.
        if self.entries.capacity() > 64 && self.entries.len() * 4 < self.entries.capacity() {
            self.entries.shrink_to(self.entries.len() * 2);
        }
    }

    /// Drops the oldest publication; `false` where there is none.
    pub(super) fn drop_oldest(&mut self) -> bool {
        let Some((_, entry)) = self.entries.pop_front() else { return false };
        self.bytes -= entry.bytes;
        self.floor = entry.offset;
        self.reaches_back = false;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(offset: u64) -> Entry<u64> {
        Entry { offset, bytes: 10, publication: offset }
    }

    fn offsets<'a>(entries: impl Iterator<Item = &'a Entry<u64>>) -> Vec<u64> {
        entries.map(|entry| entry.offset).collect()
    }

    const NOW: Time = Time::from_millis(0);

    #[test]
    fn it_knows_what_it_has() {
        let mut ring = Ring::new(3, false);
        for offset in [5, 6, 9] {
            ring.push(NOW, entry(offset));
        }
        assert_eq!(offsets(ring.behind(3)), [5, 6, 9]);
        assert_eq!(offsets(ring.behind(5)), [6, 9]);
        assert_eq!(offsets(ring.behind(7)), [9]);
        assert_eq!(offsets(ring.behind(9)), [0; 0]);
        assert_eq!(offsets(ring.newest(2)), [6, 9]);
        assert!(ring.has_newest(3) && !ring.has_newest(4));
        ring.extend_back(NOW, 0, true, [1, 3, 5, 6].map(entry).into());
        assert_eq!(offsets(ring.behind(0)), [1, 3, 5, 6, 9]);
        assert!(ring.has_newest(100));
        assert_eq!((ring.floor(), ring.bytes()), (0, 50));
    }

    #[test]
    fn what_is_dropped_raises_the_floor() {
        let mut ring = Ring::new(0, true);
        for offset in 1..=10 {
            ring.push(Time::from_millis(offset * 100), entry(offset));
        }
        let limits = RingLimits { publications: 8, bytes: 1_000, age_millis: 10_000 };
        ring.trim(NOW, limits);
        assert_eq!((ring.floor(), ring.len(), ring.has_newest(100)), (2, 8, false));
        ring.trim(NOW, RingLimits { bytes: 55, ..limits });
        assert_eq!((ring.floor(), ring.len(), ring.bytes()), (5, 5, 50));
        ring.trim(Time::from_millis(1_000), RingLimits { age_millis: 200, ..limits });
        assert_eq!(offsets(ring.behind(ring.floor())), [8, 9, 10]);
        while ring.drop_oldest() {}
        assert_eq!((ring.floor(), ring.bytes()), (10, 0));
    }
}
