//! The memory store: rows inside the process, for development, tests and a single node. They end with the process.

mod channel;
mod faults;
mod leases;
mod node;
mod notes;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::mpsc, time::Instant};

use self::{channel::Channels, leases::LeaseTable, node::Node, notes::Notes};
use crate::{
    Incarnation, Leases, Place, PresenceStore, Reap, Reaped, Renewal, Row, RowPage, Standing, StoreError, StoreEvent,
    StoreEvents, Write, Written,
};

/// Events that may wait for a node; one that does not take them is told of an interruption.
const EVENTS: usize = 4_096;

/// A store inside the process. Clones are the same store; nodes [`attach`](Self::attach) to it. Its clock is tokio's.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    shared: Arc<Shared>,
}

/// One node's connection to a [`Memory`].
#[derive(Debug)]
pub struct MemoryStore {
    shared: Arc<Shared>,
    node: Arc<Node>,
}

#[derive(Debug, Default)]
struct Shared {
    kept: Mutex<Kept>,
}

/// All that there is, behind one lock, so that what a node is told is in the order in which it happened.
#[derive(Debug, Default)]
struct Kept {
    channels: Channels,
    leases: LeaseTable,
    notes: HashMap<Incarnation, Notes>,
    /// All that were ever attached, by their numbers.
    nodes: Vec<Weak<Node>>,
    /// Calls of each kind.
    calls: HashMap<&'static str, u64>,
}

impl Memory {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// Attaches a node.
    pub fn attach(&self) -> (Arc<dyn PresenceStore>, StoreEvents) {
        let (sender, events) = mpsc::channel(EVENTS);
        let node = Arc::new(Node::new(sender));
        self.shared.lock().nodes.push(Arc::downgrade(&node));
        (Arc::new(MemoryStore { shared: Arc::clone(&self.shared), node }), events)
    }

    /// All rows, in no order.
    pub fn rows(&self) -> Vec<(Place, Incarnation, Row)> {
        self.shared.lock().channels.rows()
    }

    /// Incarnations of which anything is left: a lease or the memory of one, notes, or rows.
    pub fn remains(&self) -> Vec<Incarnation> {
        let kept = self.shared.lock();
        let rows = kept.channels.rows().into_iter().map(|(_, incarnation, _)| incarnation);
        let mut remains: Vec<_> = kept.leases.known().chain(kept.notes.keys().cloned()).chain(rows).collect();
        remains.sort();
        remains.dedup();
        remains
    }

    /// Who holds a lease now.
    pub fn holders(&self) -> Vec<Incarnation> {
        self.shared.lock().leases.holders(Instant::now())
    }

    /// Where an incarnation is noted to have rows.
    pub fn noted(&self, incarnation: &Incarnation) -> Vec<Place> {
        self.shared.lock().notes.get(incarnation).map(|notes| notes.page(None, usize::MAX).0).unwrap_or_default()
    }

    /// How many calls of a kind (a method's name) all nodes have made.
    pub fn calls(&self, kind: &str) -> u64 {
        self.shared.lock().calls.get(kind).copied().unwrap_or(0)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().expect("no code that holds the memory store's lock can panic")
    }
}

impl MemoryStore {
    /// All that is there, for a call; where the node is connected.
    fn enter(&self, call: &'static str) -> Result<MutexGuard<'_, Kept>, StoreError> {
        let mut kept = self.shared.lock();
        *kept.calls.entry(call).or_default() += 1;
        match self.node.is_connected() {
            true => Ok(kept),
            false => Err(StoreError::Unavailable { store: "memory", reason: "cut off".to_owned() }),
        }
    }
}

impl Kept {
    /// Tells every node that listens.
    fn tell(&self, event: Option<StoreEvent>) {
        if let Some(event) = &event
            && let StoreEvent::Changed { place, .. } = event
        {
            self.nodes.iter().filter_map(Weak::upgrade).for_each(|node| node.tell(place, event));
        }
    }
}

#[async_trait]
impl PresenceStore for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn renew(&self, renewal: Renewal) -> Result<Leases, StoreError> {
        let mut kept = self.enter("renew")?;
        let now = Instant::now();
        for forgotten in kept.leases.forget_dead(now) {
            kept.notes.remove(&forgotten);
        }
        Ok(kept.leases.renew(now, &renewal))
    }

    async fn resign(&self, incarnation: &Incarnation, after: Duration, at_once: bool) -> Result<(), StoreError> {
        let mut kept = self.enter("resign")?;
        if at_once {
            kept.leases.forget(incarnation);
            kept.notes.remove(incarnation);
        } else {
            kept.leases.shorten(incarnation, Instant::now() + after);
        }
        Ok(())
    }

    async fn write(&self, write: Write) -> Result<Written, StoreError> {
        let mut kept = self.enter("write")?;
        let (written, event) = kept.channels.write(Instant::now(), write);
        kept.tell(event);
        Ok(written)
    }

    async fn note(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError> {
        let mut kept = self.enter("note")?;
        let notes = kept.notes.entry(incarnation.clone()).or_default();
        places.iter().for_each(|place| notes.add(place));
        Ok(())
    }

    async fn unnote(&self, incarnation: &Incarnation, places: &[Place]) -> Result<(), StoreError> {
        let mut kept = self.enter("unnote")?;
        if let Some(notes) = kept.notes.get_mut(incarnation) {
            places.iter().for_each(|place| notes.remove(place));
            if notes.is_empty() {
                kept.notes.remove(incarnation);
            }
        }
        Ok(())
    }

    async fn noted(
        &self,
        incarnation: &Incarnation,
        cursor: Option<u64>,
        limit: usize,
    ) -> Result<(Vec<Place>, Option<u64>), StoreError> {
        let kept = self.enter("noted")?;
        Ok(kept.notes.get(incarnation).map(|notes| notes.page(cursor, limit)).unwrap_or_default())
    }

    async fn read(&self, place: &Place, cursor: Option<u64>, limit: usize) -> Result<RowPage, StoreError> {
        Ok(self.enter("read")?.channels.read(place, cursor, limit))
    }

    async fn standings(&self, places: &[Place]) -> Result<Vec<Standing>, StoreError> {
        let kept = self.enter("standings")?;
        Ok(places.iter().map(|place| kept.channels.standing(place)).collect())
    }

    async fn reap(&self, reap: Reap) -> Result<Reaped, StoreError> {
        let mut kept = self.enter("reap")?;
        let (reaped, event) = kept.channels.reap(Instant::now(), &reap);
        kept.tell(event);
        Ok(reaped)
    }

    async fn reaped(&self, dead: &Incarnation, again: Duration) -> Result<(), StoreError> {
        self.enter("reaped")?.leases.reaped(Instant::now(), dead, again);
        Ok(())
    }

    async fn listen(&self, places: &[Place]) -> Result<(), StoreError> {
        let _kept = self.enter("listen")?;
        self.node.listen(places);
        Ok(())
    }

    async fn unlisten(&self, places: &[Place]) {
        let _kept = self.enter("unlisten");
        self.node.unlisten(places);
    }

    async fn close(&self) {
        self.node.close().await;
    }
}
