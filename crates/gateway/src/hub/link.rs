//! The hub's end of a shard's inbox. The hub never waits for a shard: what does not fit is kept for a while, and a
//! shard that stays full is interrupted alone.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use tokio::sync::mpsc::{self, error::TrySendError};

use fanfare_protocol::{ErrorBody, ErrorCode};

use super::message::{Recoverer, ShardMessage};
use crate::limits::{SHARD_BACKLOG_BYTES, SHARD_INBOX_BYTES, SHARD_STALL};

/// Why subscribers are told of a gap after their shard was interrupted.
pub(crate) const STALLED: &str = "node_overloaded";

/// The sending end of a shard's inbox. It counts bytes, because messages differ too much in size for their number to
/// be a bound.
#[derive(Clone, Debug)]
pub(crate) struct ShardInbox {
    messages: mpsc::Sender<ShardMessage>,
    bytes: Arc<AtomicUsize>,
}

/// The receiving end.
#[derive(Debug)]
pub(crate) struct ShardInboxReceiver {
    messages: mpsc::Receiver<ShardMessage>,
    bytes: Arc<AtomicUsize>,
}

/// A new inbox, bounded in messages and bytes.
pub(crate) fn shard_inbox(messages: usize) -> (ShardInbox, ShardInboxReceiver) {
    let (sender, receiver) = mpsc::channel(messages);
    let bytes = Arc::new(AtomicUsize::new(0));
    (ShardInbox { messages: sender, bytes: bytes.clone() }, ShardInboxReceiver { messages: receiver, bytes })
}

impl ShardInbox {
    /// Waits for a place. For messages that are no publications; `false` where the shard has ended.
    pub(crate) async fn send(&self, message: ShardMessage) -> bool {
        self.messages.send(message).await.is_ok()
    }

    /// Whether it is half empty, or nobody reads it any more.
    pub(crate) fn has_room(&self) -> bool {
        let messages = self.messages.capacity() * 2 >= self.messages.max_capacity();
        let bytes = self.bytes.load(Ordering::Relaxed) * 2 <= SHARD_INBOX_BYTES;
        (messages && bytes) || self.messages.is_closed()
    }

    /// Hands a message over where there is a place for it.
    pub(crate) fn try_send(&self, message: ShardMessage) -> Result<(), TrySendError<ShardMessage>> {
        let bytes = bytes_of(&message);
        if bytes > 0 && self.bytes.load(Ordering::Relaxed) > SHARD_INBOX_BYTES {
            return Err(TrySendError::Full(message));
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        self.messages.try_send(message).inspect_err(|_| {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        })
    }
}

impl ShardInboxReceiver {
    /// Waits for messages and takes up to `limit` of them; 0 when every sender is gone.
    pub(crate) async fn recv_many(&mut self, batch: &mut Vec<ShardMessage>, limit: usize) -> usize {
        let count = self.messages.recv_many(batch, limit).await;
        let bytes = batch.iter().map(bytes_of).sum();
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        count
    }
}

/// A shard, as the hub sees it.
#[derive(Debug)]
pub(super) struct ShardLink {
    inbox: ShardInbox,
    backlog: VecDeque<ShardMessage>,
    backlog_bytes: usize,
    full_since: Option<Instant>,
    interrupted: bool,
}

impl ShardLink {
    pub(super) fn new(inbox: ShardInbox) -> Self {
        Self { inbox, backlog: VecDeque::new(), backlog_bytes: 0, full_since: None, interrupted: false }
    }

    /// Whether [`drain`](Self::drain) has something to do: messages wait, or an interruption that has to end.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.interrupted
    }

    /// Hands a message over, or keeps it behind those that wait. Says whether the shard was interrupted by it: then its
    /// publications are dropped until the inbox is free again, and its subscribers are told of the gap.
    pub(super) fn send(&mut self, message: ShardMessage, now: Instant) -> bool {
        let bytes = bytes_of(&message);
        if self.interrupted && (bytes > 0 || is_repaired(&message)) {
            return false;
        }
        let message = if self.interrupted { without_recovery(message) } else { message };
        if self.backlog.is_empty() {
            match self.inbox.try_send(message) {
                Ok(()) | Err(TrySendError::Closed(_)) => return false,
                Err(TrySendError::Full(message)) => self.keep(message, bytes),
            }
        } else {
            self.keep(message, bytes);
        }
        let since = *self.full_since.get_or_insert(now);
        let stuck = self.backlog_bytes > SHARD_BACKLOG_BYTES || now.duration_since(since) > SHARD_STALL;
        // Only publications can be dropped, and once interrupted none comes into the backlog.
        let drops = stuck && self.backlog_bytes > 0 && !self.interrupted;
        if drops {
            self.interrupt();
        }
        drops
    }

