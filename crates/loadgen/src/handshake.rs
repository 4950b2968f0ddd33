//! Connections that come and go: what a handshake costs until its subscription is confirmed, and what a close costs.

use std::{
    ops::Range,
    time::{Duration, Instant},
};

use clap::Args;

use crate::{
    LoadError,
    engine::{CONNECTING, Engine},
    opening::Opening,
    process::{self, Spent},
    tally::percentile,
    target::Target,
};

/// How long all sockets may take to be opened.
const OPENING: Duration = Duration::from_secs(120);
/// How long the server may take to let go of all that were closed.
const CLOSING: Duration = Duration::from_secs(60);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Sockets that connect at one time.
    #[arg(long, default_value_t = CONNECTING)]
    concurrency: usize,
    /// Rounds in each of which all sockets come and go. One more goes before them, and is not counted.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Options {
    /// The sockets of all rounds. Where each socket has a channel of its own each round has others: a server may keep its
    /// interest in those that nobody is on any more for a while, and what it costs to begin with one is wanted.
    fn all_rounds(&self) -> Target {
        let rounds = self.rounds + 1;
        let mut all = self.target.clone();
        if all.channels >= all.sockets {
            all.channels *= rounds;
        }
        all.sockets *= rounds;
        all
    }
}

/// What all rounds together took.
#[derive(Default)]
struct Sum {
    opening: Duration,
    opening_wall: Duration,
    broker: Option<Duration>,
    client: Duration,
    closing: Duration,
}

impl Sum {
    fn add(&mut self, opening: &Spent, closing: &Spent) {
        self.opening += opening.server;
        self.opening_wall += opening.wall;
        self.client += opening.load;
        self.broker = opening.broker.map(|broker| self.broker.unwrap_or_default() + broker);
        self.closing += closing.server;
    }
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let target = &options.all_rounds();
    let sockets = options.target.sockets;
    let mut engine = Engine::new(target, options.concurrency)?;
    let mut sum = Sum::default();
    let mut opening = Opening::default();
    for round in 0..=options.rounds {
        if round == 1 {
            opening = Opening::default();
        }
        let without = process::descriptors(&target.pids)?;
        let before = target.usage()?;
        open(&mut engine, round * sockets..(round + 1) * sockets, &mut opening)?;
        let opened = target.usage()?;
        engine.cut_all(false);
        process::wait_until_closed(&target.pids, without, CLOSING)?;
        let closed = target.usage()?;
        if round > 0 {
            sum.add(&opened.since(&before), &closed.since(&opened));
        }
    }
    report(options, &mut opening, &sum);
    Ok(())
}

/// Opens some of the engine's sockets.
fn open(engine: &mut Engine<'_>, sockets: Range<usize>, opening: &mut Opening) -> Result<(), LoadError> {
    let all = sockets.len();
    sockets.for_each(|socket| engine.dial(socket));
    engine.run(Instant::now() + OPENING, opening, |engine, opening| engine.pending() == 0 || opening.failed())?;
    opening.check()?;
    match engine.open() {
        open if open == all => Ok(()),
        open => Err(LoadError::Failed(format!("{open} of {all} sockets were open after {OPENING:?}"))),
    }
}

fn report(options: &Options, opening: &mut Opening, sum: &Sum) {
    let handshakes = (options.target.sockets * options.rounds) as f64;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / handshakes;
    let took = opening.took();
    crate::say(&serde_json::json!({
        "sockets": options.target.sockets,
        "channels": options.target.channels,
        "rounds": options.rounds,
        "concurrency": options.concurrency,
        "cpu_us_per_handshake": each(sum.opening),
        "broker_us_per_handshake": sum.broker.map(each),
        "client_us_per_handshake": each(sum.client),
        "handshakes_per_s": handshakes / sum.opening_wall.as_secs_f64(),
        "cpu_us_per_close": each(sum.closing),
        "latency_p50_ms": percentile(took, 0.5),
        "latency_p99_ms": percentile(took, 0.99),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::target::parsed;

    #[test]
    fn channels_of_their_own_are_new_in_each_round_and_others_the_same() {
        let channels = |sockets: usize, channels: &str| {
            let always = ["--server", "127.0.0.1:1", "--pid", "1", "--rounds", "2", "--sockets"];
            let text = sockets.to_string();
            let words = always.into_iter().chain([text.as_str(), "--channels", channels]);
            let all = parsed::<Options>(words).all_rounds();
            assert_eq!(all.sockets, 3 * sockets);
            (0..all.sockets).map(|socket| all.channel(socket)).collect::<Vec<_>>()
        };
        assert_eq!(channels(2, "2"), [0, 1, 2, 3, 4, 5]);
        assert_eq!(channels(2, "1"), [0; 6]);
        assert_eq!(channels(4, "2"), [0, 1].repeat(6));
    }
}
