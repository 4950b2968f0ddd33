//! Open sockets and a publisher, with an account of what was sent and what must have come.

use std::time::{Duration, Instant};

use crate::{
    LoadError,
    engine::{CONNECTING, Engine},
    process,
    publisher::Publisher,
    tally::Tally,
    target::Target,
};

/// How long all sockets together may take to be subscribed.
pub(crate) const OPENING: Duration = Duration::from_secs(120);
/// When nothing came for so long, nothing more is to come.
const QUIET: Duration = Duration::from_secs(2);

/// The sockets of a run. The first `steady` must get all that is published on their channels.
pub(crate) struct Traffic<'a> {
    pub(crate) target: &'a Target,
    pub(crate) engine: Engine<'a>,
    pub(crate) tally: Tally,
    /// User memory of the servers per socket, once all were open.
    pub(crate) idle_bytes: f64,
    epoch: Instant,
    subscribers: Vec<u64>,
    published: Vec<u64>,
    expected: u64,
}

impl<'a> Traffic<'a> {
    /// Opens all sockets, and waits until allocators have settled. `prepare` comes before the first connects.
    pub(crate) fn open(
        target: &'a Target,
        steady: usize,
        settle: Duration,
        prepare: impl FnOnce(&mut Engine<'a>),
    ) -> Result<Self, LoadError> {
        let before = process::anonymous_bytes(&target.pids)?;
        let epoch = Instant::now();
        let mut tally = Tally::new(target, steady, epoch);
        let mut engine = Engine::new(target, CONNECTING)?;
        prepare(&mut engine);
        engine.open_all(OPENING, &mut tally)?;
        engine.run(Instant::now() + settle, &mut tally, |_, _| false)?;
        let idle = process::anonymous_bytes(&target.pids)?.saturating_sub(before);
        Ok(Self {
            target,
            epoch,
            engine,
            tally,
            idle_bytes: idle as f64 / target.sockets as f64,
            subscribers: (0..target.channels).map(|channel| target.subscribers(channel, steady) as u64).collect(),
            published: vec![0; target.channels],
            expected: 0,
        })
    }

    /// Connects the publisher, which is needed before anything is published.
    pub(crate) fn attach_publisher(&mut self) -> Result<(), LoadError> {
        self.engine.attach(Publisher::connect(self.target, self.epoch)?)
    }

    /// Publishes `count` events on a channel; they go out with [`Traffic::flush`].
    pub(crate) fn publish(&mut self, channel: usize, count: usize, at: Instant) {
        self.engine.publisher().publish(channel, count, at);
        self.published[channel] += count as u64;
        self.expected += count as u64 * self.subscribers[channel];
    }

    /// Sends what was published.
    pub(crate) fn flush(&mut self) -> Result<(), LoadError> {
        self.engine.publisher().flush()
    }

    /// Deals with what comes until `until` at most.
    pub(crate) fn turn(&mut self, until: Instant) -> Result<(), LoadError> {
        self.engine.turn(Some(until), &mut self.tally)
    }

    /// Deliveries to steady sockets that have not come yet.
    pub(crate) fn outstanding(&self) -> u64 {
        self.expected.saturating_sub(self.tally.total())
    }

    /// Waits until all has come, or nothing comes any more, or `within` is over. Says whether all has come.
    pub(crate) fn settle(&mut self, within: Duration) -> Result<bool, LoadError> {
        let (expected, mut last, mut changed) = (self.expected, self.tally.deliveries(), Instant::now());
        let deadline = changed + within;
        while self.tally.total() < expected && Instant::now() < deadline.min(changed + QUIET) {
            self.engine.turn(Some(deadline.min(changed + QUIET)), &mut self.tally)?;
            let now = self.tally.deliveries();
            if now != last {
                (last, changed) = (now, Instant::now());
            }
        }
        Ok(self.tally.total() >= expected)
    }

    /// How many events steady sockets miss of what was published since the last reset.
    pub(crate) fn lost(&self) -> Result<u64, LoadError> {
        self.tally.lost(|socket| self.published[self.target.channel(socket)])
    }

    /// Begins a new account, when all of the old one has come or is given up.
    pub(crate) fn reset(&mut self) {
        self.tally.reset();
        self.published.fill(0);
        self.expected = 0;
    }
}
