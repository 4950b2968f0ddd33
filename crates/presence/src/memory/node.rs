//! A node that is attached: where it listens, and whether what happens reaches it.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::EVENTS;
use crate::{Place, StoreEvent};

#[derive(Debug)]
pub(super) struct Node {
    /// Locked within the store's lock, or alone.
    line: Mutex<Line>,
    tasks: TaskTracker,
    closed: CancellationToken,
}

#[derive(Debug)]
struct Line {
    /// `None`: closed.
    sender: Option<mpsc::Sender<StoreEvent>>,
    listening: HashSet<Place>,
    /// On purpose, by a test.
    is_cut: bool,
    /// It did not take its events.
    is_overrun: bool,
}

impl Node {
    pub(super) fn new(sender: mpsc::Sender<StoreEvent>) -> Self {
        let line = Line { sender: Some(sender), listening: HashSet::new(), is_cut: false, is_overrun: false };
        Self { line: Mutex::new(line), tasks: TaskTracker::new(), closed: CancellationToken::new() }
    }

    pub(super) fn is_connected(&self) -> bool {
        let line = self.line();
        !line.is_cut && line.sender.is_some()
    }

    pub(super) fn listen(&self, places: &[Place]) {
        self.line().listening.extend(places.iter().cloned());
    }

    pub(super) fn unlisten(&self, places: &[Place]) {
        let mut line = self.line();
        for place in places {
            line.listening.remove(place);
        }
    }

    /// Tells of a change where it listens.
    pub(super) fn tell(self: &Arc<Self>, place: &Place, event: &StoreEvent) {
        let mut line = self.line();
        if line.is_cut || line.is_overrun || !line.listening.contains(place) {
            return;
        }
        let Some(sender) = line.sender.clone() else { return };
        // The last place is for saying that there was no other.
        if sender.capacity() > 1 && sender.try_send(event.clone()).is_ok() {
            return;
        }
        line.is_overrun = true;
        let told = sender.try_send(StoreEvent::Interrupted).is_ok();
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            node.closed.run_until_cancelled(node.recover(sender, told)).await;
        });
    }

    /// Waits until there is room enough again to be worth it.
    async fn recover(&self, sender: mpsc::Sender<StoreEvent>, told: bool) {
        if !told && sender.send(StoreEvent::Interrupted).await.is_err() {
            return;
        }
        let Ok(mut room) = sender.reserve_many(EVENTS / 2).await else { return };
        let mut line = self.line();
        line.is_overrun = false;
        if !line.is_cut
            && let Some(permit) = room.next()
        {
            permit.send(StoreEvent::Resumed);
        }
    }

    /// Cuts it off, or ends that, and tells it.
    pub(super) async fn set_cut(&self, is_cut: bool) {
        let Some(sender) = self.line().sender.clone() else { return };
        let Ok(permit) = sender.reserve().await else { return };
        let mut line = self.line();
        if std::mem::replace(&mut line.is_cut, is_cut) != is_cut && !line.is_overrun {
            permit.send(if is_cut { StoreEvent::Interrupted } else { StoreEvent::Resumed });
        }
    }

    pub(super) async fn close(&self) {
        self.closed.cancel();
        self.line().sender = None;
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().expect("no code that holds a node's lock can panic")
    }
}
