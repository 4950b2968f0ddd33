//! Faults on purpose, for tests of what is built on this broker.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use super::{Memory, Node, UNPOISONED};

/// Faults for tests. Nodes are numbered from 0 in the order in which they were [attached](Memory::attach); naming one that was not is
/// a mistake and panics.
impl Memory {
    /// Loses the next publications on their way to one node: they are accepted, retained, delivered to all others, and nobody
    /// is told.
    pub async fn lose_next(&self, node: u64, publications: u64) {
        self.node(node).lose(publications).await;
    }

    /// Cuts one node off until [`resume`](Self::resume): it is told of an interruption (`disconnected`), gets nothing, and all that it
    /// asks for is [`Unavailable`](crate::BrokerError::Unavailable). Its interests are kept.
    pub async fn interrupt(&self, node: u64) {
        self.node(node).set_cut(true).await;
    }

    /// Ends the interruption, and tells the node.
    pub async fn resume(&self, node: u64) {
        self.node(node).set_cut(false).await;
    }

    /// Forgets all positions, history and ids: what comes next is the first in another epoch.
    pub fn begin_anew(&self) {
        self.shared.retained.lock().expect(UNPOISONED).begin_anew();
    }

    /// Lets every read of history and of positions take at least so long from now on.
    pub fn delay_reads(&self, delay: Duration) {
        let nanoseconds = u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX);
        self.shared.read_delay.store(nanoseconds, Ordering::Relaxed);
    }

    /// How many reads of history were asked for.
    pub fn history_reads(&self) -> u64 {
        self.shared.history_reads.load(Ordering::Relaxed)
    }

    fn node(&self, number: u64) -> Arc<Node> {
        let nodes = self.shared.nodes.lock().expect(UNPOISONED);
        let index = usize::try_from(number).expect("a number of nodes");
        nodes.get(index).and_then(std::sync::Weak::upgrade).expect("a node that is attached")
    }
}