    /// Hands over what waits, as far as the inbox takes it. An interruption ends when the inbox is half empty: sooner, the
    /// next would follow at once, and each costs every subscriber a gap.
    pub(super) fn drain(&mut self) {
        while let Some(message) = self.backlog.pop_front() {
            let bytes = bytes_of(&message);
            match self.inbox.try_send(message) {
                // It takes some: it is slow, not stuck. How slow it may be is a matter of bytes.
                Ok(()) => self.full_since = None,
                Err(TrySendError::Full(message)) => return self.backlog.push_front(message),
                Err(TrySendError::Closed(_)) => {}
            }
            self.backlog_bytes -= bytes;
        }
        self.full_since = None;
        if self.interrupted && self.inbox.has_room() {
            self.interrupted = false;
            self.backlog.push_back(ShardMessage::GapEverywhere { reason: STALLED, repair: true });
        }
    }

    fn keep(&mut self, message: ShardMessage, bytes: usize) {
        let gaps = |message: &ShardMessage| matches!(message, ShardMessage::GapEverywhere { .. });
        // One says it all, however often a broker comes and goes.
        if gaps(&message) && self.backlog.back().is_some_and(gaps) {
            if let (
                Some(ShardMessage::GapEverywhere { repair, .. }),
                ShardMessage::GapEverywhere { repair: true, .. },
            ) = (self.backlog.back_mut(), message)
            {
                *repair = true;
            }
            return;
        }
        self.backlog.push_back(message);
        self.backlog_bytes += bytes;
    }

    /// Drops publications that wait; all else stays, since a lost answer would hang a client.
    fn interrupt(&mut self) {
        let waiting = self.backlog.len();
        let backlog = std::mem::take(&mut self.backlog).into_iter();
        self.backlog =
            backlog.filter(|message| bytes_of(message) == 0 && !is_repaired(message)).map(without_recovery).collect();
        self.backlog_bytes = 0;
        self.interrupted = self.interrupted || self.backlog.len() < waiting;
    }
}

/// A gap in a place that the shard has not reached: its own repair spans it, and it is told of that with all the rest.
fn is_repaired(message: &ShardMessage) -> bool {
    matches!(message, ShardMessage::Gap { missed: Some(_), .. })
}

/// A session that recovered to a place which its shard has not reached cannot go on from there: it has to try again.
fn without_recovery(message: ShardMessage) -> ShardMessage {
    match message {
        ShardMessage::Recovered { recoverer: recoverer @ Recoverer { session: Some(_), .. }, .. } => {
            let refusal = ErrorBody::new(ErrorCode::Unavailable, "this node is overloaded; try again");
            ShardMessage::Recovered { recoverer, result: Err(refusal) }
        }
        message => message,
    }
}

