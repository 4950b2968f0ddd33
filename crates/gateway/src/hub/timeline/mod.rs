//! One channel with history, as this node knows it: how far it has delivered, what it can answer from memory, and how it
//! repairs what it missed.
//!
//! Pure: time is an argument, publications are opaque. What comes in by `handle_*` may have effects, taken by
//! [`poll_effect`](Timeline::poll_effect); whoever carries them out answers every question with the matching `handle_*`.
//!
//! At most one question is at the broker at a time, however many clients wait for its answer. While publications are
//! missing, newer ones are held back, within bounds: what does not fit is read later.

#[cfg(test)]
mod model;
mod recovery;
mod ring;
#[cfg(test)]
mod tests;

use std::{collections::VecDeque, time::Duration};

use fanfare_broker::{LivePosition, Standing};
use fanfare_protocol::{Epoch, Position};
use fanfare_session::{Start, Time};

use recovery::Waiting;
use ring::{Ring, RingLimits};

pub(super) use ring::Entry;

/// Publications that are held back while others are missing.
const HELD_PUBLICATIONS: usize = 1_024;
/// How long a publication may be on its way from the broker before it counts as missing.
const IN_FLIGHT: Duration = Duration::from_millis(500);
/// When the first check follows the first position: what was published while the broker learnt of the interest may have
/// gone past it.
const FIRST_CHECK: Duration = Duration::from_secs(1);
/// Pause before a question that failed is asked again; doubled with every failure.
const RETRY: Duration = Duration::from_millis(100);
/// The longest such pause.
const LONGEST_RETRY: Duration = Duration::from_secs(5);

/// Reads one after the other that do not bring what came live, after which it is taken for nothing.
const MOST_FRUITLESS: u32 = 3;

/// Why subscribers are told of a gap: what they missed is not retained any more.
const NOT_RETAINED: &str = "not_retained";
/// Why subscribers are told of a gap: the channel's numbering began anew.
const NEW_EPOCH: &str = "new_epoch";

/// What all channels of a namespace have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimelineConfig {
    /// Publications that a client is given to catch up; also those that are read at once.
    pub(super) recovery_publications: usize,
    /// Bytes that a client is given to catch up; also those that are read at once.
    pub(super) recovery_bytes: usize,
    /// How many publications the broker retains.
    pub(super) size: usize,
    /// How long the broker retains a publication.
    pub(super) ttl: Duration,
    /// How long publications stay in memory.
    pub(super) ring_age: Duration,
    /// How often the broker is asked where the channel stands.
    pub(super) check_interval: Duration,
}

/// What the hub has to do.
#[derive(Debug)]
pub(super) enum Effect<P, W> {
    /// The channel's position is known: subscriptions may begin. Once, before everything else.
    Began(Position),
    /// The channel's position cannot be had; whoever waits for `Began` is refused.
    NotBegun,
    /// Deliver to all subscribers.
    Deliver(P),
    /// Tell all subscribers that what lies between the two positions will not come.
    Gap { reason: &'static str, from: Position, to: Position },
    /// Answer one who recovers.
    Answer(W, Answer<P>),
    /// Ask where the channel stands: [`handle_standing`](Timeline::handle_standing).
    Ask,
    /// Read: [`handle_page`](Timeline::handle_page).
    Read(Read),
}

/// What is to be read of the channel's history, within the configured bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Read {
    /// What this node has missed.
    Missed { after: u64 },
    /// What clients have missed.
    Recovery { after: u64 },
    /// The newest publications.
    Newest { count: usize },
}

/// What one who recovers gets. All that lies behind `position` is delivered after it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer<P> {
    /// It can begin.
    Begin { position: Position, recovered: Option<bool>, publications: Vec<P> },
    /// The broker did not answer.
    Unavailable,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Page<P> {
    /// Oldest first, of one epoch.
    pub(super) entries: Vec<Entry<P>>,
    /// Where the channel stood.
    pub(super) position: Position,
    /// There is more in the direction of the read.
    pub(super) more: bool,
    /// Nothing is lost between where the read began and the first entry.
    pub(super) whole: bool,
}

