//! A node that is attached.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex as SyncMutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use fanfare_protocol::{Tenant, Topic};
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{InterestId, Interruption, Publication, Scope, outlet::Outlet};

/// How often a node that is behind is looked at.
const RECOVERY_INTERVAL: Duration = Duration::from_millis(50);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) number: u64,
    /// What this node holds, to find it when it is removed.
    pub(super) held: SyncMutex<HashMap<InterestId, (Tenant, Topic)>>,
    pub(super) closed: CancellationToken,
    /// Whether the node is cut off from the broker: it gets nothing, and can ask for nothing.
    cut: AtomicBool,
    /// Locked while a publisher waits for room, so that publications keep their order. `None` once the node is closed.
    way: Mutex<Option<Way>>,
    tasks: TaskTracker,
}

/// The way to a node.
#[derive(Debug)]
struct Way {
    outlet: Outlet,
    cut: bool,
    /// So many publications are lost on it.
    losing: u64,
}

/// A node that a publication can be handed to at once. Nobody else hands it one as long as this lives.
#[derive(Debug)]
pub(super) struct Ready<'a> {
    pub(super) node: &'a Arc<Node>,
    way: MappedMutexGuard<'a, Way>,
}

impl Node {
    pub(super) fn new(number: u64, outlet: Outlet) -> Self {
        Self {
            number,
            held: SyncMutex::default(),
            closed: CancellationToken::new(),
            cut: AtomicBool::new(false),
            way: Mutex::new(Some(Way { outlet, cut: false, losing: 0 })),
            tasks: TaskTracker::new(),
        }
    }

    /// Whether the broker can be reached.
    pub(super) fn is_connected(&self) -> bool {
        !self.closed.is_cancelled() && !self.cut.load(Ordering::Acquire)
    }

    /// Waits until there is room. `None` where the node is closed.
    pub(super) async fn ready<'a>(self: &'a Arc<Self>) -> Option<Ready<'a>> {
        let mut way = MutexGuard::try_map(self.way.lock().await, Option::as_mut).ok()?;
        if !way.cut {
            let was_behind = way.outlet.is_behind();
            tokio::select! {
                biased;
                () = self.closed.cancelled() => return None,
                _ = way.outlet.ready() => {}
            }
            self.watch(was_behind, &way);
        }
        Some(Ready { node: self, way })
    }

    /// Cuts the node off, or lets it come back.
    pub(super) async fn set_cut(&self, cut: bool) {
        let mut way = self.way.lock().await;
        let Some(way) = way.as_mut().filter(|way| way.cut != cut) else { return };
        self.cut.store(cut, Ordering::Release);
        way.cut = cut;
        if cut {
            way.outlet.interrupted(Interruption { scope: Scope::All, reason: "disconnected" });
        } else {
            way.outlet.resumed(Scope::All);
        }
    }

    /// Lets the next publications be lost on their way to this node.
    pub(super) async fn lose(&self, publications: u64) {
        if let Some(way) = self.way.lock().await.as_mut() {
            way.losing += publications;
        }
    }

    /// Ends the stream of events. The node has been told to by `closed`.
    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        // The sender goes with it, so the stream of events ends.
        self.way.lock().await.take();
    }

    /// Where the node has just fallen behind: nobody might publish any more, and it must still be told what it missed.
    fn watch(self: &Arc<Self>, was_behind: bool, way: &Way) {
        if was_behind || !way.outlet.is_behind() {
            return;
        }
        let node = Arc::clone(self);
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = node.closed.cancelled() => return,
                    () = tokio::time::sleep(RECOVERY_INTERVAL) => {}
                }
                if node.way.lock().await.as_mut().is_none_or(|way| way.outlet.recover()) {
                    return;
                }
            }
        });
    }
}

impl Ready<'_> {
    /// Hands over one publication, as often as the node has interests that want it.
    pub(super) fn deliver(&mut self, copies: impl Iterator<Item = Publication>) {
        if self.way.cut {
            return;
        }
        if self.way.losing > 0 {
            self.way.losing -= 1;
            return;
        }
        let was_behind = self.way.outlet.is_behind();
        for copy in copies {
            self.way.outlet.publish(copy);
        }
        self.node.watch(was_behind, &self.way);
    }
}
