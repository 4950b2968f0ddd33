//! Faults on purpose, for tests of what is built on this store.

use std::sync::{Arc, Weak};

use super::{Channels, LeaseTable, Memory, Node};

/// Faults for tests. Nodes are numbered from 0 in the order in which they were [attached](Memory::attach); naming one that was not is a mistake and panics.
impl Memory {
    /// Cuts one node off until [`resume`](Self::resume): it is told of an interruption, gets nothing, and all that it asks for is
    /// [`Unavailable`](crate::StoreError::Unavailable). Where it listens is kept, and its lease goes on to its end.
    pub async fn interrupt(&self, node: usize) {
        self.node(node).set_cut(true).await;
    }

    /// Ends the interruption, and tells the node.
    pub async fn resume(&self, node: usize) {
        self.node(node).set_cut(false).await;
    }

    /// The store is away, for all nodes.
    pub async fn go_away(&self) {
        for node in self.nodes().iter().filter_map(Weak::upgrade) {
            node.set_cut(true).await;
        }
    }

    /// It is back.
    pub async fn come_back(&self) {
        for node in self.nodes().iter().filter_map(Weak::upgrade) {
            node.set_cut(false).await;
        }
    }

    /// Loses all data: rows, leases, notes, numberings. Nobody is told.
    pub fn begin_anew(&self) {
        let mut kept = self.shared.lock();
        kept.channels = Channels::default();
        kept.leases = LeaseTable::default();
        kept.notes.clear();
    }

    fn nodes(&self) -> Vec<Weak<Node>> {
        self.shared.lock().nodes.clone()
    }

    fn node(&self, number: usize) -> Arc<Node> {
        self.nodes().get(number).and_then(Weak::upgrade).expect("a node that is attached")
    }
}
