//! Fan-out in rounds: what is published at once, and waited for before the next.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{
    LoadError,
    engine::{CONNECTING, Engine},
    process::{self, Spent},
    publisher::Publisher,
    tally::{Tally, percentile},
    target::Target,
};

/// How long all deliveries of a round may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long all sockets together may take to be subscribed.
pub(crate) const OPENING: Duration = Duration::from_secs(300);

/// What to run.
#[derive(Debug, Args)]
pub(crate) struct Options {
    #[command(flatten)]
    target: Target,
    /// Rounds: each is published at once, and waited for before the next. With none, only idle memory is measured.
    #[arg(long, default_value_t = 100)]
    rounds: usize,
    /// Messages in one round, on each channel.
    #[arg(long, default_value_t = 1)]
    burst: usize,
    /// Seconds to wait before memory is read: allocators give back what the handshakes needed only after a while.
    #[arg(long, default_value_t = 0)]
    settle: u64,
}

pub(crate) fn run(options: &Options) -> Result<(), LoadError> {
    let target = &options.target;
    let before = process::anonymous_bytes(&target.pids)?;
    let epoch = Instant::now();
    let mut tally = Tally::new(target, target.sockets, epoch);
    let mut engine = Engine::new(target, CONNECTING)?;
    engine.open_all(OPENING, &mut tally)?;
    engine.run(Instant::now() + Duration::from_secs(options.settle), &mut tally, |_, _| false)?;
    let idle = process::anonymous_bytes(&target.pids)?.saturating_sub(before);

    let spent = if options.rounds > 0 {
        engine.attach(Publisher::connect(target, epoch)?)?;
        // The first round warms caches and buffers, and is not counted.
        rounds(options, 1, &mut engine, &mut tally)?;
        tally.reset();
        let before = target.usage()?;
        rounds(options, options.rounds, &mut engine, &mut tally)?;
        let spent = target.usage()?.since(&before);
        tally.lost(|_| (options.rounds * options.burst) as u64)?;
        Some(spent)
    } else {
        None
    };
    report(options, &mut tally, spent.as_ref(), idle);
    Ok(())
}

fn rounds(options: &Options, rounds: usize, engine: &mut Engine<'_>, tally: &mut Tally) -> Result<(), LoadError> {
    let per_round = (options.burst * options.target.sockets) as u64;
    let mut expected = tally.total();
    for _ in 0..rounds {
        let now = Instant::now();
        for channel in 0..options.target.channels {
            engine.publisher().publish(channel, options.burst, now);
        }
        engine.publisher().flush()?;
        expected += per_round;
        let all = engine.run(now + DEADLINE, tally, |_, tally| tally.total() >= expected || tally.closed() > 0)?;
        tally.all_are_there()?;
        if !all {
            let got = tally.total();
            return Err(LoadError::Failed(format!("{got} of {expected} messages came within {DEADLINE:?}")));
        }
    }
    Ok(())
}

fn report(options: &Options, tally: &mut Tally, spent: Option<&Spent>, idle: u64) {
    let sockets = options.target.sockets;
    let deliveries = (options.rounds * options.burst * sockets) as f64;
    // Where nothing was delivered there is no cost of a delivery, which JSON shows as null.
    let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries;
    let latencies = tally.latencies();
    crate::say(&serde_json::json!({
        "sockets": sockets,
        "channels": options.target.channels,
        "rounds": options.rounds,
        "burst": options.burst,
        "bytes": options.target.bytes,
        "cpu_us_per_delivery": spent.map(|spent| per_delivery(spent.server)),
        "broker_us_per_delivery": spent.and_then(|spent| spent.broker).map(per_delivery),
        "client_us_per_delivery": spent.map(|spent| per_delivery(spent.load)),
        "deliveries_per_s": spent.map(|spent| deliveries / spent.wall.as_secs_f64()),
        "latency_p50_ms": percentile(latencies, 0.5),
        "latency_p99_ms": percentile(latencies, 0.99),
        "idle_bytes_per_socket": idle as f64 / sockets as f64,
    }));
}
