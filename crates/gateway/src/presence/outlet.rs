//! The driver's end of a shard's inbox. It never waits: what does not fit is kept.
//!
//! Announcements take at most half of the inbox, so that they never hold up publications. Of those that wait too long, or are
//! too many, only the newest of each channel is kept: its version tells that others are missing. Answers always arrive.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use ahash::RandomState;
use hashbrown::HashMap;
use tokio::sync::mpsc::error::TrySendError;

use crate::{
    encoding::EncodedPublication,
    hub::{
        ShardInbox,
        message::{ShardMessage, SlotId, Targets},
    },
    limits::{PRESENCE_BACKLOG_BYTES, SHARD_STALL},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Outlet {
    inbox: ShardInbox,
    /// Announcements and answers, in their order.
    backlog: VecDeque<ShardMessage>,
    /// Of the announcements in it.
    bytes: usize,
    /// Since when the first of the backlog waits.
    stuck_since: Option<Instant>,
    /// The newest announcement of each channel that others had to make room for. They go behind the backlog.
    newest: HashMap<SlotId, Arc<EncodedPublication>, RandomState>,
}

impl Outlet {
    pub(super) fn new(inbox: ShardInbox) -> Self {
        Self { inbox, backlog: VecDeque::new(), bytes: 0, stuck_since: None, newest: HashMap::default() }
    }

    /// Whether [`drain`](Self::drain) has something to do.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || !self.newest.is_empty()
    }

    /// Hands an announcement over, or keeps it. Returns how many were dropped for it.
    pub(super) fn announce(&mut self, slot: SlotId, publication: Arc<EncodedPublication>, now: Instant) -> usize {
        if !self.newest.is_empty() || self.bytes + publication.bytes() > PRESENCE_BACKLOG_BYTES {
            return usize::from(self.newest.insert(slot, publication).is_some());
        }
        let message = announcement(slot, publication);
        if self.backlog.is_empty() && self.inbox.has_room() {
            match self.inbox.try_send(message) {
                Ok(()) | Err(TrySendError::Closed(_)) => {}
                Err(TrySendError::Full(message)) => self.keep(message, now),
            }
        } else {
            self.keep(message, now);
        }
        0
    }

    /// Hands an answer over, or keeps it.
    pub(super) fn answer(&mut self, message: ShardMessage, now: Instant) {
        if !self.backlog.is_empty() {
            return self.keep(message, now);
        }
        if let Err(TrySendError::Full(message)) = self.inbox.try_send(message) {
            self.keep(message, now);
        }
    }

    /// Hands over what waits, as far as the inbox takes it. Returns how many announcements were dropped.
    pub(super) fn drain(&mut self, now: Instant) -> usize {
        while let Some(message) = self.backlog.pop_front() {
            let bytes = bytes_of(&message);
            let sent = match bytes > 0 && !self.inbox.has_room() {
                true => Err(TrySendError::Full(message)),
                false => self.inbox.try_send(message),
            };
            match sent {
                Err(TrySendError::Full(message)) => {
                    self.backlog.push_front(message);
                    return self.give_up_if_stuck(now);
                }
                Ok(()) | Err(TrySendError::Closed(_)) => {
                    self.bytes -= bytes;
                    self.stuck_since = Some(now);
                }
            }
        }
        self.stuck_since = None;
        self.backlog.shrink_to(64);
        while self.inbox.has_room()
            && let Some(slot) = self.newest.keys().next().copied()
            && let Some(publication) = self.newest.remove(&slot)
        {
            if let Err(TrySendError::Full(_)) = self.inbox.try_send(announcement(slot, publication.clone())) {
                self.newest.insert(slot, publication);
                break;
            }
        }
        0
    }

    fn keep(&mut self, message: ShardMessage, now: Instant) {
        self.bytes += bytes_of(&message);
        self.stuck_since.get_or_insert(now);
        self.backlog.push_back(message);
    }

    /// Announcements that nobody takes do not keep answers waiting.
    fn give_up_if_stuck(&mut self, now: Instant) -> usize {
        let stuck = self.stuck_since.map_or(Duration::ZERO, |since| now.duration_since(since));
        if stuck <= SHARD_STALL || self.bytes == 0 {
            return 0;
        }
        let mut dropped = 0;
        // The last first: what is kept already is newer.
        for message in std::mem::take(&mut self.backlog).into_iter().rev() {
            match message {
                ShardMessage::Publication { targets: Targets::One(slot), publication } => {
                    dropped += usize::from(self.newest.contains_key(&slot));
                    self.newest.entry(slot).or_insert(publication);
                }
                answer => self.backlog.push_front(answer),
            }
        }
        self.bytes = 0;
        dropped
    }
}

fn announcement(slot: SlotId, publication: Arc<EncodedPublication>) -> ShardMessage {
    ShardMessage::Publication { targets: Targets::One(slot), publication }
}

fn bytes_of(message: &ShardMessage) -> usize {
    match message {
        ShardMessage::Publication { publication, .. } => publication.bytes(),
        _ => 0,
    }
}
