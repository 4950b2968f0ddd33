//! Fan-out in rounds: what is published at once, and waited for before the next.

use std::time::{Duration, Instant};

use clap::Args;

use crate::{LoadError, process::Spent, tally::percentile, target::Target, traffic::Traffic};

/// How long all deliveries of a round may take.
const DEADLINE: Duration = Duration::from_secs(60);
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
    let mut traffic = Traffic::open(target, target.sockets, Duration::from_secs(options.settle), |_| {})?;
    let spent = if options.rounds > 0 {
        traffic.attach_publisher()?;
        // The first round warms caches and buffers, and is not counted.
        rounds(options, 1, &mut traffic)?;
        traffic.reset();
        let before = target.usage()?;
        rounds(options, options.rounds, &mut traffic)?;
        let spent = target.usage()?.since(&before);
        traffic.lost()?;
        Some(spent)
    } else {
        None
    };
    report(options, &mut traffic, spent.as_ref());
    Ok(())
}

fn rounds(options: &Options, rounds: usize, traffic: &mut Traffic<'_>) -> Result<(), LoadError> {
    for _ in 0..rounds {
        let now = Instant::now();
        (0..options.target.channels).for_each(|channel| traffic.publish(channel, options.burst, now));
        traffic.flush()?;
        while traffic.outstanding() > 0 {
            if now.elapsed() > DEADLINE {
                let missing = traffic.outstanding();
                return Err(LoadError::Failed(format!(
                    "{missing} deliveries of a round did not come within {DEADLINE:?}"
                )));
            }
            traffic.turn(now + DEADLINE)?;
            traffic.tally.all_are_there()?;
        }
    }
    Ok(())
}

fn report(options: &Options, traffic: &mut Traffic<'_>, spent: Option<&Spent>) {
    let sockets = options.target.sockets;
    let deliveries = (options.rounds * options.burst * sockets) as f64;
    // Where nothing was delivered there is no cost of a delivery, which JSON shows as null.
    let per_delivery = |cpu: Duration| cpu.as_secs_f64() * 1e6 / deliveries;
    let idle = traffic.idle_bytes;
    let latencies = traffic.tally.latencies();
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
        "idle_bytes_per_socket": idle,
    }));
}
