//! Presence churn: members leave and come back, and others of their channel are told.
//!
//! The first sockets watch and stay; the others take turns to leave by `unsubscribe` and to come back by `subscribe`. To be told of
//! each change, the server must have no grace, and gather changes for less than a member is away.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use clap::Args;
use memchr::memmem::Finder;

use crate::{
    LoadError,
    engine::{CONNECTING, Engine, Hooks, frame::Frame},
    literal::Literal,
    process::Spent,
    target::Target,
};

/// How long all sockets may take to be opened.
const OPENING: Duration = Duration::from_secs(120);
/// Watchers are told of the members that came first when nothing more has come for so long.
const QUIET: Duration = Duration::from_secs(2);
/// How long that may take.
const SETTLING: Duration = Duration::from_secs(60);
/// How long watchers may take to be told of the last change.
const TELLING: Duration = Duration::from_secs(15);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Changes per second: half of them leave, half come back.
    #[arg(long, default_value_t = 100.0)]
    churn: f64,
    /// Seconds of churn.
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Sockets that stay, the first ones; where missing one for each channel, or half of all where that is less.
    #[arg(long)]
    watchers: Option<usize>,
    /// Seconds that a member is away.
    #[arg(long, default_value_t = 1.0)]
    away: f64,
    /// The channel that the commands name.
    #[arg(long, default_value = "bench:{n}")]
    channel: String,
}

impl Options {
    fn watchers(&self) -> usize {
        self.watchers.unwrap_or(self.target.channels.min(self.target.sockets / 2))
    }
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let target = &options.target;
    let schedule = Schedule::new(options)?;
    let mut watchers = Watchers::new(options.watchers());
    let mut engine = Engine::new(target, CONNECTING)?;
    engine.open_all(OPENING, &mut watchers)?;
    settle(&mut engine, &mut watchers)?;
    watchers.told = 0;

    let (mut changes, mut expected) = (0, 0);
    let before = target.usage()?;
    let begun = Instant::now();
    for Change { at, member, leaves } in schedule {
        engine.run(begun + at, &mut watchers, |_, watchers| watchers.reason.is_some())?;
        watchers.check()?;
        let channel = target.filled(&options.channel, member);
        engine.send(member, &if leaves { unsubscribe(&channel) } else { subscribe(&channel) })?;
        changes += 1;
        expected += target.subscribers(target.channel(member), options.watchers()) as u64;
    }
    let all = Instant::now() + TELLING;
    engine.run(all, &mut watchers, |_, watchers| watchers.told >= expected || watchers.reason.is_some())?;
    watchers.check()?;
    report(options, changes, expected, &watchers, &target.usage()?.since(&before));
    Ok(())
}

/// Until watchers have been told of those who came first.
fn settle(engine: &mut Engine<'_>, watchers: &mut Watchers) -> Result<(), LoadError> {
    let deadline = Instant::now() + SETTLING;
    loop {
        let told = watchers.told;
        engine.run(Instant::now() + QUIET, watchers, |_, _| false)?;
        watchers.check()?;
        if watchers.told == told {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(LoadError::Failed(format!("changes are still told {SETTLING:?} after all sockets were open")));
        }
    }
}

fn report(options: &Options, changes: u64, expected: u64, watchers: &Watchers, spent: &Spent) {
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / changes as f64;
    crate::say(&serde_json::json!({
        "sockets": options.target.sockets,
        "channels": options.target.channels,
        "watchers": options.watchers(),
        "churn": options.churn,
        "seconds": options.seconds,
        "cpu_us_per_change": each(spent.server),
        "broker_us_per_change": spent.broker.map(each),
        "server_load": spent.server.as_secs_f64() / spent.wall.as_secs_f64(),
        "changes": changes,
        "events": watchers.told,
        "expected_events": expected,
    }));
}