/// The broker did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failed;

/// See the module. `W` names one who recovers.
#[derive(Debug)]
pub(super) struct Timeline<P, W> {
    config: TimelineConfig,
    /// Up to where everything is delivered; `None` until it is known where the channel stands.
    last: Option<Position>,
    /// When `last` was last known to be the end of the channel, if it was.
    confirmed_at: Option<Time>,
    ring: Ring<P>,
    /// Publications that came while others before them are missing.
    held: VecDeque<(LivePosition, Entry<P>)>,
    held_bytes: usize,
    /// Something behind `last` has to be read.
    behind: bool,
    /// Up to here, others of the channel's subscribers have got it by a pattern.
    seen: Option<Position>,
    waiting: Vec<Waiting<W>>,
    /// A read for the one who waits longest did not meet the ring: the next one is for all.
    read_newest: bool,
    /// A read has shown that one who waits comes too late.
    some_too_late: bool,
    question: Option<Question>,
    /// The broker should be asked where the channel stands.
    ask: bool,
    /// Whatever it says, nothing that it knows can still be on its way.
    nothing_in_flight: bool,
    /// The broker said so; if it has not come by the next check, it is missing.
    expected: u64,
    check_at: Time,
    retry_at: Time,
    failures: u32,
    /// Reads one after the other that did not bring what came live.
    fruitless: u32,
    /// When a leader was asked that stood before what was delivered.
    gone_back: Option<Time>,
    effects: VecDeque<Effect<P, W>>,
}

/// What the broker has been asked.
#[derive(Clone, Copy, Debug)]
enum Question {
    /// `last` is what had been delivered then.
    Standing { asked_at: Time, nothing_in_flight: bool, last: u64 },
    /// So many publications were held back then.
    Read { asked_at: Time, read: Read, held: usize },
}

impl<P: Clone, W> Timeline<P, W> {
    /// A channel whose interest the broker has confirmed. It asks where the channel stands.
    pub(super) fn new(now: Time, config: TimelineConfig) -> Self {
        let mut timeline = Self {
            config,
            last: None,
            confirmed_at: None,
            ring: Ring::new(0, false),
            held: VecDeque::new(),
            held_bytes: 0,
            behind: false,
            seen: None,
            waiting: Vec::new(),
            read_newest: false,
            some_too_late: false,
            question: None,
            ask: true,
            nothing_in_flight: false,
            expected: 0,
            check_at: now + config.check_interval,
            retry_at: now,
            failures: 0,
            fruitless: 0,
            gone_back: None,
            effects: VecDeque::new(),
        };
        timeline.ask_next(now);
        timeline
    }

    /// Up to where everything is delivered.
    pub(super) fn position(&self) -> Option<&Position> {
        self.last.as_ref()
    }

    /// Bytes of publications that it keeps.
    pub(super) fn bytes(&self) -> usize {
        self.ring.bytes() + self.held_bytes
    }

    /// How many publications it keeps.
    pub(super) fn publications(&self) -> usize {
        self.ring.len() + self.held.len()
    }

    /// Gives memory back: what is held, which can be read later, else the oldest publication. `false` where there is none
    /// that can be spared.
    pub(super) fn give_back(&mut self) -> bool {
        if self.held.is_empty() {
            return !self.is_read_for_recovery() && self.ring.drop_oldest();
        }
        self.drop_held();
        true
    }

    /// Whether a live publication is one that was delivered already: it need not be encoded.
    pub(super) fn has_delivered(&self, position: &Position) -> bool {
        self.last.as_ref().is_some_and(|last| last.epoch == position.epoch && position.offset <= last.offset)
    }

