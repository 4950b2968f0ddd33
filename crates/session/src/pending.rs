//! What a session waits for: commands behind the connect, and operations without their completion.

use std::collections::{BTreeMap, HashMap, VecDeque};

use fanfare_protocol::{
    Channel, Command, CommandKind, ErrorBody, ErrorCode, HistoryCommand, HistoryRange, Position, PresenceCommand,
    SetPresenceCommand, SignalCommand, SubscriptionOutcome, Topic, Watch, limits,
};
use smallvec::SmallVec;

use crate::{Asked, OpId};

/// Bytes of commands that wait for the connect before them. One alone may be larger: it was within the message limit.
pub(crate) const WAITING_BYTES: usize = 4 * limits::MESSAGE_BYTES;

/// Names of `subscribe` lists that wait for their outcomes. One list alone may be longer: it was within the message limit.
pub(crate) const NAMES_IN_FLIGHT: usize = 16_384;

/// Allocated only while there is something to wait for.
#[derive(Default)]
pub(crate) struct Pending {
    /// Behind the authentication that is in flight.
    waiting: VecDeque<Command>,
    waiting_bytes: usize,
    /// By the op of their action.
    operations: HashMap<OpId, Operation>,
    /// The operations that make a subscription, by what they subscribe to.
    making: BTreeMap<Topic, OpId>,
    /// The operations that take a snapshot, by its channel.
    snapshots: BTreeMap<Channel, OpId>,
    /// Lists whose outcomes are not all there. Their ops are not the edge's.
    batches: HashMap<OpId, Batch>,
    /// Names in `batches`.
    names: usize,
    /// Commands whose reply has to come out of `operations` or `batches`; a refresh is not counted, there is at most one.
    in_flight: usize,
}

/// Something the edge has been asked to do.
#[derive(Debug)]
pub(crate) enum Operation {
    Connect(Opening),
    Refresh { id: u64 },
    Subscribe { topic: Topic, askers: Askers, watch: Watch },
    Publish { id: u64 },
    History { id: u64 },
    Presence { id: u64 },
    Snapshot { channel: Channel },
}

/// What the session was connected by, and so how it is told.
#[derive(Debug)]
pub(crate) enum Opening {
    Command { id: u64 },
    Handshake { channels: Vec<Asked> },
}

/// Who is told about a subscription. Nearly always one.
pub(crate) type Askers = SmallVec<[Asker; 1]>;

#[derive(Clone, Copy, Debug)]
pub(crate) enum Asker {
    Command { id: u64 },
    Handshake,
    Batch { batch: OpId, index: u32 },
}

/// A `subscribe` with a list.
struct Batch {
    id: u64,
    outcomes: Vec<SubscriptionOutcome>,
    missing: usize,
}

