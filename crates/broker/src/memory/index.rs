//! Who wants what.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fanfare_protocol::{Channel, Pattern, Tenant, Topic};

use super::node::Node;
use crate::InterestId;

#[derive(Debug, Default)]
pub(super) struct Index {
    tenants: HashMap<Tenant, Wanted>,
}

#[derive(Debug, Default)]
struct Wanted {
    channels: HashMap<Channel, Vec<Holder>>,
    patterns: Vec<(Pattern, Holder)>,
}

/// A node's interest.
#[derive(Clone, Debug)]
pub(super) struct Holder {
    pub(super) node: Arc<Node>,
    pub(super) interest: InterestId,
}

impl Index {
    pub(super) fn add(&mut self, tenant: &Tenant, topic: &Topic, holder: Holder) {
        let wanted = self.tenants.entry(tenant.clone()).or_default();
        match topic {
            Topic::Channel(channel) => wanted.channels.entry(channel.clone()).or_default().push(holder),
            Topic::Pattern(pattern) => wanted.patterns.push((pattern.clone(), holder)),
        }
    }

    /// Leaves no empty entry behind.
    pub(super) fn remove(&mut self, tenant: &Tenant, topic: &Topic, node: u64, interest: InterestId) {
        let Some(wanted) = self.tenants.get_mut(tenant) else { return };
        let other = |holder: &Holder| holder.node.number != node || holder.interest != interest;
        match topic {
            Topic::Channel(channel) => {
                if let Some(holders) = wanted.channels.get_mut(channel) {
                    holders.retain(other);
                    if holders.is_empty() {
                        wanted.channels.remove(channel);
                    }
                }
            }
            Topic::Pattern(_) => wanted.patterns.retain(|(_, holder)| other(holder)),
        }
        if wanted.channels.is_empty() && wanted.patterns.is_empty() {
            self.tenants.remove(tenant);
        }
    }

    /// How many interests there are.
    pub(super) fn len(&self) -> usize {
        let held = |wanted: &Wanted| wanted.channels.values().map(Vec::len).sum::<usize>() + wanted.patterns.len();
        self.tenants.values().map(held).sum()
    }

    /// Who wants the channel, and whether by a pattern.
    pub(super) fn holders(&self, tenant: &Tenant, channel: &Channel) -> impl Iterator<Item = (&Holder, bool)> {
        let wanted = self.tenants.get(tenant);
        let direct = wanted.and_then(|wanted| wanted.channels.get(channel)).map_or(&[][..], Vec::as_slice);
        let patterns = wanted.map_or(&[][..], |wanted| wanted.patterns.as_slice());
        let matching = patterns.iter().filter(|(pattern, _)| pattern.matches(channel.as_str()));
        direct.iter().map(|holder| (holder, false)).chain(matching.map(|(_, holder)| (holder, true)))
    }

    /// The nodes that want the channel, each once, by their numbers.
    pub(super) fn nodes(&self, tenant: &Tenant, channel: &Channel) -> BTreeMap<u64, Arc<Node>> {
        self.holders(tenant, channel).map(|(holder, _)| (holder.node.number, Arc::clone(&holder.node))).collect()
    }
}
