//! What goes wrong, and how it ends.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    node::{GRACE, Inbound, LEASE},
    world::{CALL_TIMEOUT, Happening, World},
};

/// How long after the last fault all has to be as it should.
const CALM_AFTER: Duration = Duration::from_secs(20);
const ROUGH_AFTER: Duration = Duration::from_secs(150);

impl World {
    /// What a life that has ended has under way reaches the store all the same; but for one that has just lost all it knew, and with it
    /// who that was: nobody could ever tell that those rows are nobody's.
    pub(crate) fn end(&mut self, life: u64) {
        if self.truth.lost_lately(self.now) {
            self.disconnect(life);
        }
    }

    pub(crate) fn is_flushed(&self) -> bool {
        self.flushed.is_some_and(|at| self.now < at + LEASE)
    }

    pub(crate) fn lose(&mut self) {
        // What those who are gone have under way does not outlive the server.
        let lives: Vec<_> = self.nodes.iter().flatten().map(|node| node.life).collect();
        (0..self.attached as u64).filter(|life| !lives.contains(life)).for_each(|life| self.disconnect(life));
        self.truth.lose(self.now);
        self.memory.begin_anew();
    }

    pub(crate) fn drain(&mut self, node: u64, until: Duration) {
        let Some(node) = self.up(node) else { return };
        let rows = self.truth.rows_of(node);
        // They are seen for the grace, and are somewhere else by then.
        for (place, row) in &rows {
            self.truth.leave(self.now, GRACE / 2, place, row.connection);
        }
        let mut by_connection = BTreeMap::<_, Vec<_>>::new();
        for (place, row) in rows {
            by_connection.entry(row.connection).or_default().push((place, row));
        }
        for (number, rows) in by_connection.into_values().enumerate() {
            let after = self.chance.up_to(GRACE / 2, ("return", self.now, number));
            self.come_again((node + 1 + number % 2) as u64, after, rows);
        }
        let now = self.now;
        self.with(node, |node| {
            node.is_draining = true;
            node.clients.clear();
            node.asked.clear();
            node.keeper.handle_drain(now);
        });
        self.after(until + CALL_TIMEOUT, Happening::Start { node });
    }

    pub(crate) fn go_on(&mut self, node: usize, life: u64) {
        let now = self.now;
        let Some(stopped) = self.nodes[node].as_mut().filter(|node| node.life == life) else { return };
        let Some(waiting) = stopped.stopped.take() else { return };
        self.continued[node] = now;
        // What has come meanwhile may be looked at first, or the time.
        let wakes_first = self.chance.percent(50, ("wakes first", now, node));
        if wakes_first {
            stopped.handle(now, Inbound::Wake);
        }
        stopped.asked.values_mut().for_each(|since| *since = now);
        self.note(|| format!("n{node} goes on"));
        if wakes_first {
            self.pump(node);
        }
        for inbound in waiting {
            if let Some(node) = &mut self.nodes[node] {
                node.handle(now, inbound);
            }
            self.pump(node);
        }
        self.with(node, |node| node.handle(now, Inbound::Wake));
        if self.cuts[node] == 0 && self.outages == 0 {
            self.truth.trust(now, node);
        }
    }

    pub(crate) async fn mend(&mut self, node: usize, life: u64) {
        let Some(mended) = self.nodes[node].as_ref().filter(|node| node.life == life) else { return };
        let is_stopped = mended.stopped.is_some();
        self.cuts[node] -= 1;
        if self.cuts[node] == 0 {
            if self.outages == 0 {
                self.memory.resume(self.lines[&life]).await;
            }
            if !is_stopped && self.outages == 0 {
                self.truth.trust(self.now, node);
            }
        }
    }

    /// No fault from now on, once those that there are have ended.
    pub(crate) fn heal(&mut self) {
        let ends = |happening: &Happening| {
            matches!(
                happening,
                Happening::Start { .. }
                    | Happening::Continue { .. }
                    | Happening::Mend { .. }
                    | Happening::ComeBack
                    | Happening::Return { .. }
            )
        };
        let last = self.queue.iter().filter(|(_, happening)| ends(happening)).map(|((at, _), _)| *at).max();
        if let Some(last) = last.filter(|last| *last > self.now) {
            return self.after(last - self.now, Happening::Heal);
        }
        self.note(|| "all is well".to_owned());
        self.is_healed = true;
        self.after(if self.is_calm { CALM_AFTER } else { ROUGH_AFTER }, Happening::Check);
    }
}
