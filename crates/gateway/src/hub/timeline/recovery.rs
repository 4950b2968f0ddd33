//! Those who recover: answered from the ring where it reaches back far enough, else after one read for all of them.

use fanfare_protocol::Position;
use fanfare_session::{Start, Time};

use super::{Answer, Effect, Page, Read, Timeline};

/// One who recovers.
#[derive(Debug)]
pub(super) struct Waiting<W> {
    who: W,
    start: Start,
    /// It gave a position that cannot be recovered from.
    not_recovered: bool,
    /// The newest publications were read for it.
    read: bool,
    /// The broker is being asked where the channel stands, for one.
    asking: bool,
    /// How often it was.
    asked: u8,
}

/// How often the broker's leader may say of a position that it exists, and not have what lies before it.
const MOST_ASKED: u8 = 3;

impl<W> Waiting<W> {
    pub(super) fn new(who: W, start: Start, most: usize) -> Self {
        let rewind = start.rewind.min(u32::try_from(most).unwrap_or(u32::MAX));
        Self { who, start: Start { rewind, ..start }, not_recovered: false, read: false, asking: false, asked: 0 }
    }

    /// Whether it gave a position that this node cannot know yet: only the broker's leader can say whether there is one.
    pub(super) fn is_ahead(&self, last: &Position) -> bool {
        self.start.since.as_ref().is_some_and(|since| since.epoch != last.epoch || since.offset > last.offset)
    }

    /// The broker's leader is asked where the channel stands, which is of interest to those who are ahead.
    pub(super) fn ask(&mut self, last: &Position) {
        self.asking = self.is_ahead(last);
    }

    /// The broker's leader has said where the channel stands: a position ahead of that is none of this numbering.
    pub(super) fn asked(&mut self, position: &Position) {
        if std::mem::take(&mut self.asking) {
            self.asked += 1;
            if self.is_ahead(position) || self.asked > MOST_ASKED {
                self.lose();
            }
        }
    }

    /// Its position cannot be recovered from; what is left is the newest publications, where it wants them.
    fn lose(&mut self) {
        self.not_recovered |= self.start.since.take().is_some();
    }

    fn recovered(&self) -> Option<bool> {
        match (&self.start.since, self.not_recovered) {
            (Some(_), _) => Some(true),
            (None, true) => Some(false),
            (None, false) => None,
        }
    }
}

impl<P: Clone, W> Timeline<P, W> {
    /// Answers all who can be answered now.
    pub(super) fn resolve(&mut self, now: Time) {
        if self.last.is_some() {
            std::mem::take(&mut self.waiting).into_iter().for_each(|waiting| self.resolve_one(waiting));
            self.some_too_late &= !self.waiting.is_empty();
            self.trim(now);
        }
    }

    /// Answers one who can be answered now, or has it wait.
    pub(super) fn resolve_one(&mut self, mut waiting: Waiting<W>) {
        let Some(last) = self.last.clone() else { return self.waiting.push(waiting) };
        match self.publications_for(&mut waiting, &last) {
            Some(publications) => {
                let answer = Answer::Begin { position: last, recovered: waiting.recovered(), publications };
                self.effects.push_back(Effect::Answer(waiting.who, answer));
            }
            None => {
                self.ask |= waiting.is_ahead(&last) && !self.behind && self.question.is_none();
                self.waiting.push(waiting);
            }
        }
    }

    /// What is to be read for those who wait: all of them are served by it, or all but those that it shows to be too late.
    pub(super) fn next_recovery_read(&self) -> Option<Read> {
        let last = self.last.as_ref()?;
        let waiting = || self.waiting.iter().filter(|waiting| !waiting.is_ahead(last));
        let mut offsets: Vec<u64> =
            waiting().filter_map(|waiting| waiting.start.since.as_ref()).map(|since| since.offset).collect();
        let earliest = offsets.iter().min().copied();
        if let Some(earliest) = earliest.filter(|_| !self.read_newest) {
            // After one that was too late, halve: what is whole from one position on is whole from every later one.
            let middle = offsets.len() / 2;
            let after = if self.some_too_late { *offsets.select_nth_unstable(middle).1 } else { earliest };
            return Some(Read::Recovery { after });
        }
        let rewind = waiting().filter(|waiting| waiting.start.since.is_none());
        let rewind = rewind.map(|waiting| waiting.start.rewind as usize).max();
        let count = if earliest.is_some() { Some(self.config.recovery_publications) } else { rewind };
        count.map(|count| Read::Newest { count: count.max(1) })
    }