fn subscribe(channel: &str) -> Literal {
    command(&format!(r#"{{"id":2,"type":"subscribe","channel":"{channel}"}}"#))
}

fn unsubscribe(channel: &str) -> Literal {
    command(&format!(r#"{{"id":3,"type":"unsubscribe","channel":"{channel}"}}"#))
}

fn command(text: &str) -> Literal {
    Literal { bytes: text.as_bytes().to_vec(), binary: false }
}

/// A member that leaves or comes back, at a time since the beginning.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    at: Duration,
    member: usize,
    leaves: bool,
}

/// When who leaves and comes back. Leaving ends after the seconds of churn, and all come back.
struct Schedule {
    members: std::iter::Cycle<std::ops::Range<usize>>,
    leaves: u32,
    left: u32,
    period: Duration,
    away: Duration,
    returning: VecDeque<Change>,
}

impl Schedule {
    fn new(options: &Options) -> Result<Self, LoadError> {
        let (watchers, sockets) = (options.watchers(), options.target.sockets);
        let per_second = options.churn / 2.0;
        let away = per_second * options.away;
        if away.is_nan() || sockets < watchers || away >= (sockets - watchers) as f64 {
            let reason = format!(
                "{sockets} sockets of which {watchers} watch are too few for {away} that are away at a time: --sockets, --watchers, --churn, --away"
            );
            return Err(LoadError::Failed(reason));
        }
        Ok(Self {
            members: (watchers..sockets).cycle(),
            leaves: (per_second * options.seconds) as u32,
            left: 0,
            period: Duration::from_secs_f64(1.0 / per_second),
            away: Duration::from_secs_f64(options.away),
            returning: VecDeque::new(),
        })
    }
}

impl Iterator for Schedule {
    type Item = Change;

    fn next(&mut self) -> Option<Change> {
        let leaving = (self.left < self.leaves).then(|| self.period * self.left);
        let returning = self.returning.front().map(|change| change.at);
        let at = match (leaving, returning) {
            (Some(leaving), Some(returning)) if leaving < returning => leaving,
            (Some(leaving), None) => leaving,
            _ => return self.returning.pop_front(),
        };
        let member = self.members.next()?;
        self.left += 1;
        self.returning.push_back(Change { at: at + self.away, member, leaves: false });
        Some(Change { at, member, leaves: true })
    }
}

/// Counts what the first sockets are told.
struct Watchers {
    sockets: usize,
    told: u64,
    change: Finder<'static>,
    reason: Option<String>,
}

impl Watchers {
    fn new(sockets: usize) -> Self {
        Self { sockets, told: 0, change: Finder::new(br#""event":"presence:change""#), reason: None }
    }

    /// An error where the server ended a socket.
    fn check(&self) -> Result<(), LoadError> {
        self.reason.clone().map_or(Ok(()), |reason| Err(LoadError::Failed(reason)))
    }
}

impl Hooks for Watchers {
    fn message(&mut self, socket: usize, frame: &Frame<'_>) {
        if socket < self.sockets && self.change.find(frame.payload).is_some() {
            self.told += 1;
        }
    }

    fn closed(&mut self, _: usize, reason: &str) {
        self.reason.get_or_insert_with(|| reason.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::parsed;

    fn options(more: &[&str]) -> Options {
        let always = ["--server", "127.0.0.1:1", "--pid", "1"];
        parsed(always.iter().chain(more))
    }

    #[test]
    fn whoever_leaves_comes_back_and_nobody_leaves_twice_before() {
        let options =
            options(&["--sockets", "40", "--channels", "4", "--churn", "20", "--seconds", "3", "--away", "2"]);
        let changes: Vec<_> = Schedule::new(&options).unwrap().collect();
        assert_eq!(changes.len(), 60, "20 changes per second for 3 seconds");
        assert!(changes.is_sorted_by_key(|change| change.at));
        let mut away = std::collections::HashSet::new();
        for Change { member, leaves, .. } in &changes {
            assert!((4..40).contains(member), "a watcher stays");
            assert!(if *leaves { away.insert(*member) } else { away.remove(member) });
        }
        assert!(away.is_empty());
        let late = changes.iter().filter(|change| change.at >= Duration::from_secs(3));
        assert!(late.clone().count() > 0 && late.clone().all(|change| !change.leaves));
    }

    #[test]
    fn more_than_there_are_cannot_be_away() {
        let few = options(&["--sockets", "10", "--channels", "5", "--churn", "20", "--away", "1"]);
        assert!(Schedule::new(&few).is_err());
        let enough = options(&["--sockets", "16", "--channels", "5", "--churn", "20", "--away", "1"]);
        assert!(Schedule::new(&enough).is_ok());
    }

    #[test]
    fn watchers_are_told_by_pushes_and_others_are_not_counted() {
        let mut watchers = Watchers::new(1);
        let push =
            Frame { opcode: 1, compressed: false, payload: br#"{"event":"presence:change","channel":"bench:0"}"# };
        watchers.message(0, &push);
        watchers.message(1, &push);
        watchers.message(0, &Frame { payload: br#"{"event":"system:subscribed"}"#, ..push });
        assert_eq!(watchers.told, 1);
    }
}
