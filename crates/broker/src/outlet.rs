//! The adapter's end of the stream of events: bounded in events and bytes, and never silent about what it drops.

use std::collections::VecDeque;

use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use crate::{BrokerEvent, Events, Interruption, Publication, Scope, limits};

/// What an event costs beside its body, in bytes, roughly.
const EVENT_OVERHEAD: usize = std::mem::size_of::<BrokerEvent>();

/// Sends events to the hub. Only one task (or lock) may own it: the order of the stream is the order of the calls.
///
/// While there is no room, [`ready`](Self::ready) waits. When the hub takes nothing for [`limits::STALL`], publications
/// are discarded until it has read half of what waits; then it is told by an interruption of everything, in its place in
/// the stream.
#[derive(Debug)]
pub(crate) struct Outlet {
    sender: mpsc::Sender<BrokerEvent>,
    /// Sizes of the events that wait, oldest first; trimmed to the channel's length before it is used.
    sizes: VecDeque<usize>,
    bytes: usize,
    full_since: Option<Instant>,
    behind: Option<Behind>,
    /// Whether the adapter has told an interruption of everything that is not over.
    down: bool,
}

/// The hub takes nothing; what was not told meanwhile.
#[derive(Debug, Default)]
struct Behind {
    discarded: u64,
    aside: Vec<BrokerEvent>,
    down: Option<Interruption>,
}

#[cfg_attr(not(any(feature = "nats", feature = "redis")), allow(dead_code))] // the memory adapter is never interrupted
impl Outlet {
    pub(crate) fn new() -> (Self, Events) {
        let (sender, events) = mpsc::channel(limits::EVENTS + limits::CONTROL_EVENTS);
        let outlet = Self { sender, sizes: VecDeque::new(), bytes: 0, full_since: None, behind: None, down: false };
        (outlet, events)
    }

    /// Waits until publications can be pushed, and says how many. Cancel-safe.
    pub(crate) async fn ready(&mut self) -> usize {
        loop {
            if self.behind.is_some() || self.sender.is_closed() {
                return limits::EVENTS;
            }
            self.trim();
            let free = self.sender.capacity().saturating_sub(limits::CONTROL_EVENTS);
            if free > 0 && self.bytes < limits::EVENT_BYTES {
                self.full_since = None;
                return free;
            }
            let deadline = *self.full_since.get_or_insert_with(Instant::now) + limits::STALL;
            // Some progress is waited for, not the very next event: else every event that is read would wake this task.
            let progress = 1 + self.sizes.len() / 16;
            let wanted = (self.sender.capacity() + progress).min(self.sender.max_capacity());
            if timeout_at(deadline, self.sender.reserve_many(wanted)).await.is_err() {
                self.fall_behind();
            }
        }
    }

    /// Whether publications wait for room, or have to.
    pub(crate) fn is_full(&self) -> bool {
        self.full_since.is_some()
    }

    /// Told by an adapter how much waits in its client library while this is full. Too much of it ends the wait.
    pub(crate) fn held_back(&mut self, bytes: u64) {
        if self.is_full() && bytes > limits::HELD_BACK_BYTES {
            self.fall_behind();
        }
    }

    /// Sends a publication for which [`ready`](Self::ready) has found room; discards it while the hub is behind.
    pub(crate) fn publish(&mut self, publication: Publication) {
        if self.behind.is_some() && !self.recover() {
            self.discard();
            return;
        }
        let bytes = publication.body.bytes.len() + EVENT_OVERHEAD;
        if self.send(BrokerEvent::Publication(publication), bytes).is_err() {
            self.fall_behind();
            self.discard();
        }
    }

    /// Tells of an interruption.
    pub(crate) fn interrupted(&mut self, interruption: Interruption) {
        if interruption.scope == Scope::All {
            self.down = true;
        }
        self.tell(BrokerEvent::Interrupted(interruption));
    }

    /// Tells that an interruption is over.
    pub(crate) fn resumed(&mut self, scope: Scope) {
        if scope == Scope::All {
            self.down = false;
        }
        self.tell(BrokerEvent::Resumed(scope));
    }

    /// Where the hub was behind and has read enough: tells it what it missed. Says whether it is not behind any more.
    /// Has to be called now and then, since no event might come that does it.
    pub(crate) fn recover(&mut self) -> bool {
        if self.behind.is_none() {
            return true;
        }
        self.trim();
        if self.sizes.len() > limits::EVENTS / 2 || self.bytes > limits::EVENT_BYTES / 2 {
            return false;
        }
        let Some(behind) = self.behind.take() else { return true };
        tracing::warn!(
            discarded = behind.discarded,
            "the node takes publications again; those discarded are told as a gap"
        );
        self.full_since = None;
        self.tell(BrokerEvent::Interrupted(Interruption { scope: Scope::All, reason: "slow_consumer" }));
        for event in behind.aside {
            self.tell(event);
        }
        match behind.down {
            Some(interruption) if self.down => self.tell(BrokerEvent::Interrupted(interruption)),
            _ if self.down => {}
            _ => self.tell(BrokerEvent::Resumed(Scope::All)),
        }
        self.behind.is_none()
    }

    /// Whether publications are being discarded.
    pub(crate) fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    fn tell(&mut self, event: BrokerEvent) {
        if self.behind.is_none() {
            let Err(event) = self.send(event, 0) else { return };
            self.fall_behind();
            self.set_aside(event);
        } else {
            self.set_aside(event);
        }
    }

