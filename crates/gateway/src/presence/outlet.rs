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
        ShardInbox, bytes_of,
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

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Body, Delivery, ErrorBody, ErrorCode};
    use fanfare_session::{Completion, OpId};

    use super::*;
    use crate::hub::{ShardInboxReceiver, message::ConnectionId, shard_inbox};

    const INBOX: usize = 64;

    fn slot(index: u32) -> SlotId {
        SlotId { index, generation: 0 }
    }

    fn announced(event: &str, bytes: usize) -> Arc<EncodedPublication> {
        let body = Body::new(format!(r#"{{"event":"{event}","data":"{}"}}"#, "x".repeat(bytes)).into_bytes());
        let envelope = body.envelope(1 << 23).unwrap();
        Arc::new(EncodedPublication::new(&Delivery { envelope: &envelope, channel: "a", timestamp: 0, position: None }))
    }

    fn answer(op: u32) -> ShardMessage {
        let completion = Completion::Presence(Err(ErrorBody::new(ErrorCode::Unavailable, "")));
        ShardMessage::Completed { connection: ConnectionId { index: 0, generation: 0 }, op: OpId(op), completion }
    }

    /// What the shard got: the slot of an announcement with its bytes, or the number of an answer.
    async fn taken(inbox: &mut ShardInboxReceiver) -> Vec<String> {
        let mut batch = Vec::new();
        inbox.recv_many(&mut batch, usize::MAX).await;
        let word = |message: ShardMessage| match message {
            ShardMessage::Publication { targets: Targets::One(slot), publication } => {
                format!("{}:{}", slot.index, publication.bytes() / 100)
            }
            ShardMessage::Completed { op, .. } => format!("answer {}", op.0),
            other => panic!("{other:?}"),
        };
        batch.into_iter().map(word).collect()
    }

    #[tokio::test]
    async fn announcements_leave_half_of_the_inbox_to_publications_and_answers_do_not_overtake_them() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut outlet = Outlet::new(inbox);
        let now = Instant::now();
        for _ in 0..INBOX {
            assert_eq!(outlet.announce(slot(1), announced("a", 1), now), 0);
        }
        outlet.answer(answer(1), now);
        outlet.announce(slot(2), announced("a", 1), now);
        assert!(outlet.has_backlog());
        let first = taken(&mut receiver).await;
        assert_eq!(first.len(), INBOX / 2 + 1);
        outlet.drain(now);
        let rest = taken(&mut receiver).await;
        assert_eq!(first.len() + rest.len(), INBOX + 2);
        assert_eq!(rest[rest.len() - 2..], ["answer 1", "2:0"]);
        assert!(!outlet.has_backlog());
    }

    #[tokio::test]
    async fn of_too_many_announcements_the_newest_of_each_channel_stays() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut outlet = Outlet::new(inbox);
        let now = Instant::now();
        let large = PRESENCE_BACKLOG_BYTES / 4;
        for _ in 0..=INBOX / 2 {
            outlet.announce(slot(0), announced("a", 1), now);
        }
        let mut dropped = 0;
        for number in 0..10 {
            dropped += outlet.announce(slot(1), announced("a", large + 100 * number), now);
            dropped += outlet.announce(slot(2), announced("a", 100 * number), now);
        }
        assert!(dropped > 0 && outlet.bytes <= PRESENCE_BACKLOG_BYTES);
        taken(&mut receiver).await;
        let mut got = Vec::new();
        while outlet.has_backlog() {
            outlet.drain(now);
            got.extend(taken(&mut receiver).await);
        }
        assert_eq!(got.len() + dropped, 20);
        let last = |slot: &str| got.iter().rfind(|word| word.starts_with(slot)).unwrap().clone();
        assert_eq!(last("2:"), format!("2:{}", announced("a", 900).bytes() / 100), "the last one of the channel");
        assert_eq!(last("1:"), format!("1:{}", announced("a", large + 900).bytes() / 100));
    }

    #[tokio::test]
    async fn answers_do_not_wait_for_announcements_that_nobody_takes() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut outlet = Outlet::new(inbox.clone());
        let now = Instant::now();
        while inbox.has_room() {
            assert!(inbox.try_send(answer(0)).is_ok());
        }
        for number in 1..=3 {
            outlet.announce(slot(1), announced("a", 100 * number), now);
        }
        outlet.answer(answer(1), now);
        outlet.drain(now);
        let full = taken(&mut receiver).await.len();
        for _ in 0..full {
            assert!(inbox.try_send(answer(0)).is_ok());
        }
        assert_eq!(outlet.drain(now + SHARD_STALL + Duration::from_millis(1)), 2, "the newest is kept");
        outlet.drain(now + SHARD_STALL + Duration::from_millis(2));
        assert_eq!(taken(&mut receiver).await.last().unwrap(), "answer 1");
        outlet.drain(now + 2 * SHARD_STALL);
        assert_eq!(taken(&mut receiver).await, ["1:3"]);
    }

    #[tokio::test]
    async fn a_shard_that_has_ended_keeps_nobody_busy() {
        let (inbox, receiver) = shard_inbox(INBOX);
        let mut outlet = Outlet::new(inbox);
        let now = Instant::now();
        for _ in 0..INBOX {
            outlet.announce(slot(1), announced("a", 1), now);
        }
        drop(receiver);
        outlet.drain(now);
        assert!(!outlet.has_backlog());
    }
}
