//! What a service is told of a shard's topics and connections.

use fanfare_protocol::Tenant;

use super::{ShardState, connection::Connection};
use crate::{
    hub::message::{ConnectionReport, Inspected, Inspection, TopicCount},
    limits::{INSPECTED_PER_TURN, INSPECTED_TOPICS},
};

impl ShardState {
    /// Looks at a part of a table. Where nobody waits for the answer any more, it is for nobody.
    pub(super) fn inspect(&self, inspection: Inspection) {
        match inspection {
            Inspection::Topics { tenant, prefix, after, from, answer } => {
                let (part, next) = self.topics.part(from, INSPECTED_PER_TURN);
                let found = part
                    .filter(|(owner, topic, subscribers)| {
                        let name = topic.as_str();
                        *subscribers > 0 && **owner == tenant && name.starts_with(&*prefix) && *name > *after
                    })
                    .map(|(_, topic, subscribers)| TopicCount { topic: topic.clone(), subscribers })
                    .collect();
                let _ = answer.send(Inspected { found, next });
            }
            Inspection::Connections { tenant, user, from, answer } => {
                let end = from.saturating_add(INSPECTED_PER_TURN);
                let places = self.connections.capacity();
                let found = (from..end.min(places))
                    .filter_map(|index| report(self.connections.get(index)?, &tenant, &user))
                    .collect();
                let _ = answer.send(Inspected { found, next: (end < places).then_some(end) });
            }
        }
    }
}

/// A connection, where it is the user's.
fn report(connection: &Connection, tenant: &Tenant, user: &str) -> Option<ConnectionReport> {
    let session = connection.session.as_ref()?;
    let grant = session.grant()?;
    if grant.user.as_deref() != Some(user) || grant.tenant != *tenant {
        return None;
    }
    Some(ConnectionReport {
        session: session.id(),
        is_stream: connection.events.is_some(),
        subscriptions: session.topics().count(),
        topics: session.topics().take(INSPECTED_TOPICS).cloned().collect(),
    })
}
