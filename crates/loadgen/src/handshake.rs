//! Connections that come and go: what a handshake costs until its subscription is confirmed, and what a close costs.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{
    LoadError,
    engine::{CONNECTING, Engine},
    process::{self, Spent},
    tally::{Tally, percentile},
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
    let target = &options.target;
    let mut engine = Engine::new(target, options.concurrency)?;
    let mut sum = Sum::default();
    let mut tally = Tally::new(target, target.sockets, Instant::now());
    for round in 0..=options.rounds {
        if round == 1 {
            tally = Tally::new(target, target.sockets, Instant::now());
        }
        let without = process::descriptors(&target.pids)?;
        let before = target.usage()?;
        engine.open_all(OPENING, &mut tally)?;
        let opened = target.usage()?;
        engine.cut_all(false);
        process::wait_until_closed(&target.pids, without, CLOSING)?;
        let closed = target.usage()?;
        if round > 0 {
            sum.add(&opened.since(&before), &closed.since(&opened));
        }
    }
    report(options, &mut tally, &sum);
    Ok(())
}

fn report(options: &Options, tally: &mut Tally, sum: &Sum) {
    let handshakes = (options.target.sockets * options.rounds) as f64;
    let each = |cpu: Duration| cpu.as_secs_f64() * 1e6 / handshakes;
    let took = tally.opening();
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