    pub(super) fn take_recovery(&mut self, now: Time, read: Read, page: Page<P>) {
        let Page { entries, position, more, whole } = page;
        let first = entries.first().map(|entry| entry.offset.saturating_sub(1));
        // Behind this, all that is retained was read, up to where the read ended.
        let (floor, reaches_back) = match read {
            Read::Recovery { after } if whole => (after, false),
            Read::Newest { .. } => (first.unwrap_or(position.offset), !more),
            Read::Recovery { .. } | Read::Missed { .. } => (first.unwrap_or(position.offset), false),
        };
        let forward = !matches!(read, Read::Newest { .. });
        let end = match entries.last() {
            Some(entry) if more && forward => entry.offset,
            None if more && forward => 0,
            _ => position.offset,
        };
        let meets_the_ring = end >= self.ring.floor();
        if meets_the_ring {
            self.ring.extend_back(now, floor, reaches_back, entries);
        }
        self.read_newest = forward && !meets_the_ring;
        self.some_too_late |= forward && !whole;
        let floor = self.ring.floor();
        let most = self.config.recovery_publications;
        let last = self.last.clone();
        let is_all_it_may_get = more && matches!(read, Read::Newest { count } if count >= most);
        let is_concerned = |waiting: &&mut Waiting<W>| last.as_ref().is_some_and(|last| !waiting.is_ahead(last));
        for waiting in self.waiting.iter_mut().filter(is_concerned) {
            match (&waiting.start.since, read) {
                // What it needs is more than was read, or is not retained.
                (Some(since), Read::Recovery { after }) if since.offset < floor => {
                    let is_whole_from_later = whole && since.offset < after;
                    if since.offset <= after && !is_whole_from_later {
                        waiting.lose();
                    }
                }
                (Some(since), Read::Newest { .. }) if is_all_it_may_get && since.offset < floor => waiting.lose(),
                (None, Read::Newest { count }) => waiting.read |= count >= waiting.start.rewind as usize,
                _ => {}
            }
        }
    }

    /// The broker does not answer: those who wait are told.
    pub(super) fn give_up(&mut self) {
        for waiting in std::mem::take(&mut self.waiting) {
            self.effects.push_back(Effect::Answer(waiting.who, Answer::Unavailable));
        }
    }

    /// What one is given first; `None` where the broker has to be asked before.
    fn publications_for(&self, waiting: &mut Waiting<W>, last: &Position) -> Option<Vec<P>> {
        if let Some(since) = &waiting.start.since {
            if waiting.is_ahead(last) || since.offset < self.ring.floor() {
                return None;
            }
            let missed = self.missed_since(since.offset);
            if missed.is_some() {
                return missed;
            }
            waiting.lose();
        }
        let rewind = waiting.start.rewind as usize;
        (waiting.read || self.ring.has_newest(rewind)).then(|| self.newest(rewind))
    }

    /// `None` where it is over the limits.
    fn missed_since(&self, offset: u64) -> Option<Vec<P>> {
        let (mut count, mut bytes) = (0, 0);
        for entry in self.ring.behind(offset) {
            (count, bytes) = (count + 1, bytes + entry.bytes);
        }
        let too_much = count > self.config.recovery_publications || bytes > self.config.recovery_bytes;
        (!too_much).then(|| self.ring.behind(offset).map(|entry| entry.publication.clone()).collect())
    }

    /// The newest publications, as many of them as the limit on bytes allows.
    fn newest(&self, count: usize) -> Vec<P> {
        let mut bytes = 0;
        let fits = |entry: &&super::Entry<P>| {
            bytes += entry.bytes;
            bytes <= self.config.recovery_bytes
        };
        let mut newest: Vec<P> =
            self.ring.newest(count).rev().take_while(fits).map(|entry| entry.publication.clone()).collect();
        newest.reverse();
        newest
    }
}