/// The outcomes of a list, all of them.
pub(crate) struct FinishedBatch {
    pub(crate) id: u64,
    pub(crate) outcomes: Vec<SubscriptionOutcome>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.operations.is_empty() && self.batches.is_empty() && self.in_flight == 0
    }

    /// Keeps a command until the session is connected.
    pub(crate) fn wait(&mut self, command: Command, max_commands: usize) -> Result<(), ErrorBody> {
        if self.waiting.len() >= max_commands {
            let message = format!("{max_commands} commands wait for the connect; more are not allowed");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        let bytes = weight(&command);
        if !self.waiting.is_empty() && self.waiting_bytes + bytes > WAITING_BYTES {
            let message = format!("the commands that wait for the connect are over {WAITING_BYTES} bytes");
            return Err(ErrorBody::new(ErrorCode::LimitExceeded, message));
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(command);
        Ok(())
    }

    pub(crate) fn take_waiting(&mut self) -> VecDeque<Command> {
        self.waiting_bytes = 0;
        std::mem::take(&mut self.waiting)
    }

    /// Whether the op is in use.
    pub(crate) fn knows(&self, op: OpId) -> bool {
        self.operations.contains_key(&op) || self.batches.contains_key(&op)
    }

    pub(crate) fn operation(&self, op: OpId) -> Option<&Operation> {
        self.operations.get(&op)
    }

    pub(crate) fn is_refreshing(&self) -> bool {
        self.operations.values().any(|operation| matches!(operation, Operation::Refresh { .. }))
    }

    /// Commands in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Subscriptions that are being made.
    pub(crate) fn making(&self) -> impl ExactSizeIterator<Item = &Topic> {
        self.making.keys()
    }

    /// Whether a list of this many names may wait for its outcomes.
    pub(crate) fn has_room_for_names(&self, names: usize) -> bool {
        self.names == 0 || self.names + names <= NAMES_IN_FLIGHT
    }

    pub(crate) fn begin(&mut self, op: OpId, operation: Operation) {
        match &operation {
            Operation::Publish { .. } | Operation::History { .. } | Operation::Presence { .. } => self.in_flight += 1,
            Operation::Subscribe { topic, askers, .. } => {
                self.in_flight += askers.iter().filter(|asker| matches!(asker, Asker::Command { .. })).count();
                self.making.insert(topic.clone(), op);
            }
            Operation::Snapshot { channel } => {
                self.snapshots.insert(channel.clone(), op);
            }
            Operation::Connect(_) | Operation::Refresh { .. } => {}
        }
        self.operations.insert(op, operation);
    }

    /// Whether a subscription is being made.
    pub(crate) fn is_making(&self, topic: &Topic) -> bool {
        self.making.contains_key(topic)
    }

    /// Adds who asks to a subscription that is being made, if it is. Of several who say what they want to be told the last
    /// one counts.
    pub(crate) fn join(&mut self, topic: &Topic, asker: Asker, also: Watch) {
        let operation = self.making.get(topic).and_then(|op| self.operations.get_mut(op));
        let Some(Operation::Subscribe { askers, watch, .. }) = operation else { return };
        askers.push(asker);
        if also != Watch::Default {
            *watch = also;
        }
        self.in_flight += usize::from(matches!(asker, Asker::Command { .. }));
    }

    /// Takes an operation out, completed. A subscription's askers are answered one by one, see [`answered`](Self::answered).
    pub(crate) fn finish(&mut self, op: OpId) -> Option<Operation> {
        let operation = self.operations.remove(&op)?;
        match &operation {
            Operation::Publish { .. } | Operation::History { .. } | Operation::Presence { .. } => self.in_flight -= 1,
            Operation::Subscribe { topic, .. } => {
                self.making.remove(topic);
            }
            Operation::Snapshot { channel } => {
                self.snapshots.remove(channel);
            }
            Operation::Connect(_) | Operation::Refresh { .. } => {}
        }
        Some(operation)
    }

    /// Takes a subscription that is being made out, given up.
    pub(crate) fn give_up(&mut self, topic: &Topic) -> Option<Askers> {
        let op = *self.making.get(topic)?;
        match self.finish(op)? {
            Operation::Subscribe { askers, .. } => Some(askers),
            other => unreachable!("making names operations that subscribe, not {other:?}"),
        }
    }

    /// Whether the snapshot of a channel is still to come.
    pub(crate) fn waits_for_snapshot(&self, of: &Channel) -> bool {
        self.snapshots.contains_key(of)
    }

    /// Nobody waits for the snapshot of a channel any more.
    pub(crate) fn forget_snapshot(&mut self, of: &Channel) {
        if let Some(op) = self.snapshots.get(of).copied() {
            self.finish(op);
        }
    }

    /// A single `subscribe` has been answered.
    pub(crate) fn answered(&mut self) {
        self.in_flight -= 1;
    }

    pub(crate) fn begin_batch(&mut self, batch: OpId, id: u64, outcomes: Vec<SubscriptionOutcome>, missing: usize) {
        self.in_flight += 1;
        self.names += outcomes.len();
        self.batches.insert(batch, Batch { id, outcomes, missing });
    }

    /// Notes one outcome of a list; the last one gives all of them.
    pub(crate) fn note_outcome(&mut self, batch: OpId, index: u32, error: Option<ErrorBody>) -> Option<FinishedBatch> {
        let open = self.batches.get_mut(&batch)?;
        open.outcomes[index as usize].error = error;
        open.missing -= 1;
        if open.missing > 0 {
            return None;
        }
        let Batch { id, outcomes, .. } = self.batches.remove(&batch)?;
        self.in_flight -= 1;
        self.names -= outcomes.len();
        Some(FinishedBatch { id, outcomes })
    }
}

/// The bytes that a waiting command takes, about.
fn weight(command: &Command) -> usize {
    let names = |names: &[String]| names.iter().map(|name| size_of::<String>() + name.len()).sum();
    let position = |position: &Position| position.epoch.as_str().len();
    let asked = |asked: &Asked| asked.name.len() + asked.start.since.as_ref().map_or(0, position);
    let text = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let heap = match &command.kind {
        CommandKind::Connect { token } => text(token),
        CommandKind::Subscribe(one) => asked(one),
        CommandKind::SubscribeMany { channels } => channels.iter().map(|one| size_of::<Asked>() + asked(one)).sum(),
        CommandKind::Unsubscribe { channel } => channel.len(),
        CommandKind::UnsubscribeMany { channels } => names(channels),
        CommandKind::History(history) => {
            let of_range = match &history.range {
                HistoryRange::Since(at) | HistoryRange::Before(Some(at)) => position(at),
                HistoryRange::Before(None) => 0,
            };
            size_of::<HistoryCommand>() + history.channel.len() + of_range
        }
        CommandKind::Publish(publish) => {
            publish.channel.len()
                + publish.event.len()
                + publish.data.as_ref().map_or(0, |data| data.get().len())
                + text(&publish.key)
                + text(&publish.publication_id)
        }
        CommandKind::Refresh { token } => token.len(),
        CommandKind::Presence(presence) => {
            size_of::<PresenceCommand>() + presence.channel.len() + text(&presence.after)
        }
        CommandKind::SetPresence(set) => {
            let info = set.info.iter().flatten().map(|info| info.get().len()).sum::<usize>();
            size_of::<SetPresenceCommand>() + text(&set.channel) + text(&set.state) + info
        }
        CommandKind::Signal(signal) => {
            let data = signal.data.as_ref().map_or(0, |data| data.get().len());
            size_of::<SignalCommand>() + signal.channel.len() + signal.event.len() + data
        }
        CommandKind::Ping { .. } => 0,
    };
    size_of::<Command>() + heap
}

#[cfg(test)]
mod tests {
    use fanfare_protocol::{Epoch, Start};

    use super::*;

    #[test]
    fn positions_weigh_what_they_hold() {
        let epoch = "e".repeat(Epoch::BYTES);
        let position = || Position { offset: 1, epoch: Epoch::parse(&epoch).unwrap() };
        let weigh = |kind| weight(&Command { id: 1, kind });
        let asked = |since| Asked { name: "log:a".into(), start: Start { since, rewind: 0 }, ..Asked::default() };
        let one = weigh(CommandKind::Subscribe(asked(None)));
        assert_eq!(weigh(CommandKind::Subscribe(asked(Some(position())))), one + Epoch::BYTES);
        let list = |since: Option<Position>| weigh(CommandKind::SubscribeMany { channels: vec![asked(since); 10] });
        assert_eq!(list(Some(position())), list(None) + 10 * Epoch::BYTES);
        assert!(list(None) > 10 * size_of::<Asked>());
        let history = |range| {
            let command = HistoryCommand { channel: "log:a".into(), range, limit: 1 };
            weigh(CommandKind::History(Box::new(command)))
        };
        let newest = history(HistoryRange::Before(None));
        assert!(newest > size_of::<Command>() + size_of::<HistoryCommand>());
        for range in [HistoryRange::Since(position()), HistoryRange::Before(Some(position()))] {
            assert_eq!(history(range), newest + Epoch::BYTES);
        }
    }
}