    /// Keeps what is told later: the last state of everything, and of each interest.
    fn set_aside(&mut self, event: BrokerEvent) {
        let Some(behind) = &mut self.behind else { return };
        let scope = scope_of(&event);
        match event {
            BrokerEvent::Interrupted(interruption) if interruption.scope == Scope::All => {
                behind.down = Some(interruption);
            }
            BrokerEvent::Resumed(Scope::All) => behind.down = None,
            event => {
                behind.aside.retain(|earlier| scope_of(earlier) != scope);
                behind.aside.push(event);
            }
        }
    }

    /// Hands the event back where there is no room.
    #[allow(clippy::result_large_err, reason = "it is handed back, not kept")]
    fn send(&mut self, event: BrokerEvent, bytes: usize) -> Result<(), BrokerEvent> {
        match self.sender.try_send(event) {
            Ok(()) => {
                self.sizes.push_back(bytes);
                self.bytes += bytes;
                Ok(())
            }
            Err(mpsc::error::TrySendError::Full(event)) => Err(event),
            // The hub is gone; there is nobody to tell.
            Err(mpsc::error::TrySendError::Closed(_)) => Ok(()),
        }
    }

    /// Forgets the sizes of what the hub has taken.
    fn trim(&mut self) {
        let waiting = self.sender.max_capacity() - self.sender.capacity();
        while self.sizes.len() > waiting {
            self.bytes -= self.sizes.pop_front().unwrap_or_default();
        }
    }

    fn fall_behind(&mut self) {
        if self.behind.is_none() {
            tracing::warn!(
                events = self.sizes.len(),
                bytes = self.bytes,
                "the node has taken no publication for {:?}; discarding until it does",
                limits::STALL
            );
            self.behind = Some(Behind::default());
        }
    }

    fn discard(&mut self) {
        if let Some(behind) = &mut self.behind {
            behind.discarded += 1;
        }
    }
}

fn scope_of(event: &BrokerEvent) -> Option<Scope> {
    match event {
        BrokerEvent::Publication(_) => None,
        BrokerEvent::Interrupted(interruption) => Some(interruption.scope),
        BrokerEvent::Resumed(scope) => Some(*scope),
    }
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::Body;

    use super::*;
    use crate::InterestId;

    fn publication(bytes: usize) -> Publication {
        Publication {
            interest: InterestId(1),
            channel: None,
            body: Body::new(vec![0; bytes]),
            timestamp: None,
            position: None,
        }
    }

    /// What a hub that reads all there is gets: publications as their number, the rest as text.
    fn read(events: &mut Events) -> Vec<String> {
        let mut told = Vec::new();
        let mut publications = 0;
        while let Ok(event) = events.try_recv() {
            if matches!(event, BrokerEvent::Publication(_)) {
                publications += 1;
                continue;
            }
            if publications > 0 {
                told.push(std::mem::take(&mut publications).to_string());
            }
            told.push(match event {
                BrokerEvent::Interrupted(Interruption { scope: Scope::All, reason }) => format!("-all {reason}"),
                BrokerEvent::Interrupted(Interruption { scope: Scope::Interest(id), .. }) => format!("-{}", id.0),
                BrokerEvent::Resumed(Scope::All) => "+all".to_owned(),
                BrokerEvent::Resumed(Scope::Interest(id)) => format!("+{}", id.0),
                BrokerEvent::Publication(_) => unreachable!(),
            });
        }
        if publications > 0 {
            told.push(publications.to_string());
        }
        told
    }

    async fn fill(outlet: &mut Outlet, bytes: usize) {
        while !outlet.is_behind() {
            outlet.ready().await;
            outlet.publish(publication(bytes));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn waits_while_the_hub_reads_slowly_and_drops_nothing() {
        let (mut outlet, mut events) = Outlet::new();
        let writing = tokio::spawn(async move {
            for _ in 0..20_000 {
                outlet.ready().await;
                outlet.publish(publication(10));
            }
        });
        for _ in 0..20_000 {
            tokio::time::sleep(limits::STALL / 1_000).await;
            assert!(matches!(events.recv().await, Some(BrokerEvent::Publication(_))));
        }
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn tells_what_was_discarded_in_its_place() {
        let (mut outlet, mut events) = Outlet::new();
        fill(&mut outlet, 10).await;
        outlet.interrupted(Interruption { scope: Scope::Interest(InterestId(1)), reason: "slow_consumer" });
        outlet.resumed(Scope::Interest(InterestId(1)));
        assert_eq!(read(&mut events), ["8192"]);
        outlet.publish(publication(10));
        assert_eq!(read(&mut events), ["-all slow_consumer", "+1", "+all", "1"]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_interruption_that_goes_on_is_not_ended_by_catching_up() {
        let (mut outlet, mut events) = Outlet::new();
        fill(&mut outlet, 10).await;
        outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
        assert_eq!(read(&mut events), ["8192"]);
        assert!(outlet.recover());
        assert_eq!(read(&mut events), ["-all slow_consumer", "-all disconnected"]);
        outlet.resumed(Scope::All);
        assert_eq!(read(&mut events), ["+all"]);
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_are_bounded_too() {
        let (mut outlet, mut events) = Outlet::new();
        fill(&mut outlet, 1024 * 1024).await;
        assert_eq!(read(&mut events), ["64"]);
        assert!(outlet.recover());
        assert_eq!(outlet.ready().await, limits::EVENTS - 2);
    }

    #[tokio::test(start_paused = true)]
    async fn interruptions_find_room_where_publications_do_not() {
        let (mut outlet, mut events) = Outlet::new();
        for _ in 0..limits::EVENTS {
            outlet.ready().await;
            outlet.publish(publication(10));
        }
        outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
        outlet.resumed(Scope::All);
        assert!(!outlet.is_behind());
        assert_eq!(read(&mut events), ["8192", "-all disconnected", "+all"]);
    }
}
