//! Which node owns which slot, out of what the nodes say about it.

use std::collections::{HashMap, hash_map::Entry};

use crate::address::Server;

/// Slots of every cluster.
pub(crate) const SLOTS: usize = 16_384;

/// Nobody owns a slot.
const NOBODY: u16 = u16::MAX;

/// The slot of a key or channel: of what stands between the first `{` and the next `}`, where that is something.
pub(crate) fn slot_of(name: &str) -> u16 {
    redis_protocol::redis_keyslot(name.as_bytes())
}

/// What one node says (`CLUSTER NODES`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct View {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    id: Box<str>,
    /// None where it has no address, or the asked node has lost it.
    address: Option<Server>,
    /// Whether it is the node that was asked.
    myself: bool,
    master: bool,
    /// Of two that claim a slot, the one with the greater epoch owns it.
    epoch: u64,
    /// First and last, both included.
    slots: Vec<(u16, u16)>,
}

/// Who owns what.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Topology {
    /// Those that own slots.
    masters: Vec<Server>,
    /// All others that are known: replicas, and masters without slots.
    others: Vec<Server>,
    /// By slot, the place in `masters`.
    owners: Box<[u16]>,
}

impl View {
    /// Reads the answer to `CLUSTER NODES`. A node that does not know its own address is the one that was asked. Over TLS a
    /// name that is announced is used, since certificates are made for names.
    pub(crate) fn parse(text: &str, asked: &Server, tls: bool) -> Option<Self> {
        let nodes: Option<Vec<Node>> =
            text.lines().filter(|line| !line.is_empty()).map(|line| Node::parse(line, asked, tls)).collect();
        nodes.filter(|nodes| nodes.iter().any(|node| node.myself)).map(|nodes| Self { nodes })
    }

    fn myself(&self) -> Option<&Node> {
        self.nodes.iter().find(|node| node.myself)
    }
}

impl Node {
    /// `<id> <ip:port@bus[,hostname]> <flags> <master> <ping> <pong> <epoch> <state> [<slot> | <first-last> | [<moving>]]…`
    fn parse(line: &str, asked: &Server, tls: bool) -> Option<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [id, address, flags, _, _, _, epoch, _, ref slots @ ..] = fields[..] else { return None };
        let has = |flag| flags.split(',').any(|word| word == flag);
        let (place, hostname) = address.split_once(',').unwrap_or((address, ""));
        let hostname = hostname.split(',').next().unwrap_or_default();
        let (host, port) = place.split('@').next()?.rsplit_once(':')?;
        let port: u16 = port.parse().ok()?;
        let host = match (host, hostname) {
            _ if tls && !hostname.is_empty() => hostname,
            ("", _) if has("myself") => &*asked.host,
            (host, _) => host,
        };
        let usable = port != 0 && !host.is_empty() && !has("noaddr") && !has("handshake");
        Some(Self {
            id: id.into(),
            address: usable.then(|| Server { host: host.to_owned(), port }),
            myself: has("myself"),
            master: has("master"),
            epoch: epoch.parse().ok()?,
            slots: slots
                .iter()
                .filter(|range| !(range.is_empty() || range.starts_with('[')))
                .map(|range| parse_range(range))
                .collect::<Option<_>>()?,
        })
    }

    fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

fn parse_range(range: &str) -> Option<(u16, u16)> {
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last && usize::from(last) < SLOTS).then_some((first, last))
}

impl Topology {
    /// Joins what several nodes say. Of two that are said to own a slot the one with the greater epoch does, as in the
    /// cluster itself; what is said of a node that was asked too, and does not say so itself, does not count, unless the node
    /// was asked before that epoch.
    ///
    /// So a master that was cut off, and is replaced by now, is left as soon as one of the others answers.
    pub(crate) fn merge(views: &[View]) -> Self {
        let selves: HashMap<&str, &Node> =
            views.iter().filter_map(View::myself).map(|node| (&*node.id, node)).collect();
        let mut best: Vec<Option<&Node>> = vec![None; SLOTS];
        for (view, node) in views.iter().flat_map(|view| view.nodes.iter().map(move |node| (view, node))) {
            if !node.master || node.address.is_none() {
                continue;
            }
            let itself = selves.get(&*node.id).filter(|_| view.myself().is_none_or(|myself| myself.id != node.id));
            for slot in node.slots.iter().flat_map(|(first, last)| *first..=*last) {
                let denied =
                    itself.is_some_and(|itself| itself.epoch >= node.epoch && !(itself.master && itself.owns(slot)));
                let place = &mut best[usize::from(slot)];
                if !denied && place.is_none_or(|other| other.epoch < node.epoch) {
                    *place = Some(node);
                }
            }
        }
        Self::of(&best, views)
    }

    fn of(best: &[Option<&Node>], views: &[View]) -> Self {
        let (mut masters, mut places) = (Vec::new(), HashMap::new());
        let owner = |node: &Option<&Node>| {
            let Some(address) = node.and_then(|node| node.address.as_ref()) else { return NOBODY };
            match places.entry(address.clone()) {
                Entry::Occupied(place) => *place.get(),
                Entry::Vacant(place) => {
                    masters.push(address.clone());
                    *place.insert(u16::try_from(masters.len() - 1).expect("there are at most 16384"))
                }
            }
        };
        let owners = best.iter().map(owner).collect();
        let mut others: Vec<Server> =
            views.iter().flat_map(|view| &view.nodes).filter_map(|node| node.address.clone()).collect();
        others.retain(|address| !places.contains_key(address));
        others.sort();
        others.dedup();
        Self { masters, others, owners }
    }

    /// Those that own slots.
    pub(crate) fn masters(&self) -> &[Server] {
        &self.masters
    }