    /// Others of the channel's subscribers have got the publication at this position by a pattern. Counts until the
    /// channel's own is known.
    pub(super) fn handle_seen(&mut self, position: &Position) {
        if self.seen.as_ref().is_none_or(|seen| seen.epoch != position.epoch || seen.is_before(position)) {
            self.seen = Some(position.clone());
        }
    }

    /// A publication came from the broker.
    pub(super) fn handle_live(&mut self, now: Time, live: LivePosition, entry: Entry<P>) {
        if self.take_live(now, live, entry) {
            // Others may have been published while it was on its way.
            self.confirmed_at = self.confirmed_at.max(Some(now - IN_FLIGHT));
        }
        self.ask_next(now);
    }

    /// The broker says where the channel stands.
    pub(super) fn handle_standing(&mut self, now: Time, result: Result<Standing, Failed>) {
        let Some(Question::Standing { asked_at, nothing_in_flight, last }) = self.question.take() else { return };
        match result {
            Err(Failed) => self.failed(now),
            Ok(standing) => {
                self.failures = 0;
                if self.goes_back(now, asked_at, last, &standing.position) {
                    self.nothing_in_flight |= nothing_in_flight;
                    self.waiting.iter_mut().for_each(|waiting| waiting.asked(&standing.position));
                } else {
                    self.take_standing(now, asked_at, nothing_in_flight, standing);
                }
            }
        }
        self.resolve(now);
        self.ask_next(now);
    }

    /// The broker says what it retains.
    pub(super) fn handle_page(&mut self, now: Time, result: Result<Page<P>, Failed>) {
        let Some(Question::Read { asked_at, read, held }) = self.question.take() else { return };
        match result {
            Err(Failed) => self.failed(now),
            Ok(page) => {
                self.failures = 0;
                self.take_page(now, asked_at, (read, held), page);
            }
        }
        self.resolve(now);
        self.trim(now);
        self.ask_next(now);
    }

    /// An interruption is over: what was published meanwhile did not come and will not.
    pub(super) fn handle_resumed(&mut self, now: Time) {
        self.ask = true;
        self.nothing_in_flight = true;
        self.retry_at = now;
        self.failures = 0;
        self.ask_next(now);
    }

    /// One who subscribes wants what it missed, or the newest publications.
    pub(super) fn handle_recover(&mut self, now: Time, who: W, start: Start) {
        self.trim(now);
        // Only this one: in a storm thousands wait already.
        self.resolve_one(Waiting::new(who, start, self.config.recovery_publications));
        self.ask_next(now);
    }

