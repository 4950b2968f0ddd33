//! Whether what a run has come to is right.

use std::collections::BTreeSet;

use fanfare_presence::{Incarnation, Place, Row};

use crate::{
    node::MAX_NAMED,
    world::{NODES, World},
};

impl World {
    /// What the store has, what each node says, and what each client knows is what the sockets say.
    pub(crate) fn check(&mut self) {
        self.note(|| "check".to_owned());
        let own = |node: usize| self.nodes[node].as_ref().expect("all are up").keeper.incarnation().clone();
        // A connection that comes again within the grace may have been there since it came first.
        let no_since = |row: &Row| Row { since: 0, ..row.clone() };
        let rows = self.memory.rows().into_iter();
        let mut rows: Vec<_> = rows.map(|(place, own, row)| (place, own, no_since(&row))).collect();
        rows.sort_by_key(|(place, _, row)| (place.clone(), row.connection));
        let truth: Vec<(Place, Incarnation, Row)> =
            self.truth.rows().map(|(place, node, row)| (place.clone(), own(node), no_since(row))).collect();
        assert_eq!(rows, truth, "the store's rows are those of the sockets");
        for index in 0..NODES {
            let node = self.nodes[index].as_ref().expect("all are up");
            assert!(node.keeper.holds_lease(), "n{index} has no lease");
            assert_eq!(node.keeper.unwritten(), 0, "n{index} has something left to write");
            assert!(node.asked.is_empty(), "n{index} has not answered {:?}", node.asked);
            for (number, client) in &node.clients {
                let checked = client.check(&self.truth.roster(&client.place), MAX_NAMED);
                assert!(checked.is_ok(), "n{index}, client {number} of {}: {checked:?}", client.place.channel);
            }
            let watched: BTreeSet<_> = node.clients.values().map(|client| &client.place).collect();
            assert_eq!(node.keeper.mirrored(), watched.len(), "n{index} mirrors what is watched");
            let occupied: BTreeSet<_> = self.truth.rows_of(index).into_iter().map(|(place, _)| place).collect();
            let noted: BTreeSet<_> = self.memory.noted(&own(index)).into_iter().collect();
            assert_eq!(noted, occupied, "n{index} has noted where its rows are");
        }
        let lives: BTreeSet<_> = (0..NODES).map(own).collect();
        let others = self.memory.holders().into_iter().filter(|holder| !lives.contains(holder));
        assert_eq!(others.collect::<Vec<_>>(), [], "nobody else holds a lease");
    }
}
