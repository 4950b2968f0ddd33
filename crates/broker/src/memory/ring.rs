//! What is retained of one channel.

use std::collections::VecDeque;

use crate::{HistoryRange, Recorded};

/// The newest publications of a channel. Their offsets have no holes: the last is [`last`](Self::last).
#[derive(Debug, Default)]
pub(super) struct Ring {
    records: VecDeque<Recorded>,
    last: u64,
    /// Whether the channel waits in line to be forgotten.
    pub(super) in_line: bool,
}

/// A part of a ring.
#[derive(Debug)]
pub(super) struct Part {
    /// Oldest first.
    pub(super) publications: Vec<Recorded>,
    pub(super) more: bool,
    pub(super) whole: bool,
}

impl Ring {
    /// A ring without publications; the first will have the offset after this one.
    pub(super) fn beginning_after(offset: u64) -> Self {
        Self { last: offset, ..Self::default() }
    }

    /// The offset of the newest publication, retained or not.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// All that lies behind this offset is retained.
    pub(super) fn retained_after(&self) -> u64 {
        self.last - self.records.len() as u64
    }

    /// Appends the next publication.
    pub(super) fn push(&mut self, record: Recorded) {
        debug_assert_eq!(record.offset, self.last + 1);
        self.last = record.offset;
        self.records.push_back(record);
    }

    /// Drops the oldest publication.
    pub(super) fn pop(&mut self) -> Option<Recorded> {
        let record = self.records.pop_front();
        if self.records.is_empty() {
            self.records = VecDeque::new();
        }
        record
    }

    pub(super) fn read(&self, range: HistoryRange, max_publications: usize, max_bytes: usize) -> Part {
        let mut room = Room { publications: max_publications, bytes: max_bytes, taken: 0 };
        match range {
            HistoryRange::After(offset) => {
                let first = self.index_of(offset.saturating_add(1));
                let publications: Vec<Recorded> =
                    self.records.range(first..).take_while(|record| room.take(record)).cloned().collect();
                let more = first + publications.len() < self.records.len();
                Part { publications, more, whole: (self.retained_after()..=self.last).contains(&offset) }
            }
            HistoryRange::Before(offset) => {
                let end = offset.map_or(self.records.len(), |offset| self.index_of(offset));
                let mut publications: Vec<Recorded> =
                    self.records.range(..end).rev().take_while(|record| room.take(record)).cloned().collect();
                publications.reverse();
                let more = publications.len() < end;
                Part { publications, more, whole: true }
            }
        }
    }

    /// Where the publication with this offset stands, or would stand.
    fn index_of(&self, offset: u64) -> usize {
        let behind = offset.saturating_sub(self.retained_after() + 1);
        usize::try_from(behind).unwrap_or(usize::MAX).min(self.records.len())
    }
}

/// Limits of one read.
struct Room {
    publications: usize,
    bytes: usize,
    taken: usize,
}

impl Room {
    /// Whether there is room for one more. There is always for one.
    fn take(&mut self, record: &Recorded) -> bool {
        let bytes = record.body.bytes.len();
        let fits = self.taken == 0 || (self.taken < self.publications && bytes <= self.bytes);
        self.taken += 1;
        self.bytes = self.bytes.saturating_sub(bytes);
        fits
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Body;

    use super::*;

    fn ring(base: u64, pushed: u64, popped: u64) -> Ring {
        let mut ring = Ring::beginning_after(base);
        for offset in base + 1..=base + pushed {
            ring.push(Recorded { offset, body: Body::new(vec![0; 10]), timestamp: None });
        }
        for _ in 0..popped {
            ring.pop().unwrap();
        }
        ring
    }

    fn read(ring: &Ring, range: HistoryRange, publications: usize, bytes: usize) -> (Vec<u64>, bool, bool) {
        let part = ring.read(range, publications, bytes);
        (part.publications.iter().map(|record| record.offset).collect(), part.more, part.whole)
    }

    #[test]
    fn reads_forward_from_every_offset() {
        let ring = ring(100, 6, 2);
        assert_eq!((ring.last(), ring.retained_after(), ring.len()), (106, 102, 4));
        for (after, offsets, whole) in [
            (0, 103..107, false),
            (101, 103..107, false),
            (102, 103..107, true),
            (103, 104..107, true),
            (105, 106..107, true),
            (106, 107..107, true),
            (107, 107..107, false),
            (u64::MAX, 107..107, false),
        ] {
            let all = read(&ring, HistoryRange::After(after), 100, 1_000);
            assert_eq!(all, (offsets.collect(), false, whole), "after {after}");
        }
    }

    #[test]
    fn reads_backward_from_every_offset() {
        let ring = ring(100, 6, 2);
        for (before, offsets) in [
            (None, 103..107),
            (Some(u64::MAX), 103..107),
            (Some(107), 103..107),
            (Some(105), 103..105),
            (Some(103), 103..103),
            (Some(1), 103..103),
            (Some(0), 103..103),
        ] {
            let all = read(&ring, HistoryRange::Before(before), 100, 1_000);
            assert_eq!(all, (offsets.collect(), false, true), "before {before:?}");
        }
    }

    #[test]
    fn a_read_is_bounded_in_publications_and_bytes_and_gives_at_least_one() {
        let ring = ring(0, 6, 0);
        let (after, before) = (HistoryRange::After(1), HistoryRange::Before(Some(6)));
        assert_eq!(read(&ring, after, 2, 1_000), (vec![2, 3], true, true));
        assert_eq!(read(&ring, after, 5, 1_000), (vec![2, 3, 4, 5, 6], false, true));
        assert_eq!(read(&ring, after, 100, 30), (vec![2, 3, 4], true, true));
        assert_eq!(read(&ring, after, 100, 29), (vec![2, 3], true, true));
        assert_eq!(read(&ring, after, 100, 1), (vec![2], true, true));
        assert_eq!(read(&ring, before, 2, 1_000), (vec![4, 5], true, true));
        assert_eq!(read(&ring, before, 100, 1), (vec![5], true, true));
    }
}
