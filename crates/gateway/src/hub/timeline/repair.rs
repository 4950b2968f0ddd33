//! What was missed: read and delivered before anything newer, or told. And numberings that begin anew.

use fanfare_broker::LivePosition;
use fanfare_protocol::{Epoch, Position};
use fanfare_session::Time;

use super::{Effect, IN_FLIGHT, Page, Timeline, ring::Ring};

/// Why subscribers are told of a gap: what they missed is not retained any more.
pub(super) const NOT_RETAINED: &str = "not_retained";
/// Why subscribers are told of a gap: the channel's numbering began anew.
pub(super) const NEW_EPOCH: &str = "new_epoch";
/// Reads one after the other that do not bring what came live, after which it is taken for nothing.
const MOST_FRUITLESS: u32 = 3;

impl<P: Clone, W> Timeline<P, W> {
    pub(super) fn take_missed(&mut self, now: Time, asked_at: Time, (after, held): (u64, usize), page: Page<P>) {
        let Page { entries, position, more, whole } = page;
        let lost_up_to = entries.first().map_or(position.offset, |entry| entry.offset.saturating_sub(1));
        if !whole && lost_up_to > after {
            self.lose(after, lost_up_to, &position.epoch);
        }
        let delivered = self.last.as_ref().map_or(0, |last| last.offset);
        let progress = entries.last().is_some_and(|entry| entry.offset > delivered);
        for entry in entries.into_iter().filter(|entry| entry.offset > delivered) {
            self.deliver(now, entry);
        }
        if more && progress {
            return;
        }
        if more {
            // More that cannot be had.
            self.lose(after, position.offset, &position.epoch);
        }
        if let Some(last) = &mut self.last {
            last.offset = last.offset.max(position.offset);
        }
        if self.are_unknown(held, &position) {
            self.fruitless += 1;
            if self.fruitless < MOST_FRUITLESS {
                self.pause(now);
                return;
            }
            // What came live, the leader does not have and will not: nobody can be given what lies before it.
            let (before, since): (Vec<_>, Vec<_>) =
                std::mem::take(&mut self.held).into_iter().enumerate().partition(|(at, _)| *at < held);
            let kept = before.into_iter().filter(|(_, (live, _))| !is_unknown(live, &position)).chain(since);
            self.held = kept.map(|(_, one)| one).collect();
        }
        self.fruitless = 0;
        self.behind = false;
        self.confirmed_at = Some(asked_at);
        self.release(now);
    }

    /// Tells subscribers what they will not get.
    fn lose(&mut self, after: u64, up_to: u64, epoch: &Epoch) {
        let place = |offset| Position { offset, epoch: epoch.clone() };
        if up_to > after {
            self.ring = Ring::new(up_to, false);
            self.last = Some(place(up_to));
            self.effects.push_back(Effect::Gap { reason: NOT_RETAINED, from: place(after), to: place(up_to) });
        }
    }

    /// Whether one of the publications that were held back when the broker was asked is not known to its leader, nor the one
    /// before it.
    fn are_unknown(&self, held: usize, position: &Position) -> bool {
        self.held.iter().take(held).any(|(live, _)| is_unknown(live, position))
    }

    /// A leader that stands before what was delivered, and still does a check later, has lost its end: what it numbers from
    /// now on is another numbering, whatever it is called. One that has only lost its followers is no leader by then.
    pub(super) fn goes_back(&mut self, now: Time, asked_at: Time, last: u64, position: &Position) -> bool {
        let same = self.last.as_ref().is_some_and(|own| own.epoch == position.epoch);
        if !same || position.offset >= last {
            self.gone_back = None;
            return false;
        }
        let since = *self.gone_back.get_or_insert(asked_at);
        if asked_at.since(since) >= self.config.check_interval {
            self.gone_back = None;
            self.begin_anew(now, asked_at, position.clone());
        }
        true
    }

    /// The numbering began anew. What was published before the first publication that came of it cannot be told from what
    /// came with the old one.
    pub(super) fn begin_anew(&mut self, now: Time, asked_at: Time, mut position: Position) {
        let stands = position.offset;
        let first = self.held.iter().find(|(live, _)| live.position.epoch == position.epoch);
        if let Some((live, _)) = first {
            position.offset = stands.min(live.previous.unwrap_or(live.position.offset.saturating_sub(1)));
        }
        self.ring = Ring::new(position.offset, false);
        self.behind = false;
        (self.expected, self.confirmed_at) = (0, Some(asked_at));
        if position.offset < stands {
            // Not all of it may have come.
            (self.expected, self.confirmed_at) = (stands, None);
            self.check_at = now + IN_FLIGHT;
        }
        let from = self.last.replace(position.clone());
        if let Some(from) = from {
            self.effects.push_back(Effect::Gap { reason: NEW_EPOCH, from, to: position });
        }
        self.release(now);
    }
}

fn is_unknown(live: &LivePosition, position: &Position) -> bool {
    let beyond = |offset: u64| offset > position.offset;
    live.position.epoch == position.epoch && beyond(live.position.offset) && live.previous.is_some_and(beyond)
}