    /// All others that are known.
    pub(crate) fn others(&self) -> &[Server] {
        &self.others
    }

    /// Who owns a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<&Server> {
        self.masters.get(usize::from(*self.owners.get(usize::from(slot))?))
    }

    /// Whether every slot has an owner.
    pub(crate) fn is_whole(&self) -> bool {
        self.owners.iter().all(|owner| *owner != NOBODY)
    }
}

impl std::fmt::Debug for Topology {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topology").field("masters", &self.masters).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked() -> Server {
        Server { host: "seed".to_owned(), port: 1 }
    }

    /// `id epoch slots`, the first one being the one that was asked; `!id` is a replica.
    fn view(nodes: &[&str]) -> View {
        let mut text = String::new();
        for (index, node) in nodes.iter().enumerate() {
            let (id, rest) = node.split_once(' ').unwrap();
            let (epoch, slots) = rest.split_once(' ').unwrap_or((rest, ""));
            let role = if id.starts_with('!') { "slave" } else { "master" };
            let id = id.trim_start_matches('!');
            let flags = if index == 0 { format!("myself,{role}") } else { role.to_owned() };
            text += &format!("{id} {id}:7000@17000 {flags} - 0 0 {epoch} connected {slots}\n");
        }
        View::parse(&text, &asked(), false).unwrap()
    }

    fn owners(views: &[View], slots: &[u16]) -> String {
        let topology = Topology::merge(views);
        let name = |slot: &u16| topology.owner(*slot).map_or("-", |server| &*server.host);
        slots.iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn slots_are_those_of_redis() {
        assert_eq!(slot_of("123456789"), 0x31c3);
        assert_eq!(slot_of("rt:live:{acme:a:b}"), slot_of("acme:a:b"));
        assert_ne!(slot_of("rt:pub:acme:a:b"), slot_of("rt:pub:acme:a:c"));
    }

    #[test]
    fn reads_what_nodes_say() {
        let text = "07c3 127.0.0.1:30004@31004,host.example slave e7d1 0 1426238317239 4 connected\n\
                    67ed :30002@31002 myself,master - 0 0 2 connected 5461-10922 3 [93->-292f]\n\
                    6ec2 ::1:30005@0 master,fail - 0 0 5 disconnected 12-12\n\
                    77aa :0@0 master,noaddr - 0 0 5 disconnected 1\n";
        let view = View::parse(text, &asked(), false).unwrap();
        let places: Vec<String> =
            view.nodes.iter().map(|node| node.address.as_ref().map_or_else(String::new, Server::to_string)).collect();
        assert_eq!(places, ["127.0.0.1:30004", "seed:30002", "[::1]:30005", ""]);
        assert_eq!(view.nodes[1].slots, [(5461, 10922), (3, 3)]);
        let topology = Topology::merge(&[view]);
        assert_eq!(topology.masters().iter().map(Server::to_string).collect::<Vec<_>>(), ["seed:30002", "[::1]:30005"]);
        assert_eq!(topology.others().iter().map(Server::to_string).collect::<Vec<_>>(), ["127.0.0.1:30004"]);
        assert!(!topology.is_whole() && topology.owner(1).is_none());
        assert_eq!(View::parse(text, &asked(), true).unwrap().nodes[0].address.as_ref().unwrap().host, "host.example");
        for bad in
            ["", "OK", "07c3 127.0.0.1:30004@31004 master - 0 0 1 connected 0-99999", "a b:1@2 myself,master - 0 0 x c"]
        {
            assert_eq!(View::parse(bad, &asked(), false), None, "{bad}");
        }
    }

    #[test]
    fn the_greater_epoch_owns_a_slot() {
        // `a` was cut off; `r` has taken its place, as `b` knows.
        let old = view(&["a 1 0-99", "b 2 100-16383", "!r 1"]);
        let new = view(&["b 2 100-16383", "a 1", "r 9 0-99"]);
        assert_eq!(owners(&[old.clone(), new.clone()], &[0, 100]), "r b");
        assert_eq!(owners(&[new, old.clone()], &[0, 100]), "r b");
        assert_eq!(owners(&[old], &[0, 100]), "a b");
        assert!(!Topology::merge(&[]).is_whole());
    }

    #[test]
    fn what_a_node_says_of_itself_counts_more_than_what_others_say() {
        // Slot 5 has moved from `b` to `a`, and `b` has had a greater epoch since. `c` has not heard of the move.
        let a = view(&["a 8 0-5", "b 10 6-99", "c 3 100-16383"]);
        let b = view(&["b 10 6-99", "a 8 0-5", "c 3 100-16383"]);
        let c = view(&["c 3 100-16383", "b 10 5-99", "a 8 0-4"]);
        for views in [[a.clone(), b.clone(), c.clone()], [c, b, a]] {
            assert_eq!(owners(&views, &[4, 5, 6]), "a a b");
            assert!(Topology::merge(&views).is_whole());
        }
    }

    #[test]
    fn what_a_node_said_before_it_became_a_master_does_not_count() {
        let replica = view(&["!r 1", "a 1 0-99", "b 2 100-16383"]);
        let later = view(&["b 2 100-16383", "a 1", "r 9 0-99"]);
        assert_eq!(owners(std::slice::from_ref(&replica), &[0, 100]), "a b");
        assert_eq!(owners(&[later, replica], &[0, 100]), "r b");
    }

    #[test]
    fn the_same_views_give_the_same_topology() {
        let one = view(&["a 1 0-99", "b 2 100-16383", "!r 1"]);
        let two = view(&["b 2 100-16383", "a 1 0-99", "!r 1"]);
        assert_eq!(Topology::merge(&[one.clone(), two.clone()]), Topology::merge(&[two, one]));
    }
}
