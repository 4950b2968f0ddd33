//! What is done to a cluster in a run.

use std::time::Duration;

use crate::chance::Chance;

/// See the module. Nodes, channels, users and connections are chosen by numbers, modulo what is there.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// Calls and events are quick and none is lost, so that it can be said who must not be told to be away.
    pub(crate) is_calm: bool,
    /// With how long after the one before.
    pub(crate) steps: Vec<(Duration, Step)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// A connection of a user comes to a channel of a node; a new connection, or one that is there.
    Join {
        node: u64,
        place: u64,
        user: u64,
        again: bool,
    },
    Update {
        connection: u64,
        state: u64,
        info: u64,
    },
    /// It leaves one channel.
    Leave {
        connection: u64,
    },
    /// It leaves all, and perhaps its user comes back soon, to any node.
    Disconnect {
        connection: u64,
        returns: Option<(u64, Duration)>,
    },
    Watch {
        node: u64,
        place: u64,
        names: bool,
    },
    Unwatch {
        client: u64,
    },
    Count {
        node: u64,
        place: u64,
    },
    Crash {
        node: u64,
        until: Duration,
    },
    /// It goes in order, and its users come back to others.
    Drain {
        node: u64,
        until: Duration,
    },
    Pause {
        node: u64,
        until: Duration,
    },
    /// One node loses the store.
    Cut {
        node: u64,
        until: Duration,
    },
    /// All do.
    Outage {
        until: Duration,
        loses: bool,
    },
    /// The data is gone, and no connection.
    Flush,
}

impl Plan {
    pub(crate) fn draw(seed: u64) -> Self {
        let chance = Chance(seed);
        let mut draws = 0_u64;
        let mut draw = |below: u64| {
            draws += 1;
            chance.draw(("plan", draws)) % below
        };
        let count = 10 + draw(110);
        let pace = [30, 300, 1_500][draw(3) as usize];
        // Some runs without any of the great faults.
        let faults = draw(4) > 0;
        let mut steps = Vec::new();
        for _ in 0..count {
            let after = Duration::from_millis(draw(pace));
            let (node, place) = (draw(64), draw(64));
            let longest = [900, 12_000][draw(2) as usize];
            let until = Duration::from_millis(100 + draw(longest));
            let step = match draw(if faults { 100 } else { 90 }) {
                0..28 => Step::Join { node, place, user: draw(64), again: draw(3) == 0 },
                28..42 => Step::Update { connection: draw(64), state: draw(4), info: draw(3) },
                42..52 => Step::Leave { connection: draw(64) },
                52..66 => {
                    let returns = (draw(3) > 0).then(|| (draw(64), Duration::from_millis(draw(1_500))));
                    Step::Disconnect { connection: draw(64), returns }
                }
                66..80 => Step::Watch { node, place, names: draw(2) == 0 },
                80..86 => Step::Unwatch { client: draw(64) },
                86..90 => Step::Count { node, place },
                90..92 => Step::Crash { node, until },
                92..93 => Step::Drain { node, until },
                93..95 => Step::Pause { node, until },
                95..97 => Step::Cut { node, until },
                97..99 => Step::Outage { until, loses: draw(2) == 0 },
                _ => Step::Flush,
            };
            steps.push((after, step));
        }
        Self { seed, is_calm: draw(2) == 0, steps }
    }

    /// Leaves out what is not needed for the run to fail.
    pub(crate) fn shrink(self, reason: String, mut fails: impl FnMut(&Self) -> Option<String>) -> (Self, String) {
        let (mut plan, mut reason) = (self, reason);
        let mut part = plan.steps.len().div_ceil(2);
        while part > 0 {
            let mut from = 0;
            while from < plan.steps.len() {
                let mut less = plan.clone();
                let removed: Vec<_> = less.steps.drain(from..(from + part).min(plan.steps.len())).collect();
                // What follows stays when it was.
                if let Some((after, _)) = less.steps.get_mut(from) {
                    *after += removed.iter().map(|(after, _)| *after).sum::<Duration>();
                }
                match fails(&less) {
                    Some(still) => (plan, reason) = (less, still),
                    None => from += part,
                }
            }
            part /= 2;
        }
        (plan, reason)
    }
}