/// Bytes of the publication in it; 0 for all that is none.
pub(crate) fn bytes_of(message: &ShardMessage) -> usize {
    match message {
        ShardMessage::Publication { publication, .. } => publication.bytes(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use fanfare_protocol::{Body, Delivery};

    use super::*;
    use crate::{
        encoding::EncodedPublication,
        hub::message::{SlotId, Targets},
    };

    const INBOX: usize = 64;
    const SLOT: SlotId = SlotId { index: 0, generation: 0 };

    fn publication() -> ShardMessage {
        let body = Body::new(&br#"{"event":"x"}"#[..]);
        let envelope = body.envelope(1024).unwrap();
        let delivery = Delivery { envelope: &envelope, channel: "a", timestamp: 0, position: None };
        let publication = Arc::new(EncodedPublication::new(&delivery));
        ShardMessage::Publication { targets: Targets::One(SLOT), publication }
    }

    /// Fills the inbox, and sends more once it has been full for too long.
    fn interrupt(link: &mut ShardLink, now: Instant) {
        for _ in 0..=INBOX {
            link.send(publication(), now);
        }
        assert!(link.send(publication(), now + SHARD_STALL + Duration::from_millis(1)), "interrupted now");
    }

    async fn take_all(receiver: &mut ShardInboxReceiver) -> Vec<ShardMessage> {
        let mut batch = Vec::new();
        receiver.recv_many(&mut batch, usize::MAX).await;
        batch
    }

    #[tokio::test]
    async fn what_does_not_fit_waits_and_keeps_its_order() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut link = ShardLink::new(inbox);
        let now = Instant::now();
        for _ in 0..INBOX {
            assert!(!link.send(publication(), now));
        }
        assert!(!link.send(ShardMessage::Subscribed { slot: SLOT, position: None }, now));
        assert!(!link.send(publication(), now));
        assert!(link.has_backlog());
        assert_eq!(take_all(&mut receiver).await.len(), INBOX);
        link.drain();
        let rest = take_all(&mut receiver).await;
        assert!(matches!(rest[..], [ShardMessage::Subscribed { .. }, ShardMessage::Publication { .. }]));
        assert!(!link.has_backlog());
    }

    #[tokio::test]
    async fn a_shard_that_stays_full_is_interrupted_and_told_but_loses_no_answer() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut link = ShardLink::new(inbox);
        let now = Instant::now();
        for _ in 0..=INBOX {
            assert!(!link.send(publication(), now));
        }
        link.send(ShardMessage::Subscribed { slot: SLOT, position: None }, now);
        let later = now + SHARD_STALL + Duration::from_millis(1);
        assert!(link.send(publication(), later), "interrupted now");
        assert!(!link.send(publication(), later), "and told once");
        take_all(&mut receiver).await;
        link.drain();
        link.drain();
        let rest = take_all(&mut receiver).await;
        assert!(
            matches!(
                rest[..],
                [ShardMessage::Subscribed { .. }, ShardMessage::GapEverywhere { reason: STALLED, repair: true }]
            ),
            "{rest:?}"
        );
        assert!(!link.send(publication(), later));
        assert_eq!(take_all(&mut receiver).await.len(), 1);
    }

    #[tokio::test]
    async fn an_interruption_ends_even_if_only_publications_waited() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut link = ShardLink::new(inbox);
        let now = Instant::now();
        interrupt(&mut link, now);
        assert!(link.has_backlog(), "somebody has to end the interruption");
        link.drain();
        assert_eq!(take_all(&mut receiver).await.len(), INBOX, "not told while the inbox is full");
        while link.has_backlog() {
            link.drain();
        }
        assert!(matches!(
            take_all(&mut receiver).await[..],
            [ShardMessage::GapEverywhere { reason: STALLED, repair: true }]
        ));
        link.send(publication(), now);
        assert_eq!(take_all(&mut receiver).await.len(), 1, "publications come again");
    }

    #[tokio::test]
    async fn a_shard_that_has_ended_keeps_nobody_busy() {
        let (inbox, receiver) = shard_inbox(INBOX);
        let mut link = ShardLink::new(inbox);
        let now = Instant::now();
        for _ in 0..=INBOX {
            link.send(publication(), now);
        }
        link.send(publication(), now + SHARD_STALL + Duration::from_millis(1));
        drop(receiver);
        link.drain();
        link.drain();
        assert!(!link.has_backlog());
    }

    #[tokio::test]
    async fn a_gap_of_a_channel_is_not_told_to_a_shard_that_missed_what_lies_before_it() {
        let (inbox, mut receiver) = shard_inbox(INBOX);
        let mut link = ShardLink::new(inbox);
        let now = Instant::now();
        interrupt(&mut link, now);
        let place = |offset| fanfare_protocol::Position { offset, epoch: fanfare_protocol::Epoch::parse("e").unwrap() };
        let missed = Some(fanfare_protocol::Missed { from: place(20), to: place(30) });
        link.send(ShardMessage::Gap { slot: SLOT, reason: "not_retained", missed }, now);
        take_all(&mut receiver).await;
        while link.has_backlog() {
            link.drain();
        }
        let rest = take_all(&mut receiver).await;
        assert!(!rest.iter().any(|message| matches!(message, ShardMessage::Gap { missed: Some(_), .. })), "{rest:?}");
    }
}
