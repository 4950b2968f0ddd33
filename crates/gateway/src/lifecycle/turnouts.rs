//! What the presence driver hears of channels and of dead nodes, as events.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
};

use fanfare_presence::{Incarnation, Place, Row, User};
use fanfare_session::{LifecycleEvents, SessionId};

use super::{
    LifecycleContext,
    event::{LifecycleEvent, What, Who},
};
use crate::{
    limits::LIFECYCLE_LOST_SESSIONS,
    presence::{Turnout, connections},
};

/// Why connections and subscriptions ended whose node is gone.
const NODE_LOST: &str = "node_lost";

/// See the module. Times are in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(crate) struct Turnouts {
    context: LifecycleContext,
    /// Sessions of dead nodes that were told of: each has a row on every channel that it was on.
    lost: HashSet<SessionId>,
    /// The same, oldest first.
    lost_order: VecDeque<SessionId>,
}

impl Turnouts {
    pub(crate) fn new(context: LifecycleContext) -> Self {
        Self { context, lost: HashSet::new(), lost_order: VecDeque::new() }
    }

    /// Takes what the driver tells.
    pub(crate) fn handle(&mut self, now: u64, turnout: Turnout) {
        match turnout {
            Turnout::Occupied(place) => {
                let what = |channel, number| What::Occupied { channel, number };
                self.tell_channel(now, &place, LifecycleEvents::OCCUPIED, what);
            }
            Turnout::Vacated(place) => {
                let what = |channel, number| What::Vacated { channel, number };
                self.tell_channel(now, &place, LifecycleEvents::VACATED, what);
            }
            Turnout::Lost { place, dead, rows } => self.tell_lost(now, &place, &dead, rows),
        }
    }

    fn tell_channel(
        &self,
        timestamp: u64,
        place: &Place,
        event: LifecycleEvents,
        what: impl FnOnce(Box<str>, u64) -> What,
    ) {
        if self.of(place).contains(event) {
            // Only the node whose write it was knows of it, so there is nobody to agree with.
            let what = what(place.channel.as_str().into(), fastrand::u64(..));
            let event =
                LifecycleEvent { tenant: place.tenant.clone(), node: self.context.node.clone(), timestamp, what };
            self.context.queue.push(event);
        }
    }

    fn tell_lost(&mut self, timestamp: u64, place: &Place, dead: &Incarnation, rows: Vec<Row>) {
        let unsubscribed = self.of(place).contains(LifecycleEvents::UNSUBSCRIBED);
        let disconnected = self.context.events.contains(LifecycleEvents::DISCONNECTED);
        if !unsubscribed && !disconnected {
            return;
        }
        let node: Arc<str> = dead.node().into();
        for row in rows {
            let user = match &row.user {
                User::Named(user) => Some(user.clone()),
                // There each connection is for itself, and says whose it is.
                User::Anonymous(_) if connections::is_place(place) => {
                    connections::read(row.info.as_deref()).map(|info| info.user.into())
                }
                User::Anonymous(_) => None,
            };
            let who = Who { session: SessionId(row.connection.0), user };
            let event = |what| LifecycleEvent { tenant: place.tenant.clone(), node: node.clone(), timestamp, what };
            if unsubscribed {
                let (who, channel) = (who.clone(), place.channel.as_str().into());
                self.context.queue.push(event(What::Unsubscribed {
                    who,
                    channel,
                    since: row.since,
                    reason: NODE_LOST,
                }));
            }
            if disconnected && self.is_new(who.session) {
                self.context.queue.push(event(What::Disconnected { who, reason: NODE_LOST, duration_ms: None }));
            }
        }
    }

    fn is_new(&mut self, session: SessionId) -> bool {
        if !self.lost.insert(session) {
            return false;
        }
        self.lost_order.push_back(session);
        if self.lost_order.len() > LIFECYCLE_LOST_SESSIONS
            && let Some(oldest) = self.lost_order.pop_front()
        {
            self.lost.remove(&oldest);
        }
        true
    }

    fn of(&self, place: &Place) -> LifecycleEvents {
        self.context.of(place.channel.as_str())
    }
}

#[cfg(test)]
#[path = "turnouts_tests.rs"]
mod tests;