    /// Time has reached what [`poll_timeout`](Self::poll_timeout) said.
    pub(super) fn handle_timeout(&mut self, now: Time) {
        if now >= self.check_at {
            if let Some(last) = &self.last {
                match std::mem::take(&mut self.expected) {
                    // What is asked already comes first: the check is not urgent.
                    0 => self.ask |= self.question.is_none(),
                    expected => self.behind |= expected > last.offset,
                }
            }
            // Also where the position is not known yet: else it would be time at once again.
            self.check_at = now + self.check_interval();
            self.trim(now);
        }
        self.ask_next(now);
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    pub(super) fn poll_timeout(&self) -> Time {
        if self.question.is_none() && self.wants_to_ask() { self.retry_at } else { self.check_at }
    }

    /// The next thing to do. Call until `None` after every `handle_*`.
    pub(super) fn poll_effect(&mut self) -> Option<Effect<P, W>> {
        let effect = self.effects.pop_front();
        if self.effects.is_empty() {
            // A page may have been large, and most channels are idle most of the time.
            self.effects = VecDeque::new();
        }
        effect
    }

    /// Whether it was delivered.
    fn take_live(&mut self, now: Time, live: LivePosition, entry: Entry<P>) -> bool {
        let is_next = match &self.last {
            None => false,
            Some(last) if last.epoch != live.position.epoch => {
                // Which of the two epochs is the newer one, only the broker's leader knows.
                self.ask = true;
                false
            }
            Some(last) if live.position.offset <= last.offset => return false,
            Some(_) if self.behind || !self.held.is_empty() => false,
            Some(last) => {
                let is_next = self.is_next(now, last.offset, live.previous);
                self.behind = !is_next;
                is_next
            }
        };
        match is_next {
            true => self.deliver(now, entry),
            false => self.hold(live, entry),
        }
        is_next
    }

    /// Whether nothing lies between the last publication and one whose predecessor is this. Where the broker does not know
    /// the predecessor, none was retained; one that was published since the position was last confirmed would be.
    fn is_next(&self, now: Time, last: u64, previous: Option<u64>) -> bool {
        match previous {
            Some(previous) => previous <= last,
            None => self.would_know(now),
        }
    }

    /// Whether all that came behind `last` is still retained.
    fn would_know(&self, now: Time) -> bool {
        self.confirmed_at.is_some_and(|at| now.since(at) < self.config.ttl)
    }

    fn deliver(&mut self, now: Time, entry: Entry<P>) {
        if let Some(last) = &mut self.last {
            last.offset = entry.offset;
        }
        self.effects.push_back(Effect::Deliver(entry.publication.clone()));
        self.ring.push(now, entry);
        self.trim(now);
    }

    fn hold(&mut self, live: LivePosition, entry: Entry<P>) {
        self.held_bytes += entry.bytes;
        self.held.push_back((live, entry));
        if self.held.len() > HELD_PUBLICATIONS || self.held_bytes > self.config.recovery_bytes {
            self.drop_held();
        }
    }

    fn drop_held(&mut self) {
        if let Some(Question::Read { held, .. }) = &mut self.question {
            *held = 0;
        }
        self.held = VecDeque::new();
        self.held_bytes = 0;
        self.behind = true;
    }

    /// Takes what was held back, now that what was missing is delivered.
    fn release(&mut self, now: Time) {
        self.held_bytes = 0;
        for (live, entry) in std::mem::take(&mut self.held) {
            let stale = self.last.as_ref().is_some_and(|last| last.epoch != live.position.epoch);
            // The leader has said which epoch it is in, unless this came after it was asked.
            if !stale || self.ask {
                self.take_live(now, live, entry);
            }
        }
    }

    fn take_standing(&mut self, now: Time, asked_at: Time, nothing_in_flight: bool, standing: Standing) {
        let Standing { position, empty } = standing;
        self.waiting.iter_mut().for_each(|waiting| waiting.asked(&position));
        let would_know = self.would_know(now);
        let Some(last) = &mut self.last else { return self.begin(now, asked_at, position, empty) };
        if last.epoch != position.epoch {
            return self.begin_anew(now, asked_at, position);
        }
        // What had come behind `last` would be retained: the channel just stands further on.
        let nothing_came = empty && self.held.is_empty() && would_know;
        if position.offset <= last.offset || nothing_came {
            last.offset = last.offset.max(position.offset);
            self.confirmed_at = self.confirmed_at.max(Some(asked_at));
        } else if nothing_in_flight || self.waiting.iter().any(|waiting| waiting.is_ahead(last)) {
            self.behind = true;
        } else {
            self.expected = position.offset;
            self.check_at = now + IN_FLIGHT;
        }
        self.release_if_complete(now);
    }

    fn begin(&mut self, now: Time, asked_at: Time, mut position: Position, empty: bool) {
        let seen = self.seen.take().filter(|seen| position.is_before(seen));
        self.ring = Ring::new(seen.as_ref().map_or(position.offset, |seen| seen.offset), empty && seen.is_none());
        position = seen.unwrap_or(position);
        self.effects.push_back(Effect::Began(position.clone()));
        self.last = Some(position);
        self.confirmed_at = Some(asked_at);
        self.check_at = now + FIRST_CHECK.min(self.check_interval());
        self.release_if_complete(now);
    }

    /// The numbering began anew. What was published before the first publication that came of it cannot be told from what
    /// came with the old one.
    fn begin_anew(&mut self, now: Time, asked_at: Time, mut position: Position) {
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

    fn release_if_complete(&mut self, now: Time) {
        if !self.behind {
            self.release(now);
        }
    }

    fn take_page(&mut self, now: Time, asked_at: Time, (read, held): (Read, usize), page: Page<P>) {
        let epoch = self.last.as_ref().map(|last| &last.epoch);
        if epoch != Some(&page.position.epoch) {
            // Its position may be what was asked for, an offset of the other numbering.
            self.ask = true;
            return;
        }
        match read {
            Read::Missed { after } => self.take_missed(now, asked_at, (after, held), page),
            Read::Recovery { .. } | Read::Newest { .. } => self.take_recovery(now, read, page),
        }
    }

    fn take_missed(&mut self, now: Time, asked_at: Time, (after, held): (u64, usize), page: Page<P>) {
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
    fn goes_back(&mut self, now: Time, asked_at: Time, last: u64, position: &Position) -> bool {
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

    fn failed(&mut self, now: Time) {
        self.pause(now);
        if self.last.is_none() {
            self.effects.push_back(Effect::NotBegun);
        }
        self.ask = true;
        // Who could be answered from the ring has been.
        self.give_up();
    }

    /// Asks nothing for a while, the longer the more often it was of no use.
    fn pause(&mut self, now: Time) {
        let pause = RETRY.saturating_mul(1 << self.failures.min(16)).min(LONGEST_RETRY);
        self.failures += 1;
        self.retry_at = now + pause;
    }

    fn wants_to_ask(&self) -> bool {
        self.last.is_none() || self.behind || self.ask || self.next_recovery_read().is_some()
    }

    /// Asks the broker the most urgent question, if there is one and none is asked.
    fn ask_next(&mut self, now: Time) {
        if self.question.is_some() || now < self.retry_at || !self.wants_to_ask() {
            return;
        }
        let read = match &self.last {
            Some(last) if self.behind && !self.ask => Some(Read::Missed { after: last.offset }),
            Some(_) if !self.ask => self.next_recovery_read(),
            _ => None,
        };
        match read {
            Some(read) => {
                self.question = Some(Question::Read { asked_at: now, read, held: self.held.len() });
                self.effects.push_back(Effect::Read(read));
            }
            None => {
                let nothing_in_flight = std::mem::take(&mut self.nothing_in_flight);
                self.ask = false;
                if let Some(last) = &self.last {
                    self.waiting.iter_mut().for_each(|waiting| waiting.ask(last));
                }
                let last = self.last.as_ref().map_or(0, |last| last.offset);
                self.question = Some(Question::Standing { asked_at: now, nothing_in_flight, last });
                self.effects.push_back(Effect::Ask);
            }
        }
    }

    /// Often enough that what is published between two checks is still retained at the second.
    fn check_interval(&self) -> Duration {
        self.config.check_interval.min(self.config.ttl / 2)
    }

    /// Whether something is read that has to meet the ring when it comes.
    fn is_read_for_recovery(&self) -> bool {
        matches!(self.question, Some(Question::Read { read: Read::Recovery { .. } | Read::Newest { .. }, .. }))
    }

    fn trim(&mut self, now: Time) {
        let age = if self.is_read_for_recovery() { Duration::MAX } else { self.config.ring_age.min(self.config.ttl) };
        self.ring.trim(
            now,
            RingLimits {
                publications: self.config.recovery_publications.min(self.config.size),
                bytes: self.config.recovery_bytes,
                age_millis: u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
            },
        );
    }
}

fn is_unknown(live: &LivePosition, position: &Position) -> bool {
    let beyond = |offset: u64| offset > position.offset;
    live.position.epoch == position.epoch && beyond(live.position.offset) && live.previous.is_some_and(beyond)
}
